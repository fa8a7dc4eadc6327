"""The console scripts: parse the command line, call the Python API, print."""
