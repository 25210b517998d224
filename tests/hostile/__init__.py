"""Hostile input: the program run on files and requests that are made to break it."""
