"""Many pictures drawn for many prompts, resumably, by one process or several.

Prompts are drawn in fixed groups, each with a seed of its own, and kept as files; so a stopped run goes on
with the very pictures it would have drawn, and it does not matter which process drew which group.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.attributes import Drawer, load_picture, save_picture

Progress = Callable[[str, int, int], None]
Sampling = Mapping[str, int | float | str]
WHOLE = (0, 1)

__all__ = ["WHOLE", "Drawer", "Progress", "Prompts", "draw_prompts", "draw_texts", "rank_of", "run_folder"]


class Prompts(Protocol):
    """Draws one picture for each prompt."""

    def draw(self, prompts: Sequence[str], seed: int, sampling: Sampling) -> list[Image.Image]:
        """The pictures, in order."""
        ...


def run_folder(work: Path, name: str, facts: Mapping[str, object]) -> Path:
    """The folder below ``work`` of a run that ``facts`` (JSON) decide; what it is stands in ``run.json``.

    Raises:
        CogViewError: it cannot be written.
    """
    text = json.dumps(facts, ensure_ascii=False, sort_keys=True)
    folder = work / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise CogViewError(f"{folder}: cannot be written ({error.strerror}); choose another --work") from None
    return folder


def draw_prompts(
    prompts: Sequence[str],
    drawer: Prompts,
    folder: Path,
    seed: int = 0,
    sampling: Sampling | None = None,
    group: int = 20,
    rank: tuple[int, int] = WHOLE,
    what: str = "drawing",
    progress: Progress | None = None,
) -> list[Path] | None:
    """The PNG files of all prompts in order; those that are not there are drawn.

    Group g is drawn with the seed ``seed + g * group``. ``rank`` (i, n): draw only groups i, i + n, …;
    returns None while groups of others are missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:06d}.png" for i in range(len(prompts))]
    for first in range(0, len(prompts), group):
        own = slice(first, first + group)
        if first // group % rank[1] == rank[0] and not all(path.is_file() for path in paths[own]):
            drawn = drawer.draw(prompts[own], seed + first, sampling or {})
            for path, picture in zip(paths[own], drawn, strict=True):
                save_picture(picture, path)
        if progress:
            progress(what, min(first + group, len(prompts)), len(prompts))
    return paths if all(path.is_file() for path in paths) else None


def draw_texts(
    texts: Sequence[str],
    drawer: Drawer,
    work: Path,
    seed: int = 0,
    sampling: Sampling | None = None,
    group: int = 20,
    rank: tuple[int, int] = WHOLE,
    what: str = "drawing",
    progress: Progress | None = None,
) -> list[Path] | None:
    """:func:`draw_prompts` in a folder of ``work`` that model, texts and settings decide.

    Experiments with one ``work`` share what they draw.
    """
    facts = {
        "model": drawer.fingerprint,
        "precision": drawer.precision,
        "prompts": list(texts),
        "seed": seed,
        "batch": group,
        "sampling": dict(sampling or {}),
    }
    folder = run_folder(work, drawer.name, facts)
    return draw_prompts(texts, drawer, folder, seed, sampling, group, rank, what, progress)


def load_all(paths: Sequence[Path], shape: Preprocessing) -> NDArray[np.uint8]:
    """The pictures (n, size, size, 3) in ``paths``; CogViewError where one is broken."""
    return np.stack([load_picture(path, shape) for path in paths])


def rank_of(text: str, option: str = "--rank") -> tuple[int, int]:
    """(0-based number, of how many) of "2/4"; CogViewError names ``option``."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise CogViewError(f"{option} {text}: expected I/N with 1 <= I <= N, such as 2/4")
    return int(first) - 1, int(second)
