"""Metrics: distances between sets of images, accuracies with intervals, colour names, rules for scenes."""
