"""Simultaneous decoding: sessions, policies and the engine that advances them."""
