"""Original checkpoints, read safely and made into model directories."""
