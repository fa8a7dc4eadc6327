"""The console scripts: they parse, wire the layers together and report."""
