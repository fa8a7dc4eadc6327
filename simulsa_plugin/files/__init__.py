"""Files that survive a crash: atomic writes, journals, locks, checksums, dataset_info.json, and whose they are."""
