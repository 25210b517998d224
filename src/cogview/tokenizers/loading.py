"""Whichever image tokenizer a directory holds, and its two ways: an image to codes, codes to an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cogview.config import load_json
from cogview.errors import OutOfMemory, ran_out
from cogview.tokenizers.hvqvae import HierarchicalTokenizer
from cogview.tokenizers.saving import CONFIG
from cogview.tokenizers.vqvae import ImageTokenizer
from cogview.types import Grid, Ids

AnyImageTokenizer = ImageTokenizer | HierarchicalTokenizer


def read_image_tokenizer(directory: str | Path) -> AnyImageTokenizer:
    """The image tokenizer in a directory, of the kind that its ``config.json`` names; CogViewError."""
    facts = load_json(Path(directory) / CONFIG)
    several = isinstance(facts, dict) and facts.get("architecture") == "hierarchical"
    return (HierarchicalTokenizer if several else ImageTokenizer).from_directory(directory)


@torch.inference_mode()
def encode_image(tokenizer: AnyImageTokenizer, image: Image.Image | NDArray[np.uint8]) -> Ids:
    """Codes (rows * columns,) of an RGB image, or of pixels (height, width, 3) uint8, of the right size."""
    device = next(tokenizer.parameters()).device
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    codes: Ids = tokenizer.encode(pixels.to(device))[0].cpu().numpy()
    return codes


@torch.inference_mode()
def decode_image(tokenizer: AnyImageTokenizer, codes: Ids, grid: Grid) -> Image.Image:
    """The RGB image of codes (rows * columns,), clamped; one at a time, so that batches do not matter.

    Raises OutOfMemory.
    """
    device = next(tokenizer.parameters()).device
    try:
        image = tokenizer.decode(torch.from_numpy(codes)[None].to(device), grid)[0]
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        here = f"out of memory on {device} while painting {grid[0]} x {grid[1]} codes"
        raise OutOfMemory(here, "close other programs") from error
    pixels: NDArray[np.uint8] = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels)
