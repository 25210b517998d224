"""Model families on disk: the directory (``bundle``), its lazily loaded components, and image provenance.

``family.json`` names the components of a family; ``provenance`` writes an image's prompt, seed, settings and
model into its PNG file.
"""
