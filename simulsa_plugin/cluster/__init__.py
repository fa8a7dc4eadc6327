"""Replicas of a model on the workers of a Ray cluster."""
