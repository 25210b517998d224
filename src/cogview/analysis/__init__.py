"""Looking inside a model: attention maps and scales, stability."""
