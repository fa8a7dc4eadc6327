"""The only place that imports llamafactory."""
