"""Judging models: attribute accuracy of generated pictures and the fidelity of image tokenizers.

``attributes.py`` asks whether a picture shows what its caption says (a classifier reads the pictures),
``reconstruction.py`` how much an image tokenizer loses. Every figure comes with the settings, seeds, hashes
and versions it was made with.
"""
