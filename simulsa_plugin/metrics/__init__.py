"""Pure functions over emission records; imports neither torch nor a model."""
