"""Offline rows to partial samples: select, truncate, speculate, accept, write."""
