"""COMET and XCOMET, computed by an interpreter of its own."""
