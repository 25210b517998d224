"""Experiments: generate images for prompts and score them with a judge."""
