"""Evaluation of models: do generated images show what their prompts ask for, and how good are they?

``experiments`` generates images and scores them, ``judges`` holds the networks that read images, ``metrics``
computes the figures. Every report carries the settings, seeds, hashes and versions behind its numbers.
"""
