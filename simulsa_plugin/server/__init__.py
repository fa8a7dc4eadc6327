"""The live demo: a page and a WebSocket on one port, several speakers translated by one model."""
