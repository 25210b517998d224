"""Load an image tokenizer of either kind, encode an image to codes and decode codes to an image."""

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
    """Load the image tokenizer in a directory, of the kind named in ``config.json``; raises CogViewError."""
    config = load_json(Path(directory) / CONFIG)
    hierarchical = isinstance(config, dict) and config.get("architecture") == "hierarchical"
    return (HierarchicalTokenizer if hierarchical else ImageTokenizer).from_directory(directory)


def side_of(tokenizer: AnyImageTokenizer, codes: int) -> int:
    """The pixels along a side of ``codes`` codes; the pixels of one code need not be a whole number."""
    return tokenizer.image_size * codes // tokenizer.grid()[0]


@torch.inference_mode()
def encode_image(tokenizer: AnyImageTokenizer, image: Image.Image | NDArray[np.uint8]) -> Ids:
    """Codes (rows * columns,) of an RGB image, or of pixels (height, width, 3) uint8, of a suitable size."""
    device = next(tokenizer.parameters()).device
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    codes: Ids = tokenizer.encode(pixels.to(device))[0].cpu().numpy()
    return codes


@torch.inference_mode()
def decode_image(tokenizer: AnyImageTokenizer, codes: Ids, grid: Grid) -> Image.Image:
    """The RGB image of codes (rows * columns,), clamped; decoded alone, so that it does not depend on others.

    Raises OutOfMemory.
    """
    device = next(tokenizer.parameters()).device
    try:
        image = tokenizer.decode(torch.from_numpy(codes)[None].to(device), grid)[0]
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        message = f"out of memory on {device} while decoding {grid[0]} x {grid[1]} codes"
        raise OutOfMemory(message, "close other programs") from error
    pixels: NDArray[np.uint8] = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels)
