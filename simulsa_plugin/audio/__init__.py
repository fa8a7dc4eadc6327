"""Reading, cropping and writing audio."""
