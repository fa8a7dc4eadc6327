"""Simultaneous decoding at every evaluation of a training."""
