"""Reads released checkpoints without executing any code in them. Their layout on disk:

::

    <directory>/latest_checkpointed_iteration.txt     (or ``latest``) the iteration, or the word "release"
    <directory>/<iteration>/mp_rank_00_model_states.pt   one file per model-parallel rank, weights in "module"
    <directory>/model_config.json                     in later releases
"""

from __future__ import annotations

import errno
import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cogview.config import load_json
from cogview.errors import CogViewError
from cogview.files import check_regular, open_regular
from cogview.pickles import scan

MODEL_CONFIG = "model_config.json"
TRACKERS = ("latest_checkpointed_iteration.txt", "latest")
SHARD = re.compile(r"mp_rank_(\d{2,3})_model_states\.pt")
MAX_TRACKER_BYTES = 64
MAX_PICKLE = 64 << 20  # bytes
LEGACY_PICKLES = 5  # before PyTorch 1.6: magic number, version, system, content, names of storages
READ = 1 << 20  # bytes read at a time
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Allowed in a training checkpoint besides tensors and plain data: NumPy's random state, under its current
# module name and that of NumPy 1.
_ARRAY = np.empty(0).__reduce__()[0]
ALLOWED: tuple[Any, ...] = (
    (_ARRAY, "numpy._core.multiarray._reconstruct"),
    (_ARRAY, "numpy.core.multiarray._reconstruct"),
    (np.ndarray, "numpy.ndarray"),
    (np.dtype, "numpy.dtype"),
    type(np.dtype(np.uint32)),
)


def is_mapped(path: Path) -> bool:
    """Whether PyTorch can memory-map the file: since version 1.6 checkpoints are uncompressed zips.

    Raises:
        CogViewError: the zip is compressed, so that its tensors cannot be mapped.
    """
    check_regular(path)
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as file:
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist())
    except MemoryError:
        raise
    except Exception as error:  # struct.error, BadZipFile, UnicodeDecodeError, …
        raise CogViewError(f"{path}: damaged, or not a PyTorch checkpoint") from error
    if compressed:
        raise CogViewError(f"{path}: refused, its content is compressed, which PyTorch never writes")
    return True


def check_sums(path: Path) -> None:
    """Verify the checksums of a zipped checkpoint, which memory-mapping skips.

    Raises:
        CogViewError: a checksum differs: the file is damaged.
    """
    if not is_mapped(path):
        return
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            try:
                with file.open(entry) as part:
                    while entry.CRC and part.read(READ):  # 0: written without a checksum
                        pass
            except MemoryError:
                raise
            except Exception as error:
                raise CogViewError(f"{path}: damaged, {entry.filename} is not what was written") from error


def load_pickle(path: Path) -> Any:
    """Load a ``.pt`` file of tensors, plain containers, numbers and NumPy arrays; nothing else is allowed.

    Tensors are memory-mapped if the file's layout allows it, and read when they are used.

    Raises:
        CogViewError: the file is missing, not a PyTorch file, or has content that is not allowed.
    """
    _check_pickles(path)
    try:
        with torch.serialization.safe_globals(list(ALLOWED)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped(path))
    except CogViewError:
        raise
    except MemoryError as error:
        raise CogViewError(f"{path}: there is not enough memory for its content") from error
    except UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it loads {name[1]}" if name else "it holds more than tensors and plain data"
        raise CogViewError(f"{path}: refused, {reason}") from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # an offset beyond the end of the file
            raise CogViewError(f"{path}: damaged, or not a PyTorch checkpoint") from error
        raise CogViewError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # malicious files may raise anything
        raise CogViewError(f"{path}: damaged, or not a PyTorch checkpoint") from error


