"""The interface between the method and a model: values and protocol."""
