"""Whichever image tokenizer a directory holds: of one scale (``vqvae``) or of several (``hvqvae``)."""

from __future__ import annotations

from pathlib import Path

from cogview.config import load_json
from cogview.tokenizers.hvqvae import HierarchicalTokenizer
from cogview.tokenizers.storage import CONFIG
from cogview.tokenizers.vqvae import ImageTokenizer

AnyImageTokenizer = ImageTokenizer | HierarchicalTokenizer


def read_image_tokenizer(directory: str | Path) -> AnyImageTokenizer:
    """The image tokenizer in a directory, of the kind that its ``config.json`` names; CogViewError."""
    facts = load_json(Path(directory) / CONFIG)
    several = isinstance(facts, dict) and facts.get("architecture") == "hierarchical"
    return (HierarchicalTokenizer if several else ImageTokenizer).from_directory(directory)
