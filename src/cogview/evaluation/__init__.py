"""Judging models: attribute accuracy of generated images and the fidelity of image tokenizers.

``attributes.py`` asks whether an image shows what its caption says (a classifier reads the images),
``reconstruction.py`` how much an image tokenizer loses. Every figure comes with the settings, seeds, hashes
and versions it was made with.
"""
