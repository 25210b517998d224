"""Import of the original checkpoints: read safely and converted to model directories."""
