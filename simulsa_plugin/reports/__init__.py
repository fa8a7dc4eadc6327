"""Reports as single HTML files: one design, charts, players and tables, without a request to anywhere."""
