"""The method (arXiv 2509.15692): select, truncate, score, accept."""
