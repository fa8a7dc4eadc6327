"""The functions behind `simulsa_plugin`'s Python API; the console scripts call the same ones."""
