"""Recordings longer than the model's window: speech segments found while listening, and sliding windows."""
