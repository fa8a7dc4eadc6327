"""What several test files share: fake models and datasets, kills, tiny checkpoints, other tools."""
