"""Generated images of an experiment, kept as files, so that a stopped run goes on where it was.

The folder of a store is named by a hash of everything that decides its images: model, precision, prompts,
seed, sampling parameters and what else an experiment varies. Images are generated in fixed groups, each with
a seed of its own; so a stopped run goes on with the very images it would have generated, and it does not
matter which of several processes generated which group.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cogview.config import load_json
from cogview.data.images import BadImage, decode, square
from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.reports import versions
from cogview.files import write_file, write_image

Progress = Callable[[str, int, int], None]
Sampling = Mapping[str, int | float | str]
Save = Callable[[Path], None]  # writes one image, whole or not at all
WHOLE = (0, 1)


class SamplePlan(Protocol):
    """How images of texts are generated: seed of the first, how many together, and with what settings."""

    @property
    def seed(self) -> int: ...

    @property
    def batch(self) -> int: ...

    @property
    def sampling(self) -> Sampling: ...


class Generator(Protocol):
    """What images come from; equal ``fingerprint``, ``precision`` and arguments give equal images."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the images would."""
        ...

    @property
    def precision(self) -> str:
        """How it computes: ``fp32`` or ``int8``."""
        ...


class ImageGenerator(Generator, Protocol):
    """Generates one image for each prompt."""

    def generate(self, prompts: Sequence[str], seed: int, sampling: Sampling) -> list[Image.Image]:
        """The images, in order."""
        ...


def report_facts(generator: Generator, **more: str | int | float) -> dict[str, str | int | float]:
    """What every report says of the generator it judged, and the versions; ``more``: of the experiment."""
    known = {"model": generator.name, "model_fingerprint": generator.fingerprint}
    return {**known, "precision": generator.precision, **more, **versions()}


class SampleStore:
    """A folder of images (``000000.png``, …) and what was measured of them.

    ``SampleStore.of`` names what decides the images; ``run.json`` in the folder says it.
    """

    def __init__(self, work: Path, name: str, facts: Mapping[str, object]) -> None:
        """The store below ``work`` that JSON ``facts`` decide; CogViewError where it cannot be written."""
        text = json.dumps(facts, ensure_ascii=False, sort_keys=True)
        self.folder = work / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "run.json").write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            reason = f"cannot be written ({error.strerror}); choose another --work"
            raise CogViewError(f"{self.folder}: {reason}") from None

    @classmethod
    def of(
        cls,
        work: Path,
        generator: Generator,
        prompts: Sequence[object],
        seed: int,
        sampling: Sampling,
        name: str = "",
        **more: object,
    ) -> SampleStore:
        """The store of a generator's images; ``more``: what else decides them, such as the group's size."""
        facts = {
            "model": generator.fingerprint,
            "precision": generator.precision,
            "prompts": list(prompts),
            "seed": seed,
            "sampling": dict(sampling),
            **more,
        }
        return cls(work, name or generator.name, facts)

    def path(self, index: int, candidate: int | None = None) -> Path:
        """The file of an image, or of one of several for the same prompt."""
        return self.folder / (f"{index:06d}.png" if candidate is None else f"{index:06d}-{candidate:02d}.png")

    def fill(
        self,
        count: int,
        make: Callable[[range], Iterable[Image.Image | Save]],
        group: int = 1,
        rank: tuple[int, int] = WHOLE,
        what: str = "drawing",
        progress: Progress | None = None,
    ) -> list[Path] | None:
        """The files of images 0 to ``count``; those that are missing are made, a whole group at a time.

        ``make`` gives the images of a range of numbers, or for each a function that writes its file. ``rank``
        (i, n): only groups i, i + n, … are made, and None is returned while those of others are missing.
        """
        paths = [self.path(i) for i in range(count)]
        for first in range(0, count, group):
            numbers = range(first, min(first + group, count))
            own = [paths[i] for i in numbers]
            if first // group % rank[1] == rank[0] and not all(path.is_file() for path in own):
                for path, made in zip(own, make(numbers), strict=True):
                    (made if callable(made) else partial(save_image, made))(path)
            if progress:
                progress(what, numbers.stop, count)
        return paths if all(path.is_file() for path in paths) else None

    def text(self, name: str, make: Callable[[], str]) -> str:
        """A text under a name, made where it is not kept."""
        path = self.folder / f"{name}.txt"
        if not path.is_file():
            write_file(path, make())
        return path.read_text("utf-8")

    def numbers(self, name: str, count: int, make: Callable[[], Sequence[float]]) -> list[float]:
        """``count`` numbers under a name, made where they are not kept; CogViewError for a damaged file."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            write_file(path, json.dumps(list(make())))
        found = load_json(path)
        if not isinstance(found, list) or len(found) != count:
            raise CogViewError(f"{path}: damaged; delete it to have its pictures drawn again")
        return [float(number) for number in found]


def generate_images(
    texts: Sequence[str],
    generator: ImageGenerator,
    work: Path,
    plan: SamplePlan,
    rank: tuple[int, int] = WHOLE,
    what: str = "drawing",
    progress: Progress | None = None,
) -> list[Path] | None:
    """An image of each text, as :meth:`SampleStore.fill`; experiments with one ``work`` share them.

    Images are generated ``plan.batch`` at a time; the group that begins with text i has ``plan.seed + i``.
    """
    store = SampleStore.of(work, generator, texts, plan.seed, plan.sampling, batch=plan.batch)

    def draw(numbers: range) -> list[Image.Image]:
        return generator.generate(
            texts[numbers.start : numbers.stop], plan.seed + numbers.start, plan.sampling
        )

    return store.fill(len(texts), draw, plan.batch, rank, what, progress)


def save_image(picture: Image.Image, path: Path) -> None:
    """Write a PNG that is either whole or not there."""
    write_image(path, picture.convert("RGB"))


def load_image(path: Path, shape: Preprocessing) -> NDArray[np.uint8]:
    """An image that :func:`save_image` wrote, (size, size, 3); CogViewError where it is broken."""
    try:
        return square(decode(path).image, shape)
    except BadImage as error:
        raise CogViewError(f"{path}: {error}; delete it to have it drawn again") from None


def load_all(paths: Sequence[Path], shape: Preprocessing) -> NDArray[np.uint8]:
    """The images (n, size, size, 3) in ``paths``; CogViewError where one is broken."""
    return np.stack([load_image(path, shape) for path in paths])


def parse_rank(text: str, option: str = "--rank") -> tuple[int, int]:
    """(0-based number, of how many) of "2/4"; CogViewError names ``option``."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise CogViewError(f"{option} {text}: expected I/N with 1 <= I <= N, such as 2/4")
    return int(first) - 1, int(second)
