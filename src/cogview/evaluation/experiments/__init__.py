"""Experiments: what is generated for which prompts, and which judge reads the images."""