def _check_pickles(path: Path) -> None:
    """Raise CogViewError for a file whose pickles would allocate more memory than their size justifies."""
    try:
        if is_mapped(path):
            with zipfile.ZipFile(path) as file:
                entries = [entry for entry in file.infolist() if entry.filename.endswith(".pkl")]
                for entry in entries:
                    if entry.file_size > MAX_PICKLE:
                        raise UnpicklingError(f"a pickle of {entry.file_size:,} bytes")
                    del entry.CRC  # PyTorch may write none; check_sums verifies the others
                    scan(io.BytesIO(file.read(entry)))
            return
        with open_regular(path) as legacy:
            head = io.BytesIO(legacy.read(MAX_PICKLE))
        for _ in range(LEGACY_PICKLES):
            scan(head)
    except (CogViewError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or "damaged"
        raise CogViewError(f"{path}: damaged, or not a PyTorch checkpoint ({reason:.200})") from error


def map_weights(path: Path) -> dict[str, Tensor]:
    """The weights of one ``.pt`` file, memory-mapped as in :func:`load_pickle`.

    The released tensors are views of one flat buffer, as written by ZeRO.

    Raises:
        CogViewError: as :func:`load_pickle`, and if a weight is not a plain tensor of floats.
    """
    content = load_pickle(path)
    weights = content.get("module", content) if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not all(isinstance(x, Tensor) for x in weights.values()):
        raise CogViewError(f"{path}: it has no weights; they are expected under the key 'module'")
    _check_size(path, weights)
    for name, x in weights.items():
        if x.layout != torch.strided or x.device.type != "cpu" or x.dtype not in FLOATS:
            raise CogViewError(f"{path}: {name!s:.80} is not a plain tensor of floats")
    return {str(name).removeprefix("module."): tensor for name, tensor in weights.items()}


def _check_size(path: Path, weights: Mapping[Any, Tensor]) -> None:
    """Raise CogViewError for tensors that are larger than their storage or the file (expanded views).

    A tensor may occur under two names (tied embeddings), not more.
    """
    strided = [x for x in weights.values() if x.layout == torch.strided]
    expanded = any(x.numel() * x.element_size() > x.untyped_storage().nbytes() for x in strided)
    if expanded or sum(x.numel() * x.element_size() for x in strided) > 2 * path.stat().st_size:
        raise CogViewError(f"{path}: refused, its tensors are larger than the file")


def load_weights(path: Path) -> dict[str, Tensor]:
    """:func:`map_weights`, with each tensor copied into memory."""
    return {name: tensor.clone() for name, tensor in map_weights(path).items()}


def step_directory(directory: Path) -> Path:
    """The directory of the shards: that of the tracker's iteration, or ``directory`` if it holds them."""
    if any(SHARD.fullmatch(path.name) for path in directory.glob("mp_rank_*")):
        return directory
    tracker = next((directory / name for name in TRACKERS if (directory / name).is_file()), None)
    if tracker is None:
        raise CogViewError(f"{directory}: it has neither {TRACKERS[0]} nor mp_rank_*_model_states.pt")
    with open_regular(tracker) as file:
        iteration = file.read(MAX_TRACKER_BYTES).decode("ascii", "replace").strip()
    if iteration != "release" and not (iteration.isdecimal() and iteration.isascii()):
        raise CogViewError(f"{tracker}: expected an iteration or 'release', found {iteration[:20]!r}")
    return directory / iteration


def shards(source: str | Path) -> list[Path]:
    """The ``.pt`` files of a checkpoint in rank order; ``source`` may also be a single file.

    Raises:
        CogViewError: there are no shards, or one is missing.
    """
    if Path(source).is_file():
        return [Path(source)]
    step = step_directory(Path(source))
    by_rank = {int(match[1]): p for p in step.glob("mp_rank_*") if (match := SHARD.fullmatch(p.name))}
    if not by_rank:
        raise CogViewError(f"{step}: it has no mp_rank_00_model_states.pt")
    missing = sorted(set(range(max(by_rank) + 1)) - set(by_rank))
    if missing:
        raise CogViewError(
            f"{step}: mp_rank_{missing[0]:02d}_model_states.pt is missing; {len(by_rank)} others exist"
        )
    return [by_rank[rank] for rank in sorted(by_rank)]


def model_config(source: str | Path) -> dict[str, Any]:
    """``model_config.json`` of a later release, beside the tracker file; empty if there is none."""
    source = Path(source)
    path = next((p for p in (source / MODEL_CONFIG, source.parent / MODEL_CONFIG) if p.is_file()), None)
    data = load_json(path) if path else {}
    if not isinstance(data, dict):
        raise CogViewError(f"{path}: expected a JSON object")
    return data
