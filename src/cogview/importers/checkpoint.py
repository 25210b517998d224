"""The released checkpoints' layout on disk, read without running anything that is in them.

::

    <directory>/latest_checkpointed_iteration.txt     (or ``latest``) the iteration, or the word "release"
    <directory>/<iteration>/mp_rank_00_model_states.pt   one file a model-parallel rank, weights in "module"
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
READ = 1 << 20  # bytes at a time
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# What besides tensors and plain data a training checkpoint may hold: NumPy's random state, under the name
# its module has now and the one it had in NumPy 1.
_ARRAY = np.empty(0).__reduce__()[0]
ALLOWED: tuple[Any, ...] = (
    (_ARRAY, "numpy._core.multiarray._reconstruct"),
    (_ARRAY, "numpy.core.multiarray._reconstruct"),
    (np.ndarray, "numpy.ndarray"),
    (np.dtype, "numpy.dtype"),
    type(np.dtype(np.uint32)),
)


def is_mapped(path: Path) -> bool:
    """Whether PyTorch maps the file instead of reading it: since version 1.6 it writes uncompressed zips.

    Raises:
        CogViewError: a zip whose content is compressed, so that its numbers cannot be mapped.
    """
    check_regular(path)
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as file:
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist())
    except MemoryError:
        raise
    except Exception as error:  # struct.error, BadZipFile, UnicodeDecodeError, …
        raise CogViewError(f"{path}: damaged, or not a PyTorch checkpoint") from error
    if packed:
        raise CogViewError(f"{path}: refused, compressed inside, which PyTorch never writes")
    return True


def check_sums(path: Path) -> None:
    """Compare every part of a zipped checkpoint with its checksum, which mapping does not.

    Raises:
        CogViewError: one differs: the file was damaged on its way.
    """
    if not is_mapped(path):
        return
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            try:
                with file.open(entry) as part:
                    while entry.CRC and part.read(READ):  # 0: written without
                        pass
            except MemoryError:
                raise
            except Exception as error:
                raise CogViewError(f"{path}: damaged, {entry.filename} is not what was written") from error


def load_pickle(path: Path) -> Any:
    """The content of a ``.pt`` file: tensors, plain containers and numbers, NumPy arrays; nothing else.

    Tensors are mapped from the file where its form allows, and read when they are used.

    Raises:
        CogViewError: no such file, not PyTorch's, or it names something outside that list.
    """
    _look_at_pickles(path)
    try:
        with torch.serialization.safe_globals(list(ALLOWED)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped(path))
    except CogViewError:
        raise
    except MemoryError as error:
        raise CogViewError(f"{path}: what it holds takes more memory than there is") from error
    except UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it wants to load {name[1]}" if name else "it holds more than tensors and plain data"
        raise CogViewError(f"{path}: refused, {reason}") from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # a place in the file that is not there
            raise CogViewError(f"{path}: damaged, or not a PyTorch checkpoint") from error
        raise CogViewError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever a file made to break its reader may raise
        raise CogViewError(f"{path}: damaged, or not a PyTorch checkpoint") from error


def _look_at_pickles(path: Path) -> None:
    """CogViewError for a file whose pickles would take memory by what they say, not by what they hold."""
    try:
        if is_mapped(path):
            with zipfile.ZipFile(path) as file:
                names = [entry for entry in file.infolist() if entry.filename.endswith(".pkl")]
                for entry in names:
                    if entry.file_size > MAX_PICKLE:
                        raise UnpicklingError(f"a pickle of {entry.file_size:,} bytes")
                    del entry.CRC  # PyTorch may write without; check_sums looks at them
                    scan(io.BytesIO(file.read(entry)))
            return
        with open_regular(path) as whole:
            head = io.BytesIO(whole.read(MAX_PICKLE))
        for _ in range(LEGACY_PICKLES):
            scan(head)
    except (CogViewError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or "damaged"
        raise CogViewError(f"{path}: damaged, or not a PyTorch checkpoint ({reason:.200})") from error


def map_weights(path: Path) -> dict[str, Tensor]:
    """The weights of one ``.pt`` file; see :func:`load_pickle` for when they are read.

    The released tensors are views of one flat buffer that ZeRO left.

    Raises:
        CogViewError: also where they are not all plain tensors of floats.
    """
    content = load_pickle(path)
    weights = content.get("module", content) if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not all(isinstance(x, Tensor) for x in weights.values()):
        raise CogViewError(f"{path}: no weights there; they are expected under the key 'module'")
    _check_size(path, weights)
    for name, x in weights.items():
        if x.layout != torch.strided or x.device.type != "cpu" or x.dtype not in FLOATS:
            raise CogViewError(f"{path}: {name!s:.80} is not a plain tensor of floats")
    return {str(name).removeprefix("module."): tensor for name, tensor in weights.items()}


def _check_size(path: Path, weights: Mapping[Any, Tensor]) -> None:
    """CogViewError for tensors that are larger than what the file holds of them, as repeated views are.

    A tensor may be there under two names (tied embeddings), not more.
    """
    plain = [x for x in weights.values() if x.layout == torch.strided]
    wide = any(x.numel() * x.element_size() > x.untyped_storage().nbytes() for x in plain)
    if wide or sum(x.numel() * x.element_size() for x in plain) > 2 * path.stat().st_size:
        raise CogViewError(f"{path}: refused, its tensors are larger than the file")


def load_weights(path: Path) -> dict[str, Tensor]:
    """:func:`map_weights`, each tensor in memory of its own."""
    return {name: tensor.clone() for name, tensor in map_weights(path).items()}


def step_directory(directory: Path) -> Path:
    """The directory with the shards: the tracker's iteration, or ``directory`` where they lie there."""
    if any(SHARD.fullmatch(path.name) for path in directory.glob("mp_rank_*")):
        return directory
    tracker = next((directory / name for name in TRACKERS if (directory / name).is_file()), None)
    if tracker is None:
        raise CogViewError(f"{directory}: neither {TRACKERS[0]} nor mp_rank_*_model_states.pt is there")
    with open_regular(tracker) as file:
        iteration = file.read(MAX_TRACKER_BYTES).decode("ascii", "replace").strip()
    if iteration != "release" and not (iteration.isdecimal() and iteration.isascii()):
        raise CogViewError(f"{tracker}: expected an iteration or 'release', found {iteration[:20]!r}")
    return directory / iteration


def shards(source: str | Path) -> list[Path]:
    """The ``.pt`` files of a checkpoint in rank order; ``source`` may be the only one itself.

    Raises:
        CogViewError: nothing there, or one is missing.
    """
    if Path(source).is_file():
        return [Path(source)]
    step = step_directory(Path(source))
    found = {int(match[1]): p for p in step.glob("mp_rank_*") if (match := SHARD.fullmatch(p.name))}
    if not found:
        raise CogViewError(f"{step}: no mp_rank_00_model_states.pt there")
    missing = sorted(set(range(max(found) + 1)) - set(found))
    if missing:
        raise CogViewError(
            f"{step}: mp_rank_{missing[0]:02d}_model_states.pt is missing; {len(found)} others are"
        )
    return [found[rank] for rank in sorted(found)]


def model_config(source: str | Path) -> dict[str, Any]:
    """``model_config.json`` of a later release, beside the tracker file; else empty."""
    source = Path(source)
    path = next((p for p in (source / MODEL_CONFIG, source.parent / MODEL_CONFIG) if p.is_file()), None)
    data = load_json(path) if path else {}
    if not isinstance(data, dict):
        raise CogViewError(f"{path}: expected keys and values at the top")
    return data
