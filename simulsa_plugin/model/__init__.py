"""What the method asks of a model: values and protocol."""
