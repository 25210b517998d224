"""Model families on disk: the directory (``bundle``), its lazily loaded components, and where an image came
from.

``family.json`` names the components of a family; ``provenance`` writes into a PNG file what made the image.
"""
