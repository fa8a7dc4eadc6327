"""COMET and XCOMET, computed by a separate interpreter."""
