"""Storage for an experiment's generated images, so that an interrupted run resumes where it stopped.

The folder of a store is named after a hash of everything that determines its images: model, precision,
prompts, seed, sampling parameters and whatever else an experiment varies. Images are generated in fixed
groups, each with its own seed, so a resumed run gives the same images as an uninterrupted one, and several
processes can divide the groups between them.
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
Save = Callable[[Path], None]  # writes one image atomically
WHOLE = (0, 1)


class SamplePlan(Protocol):
    """How images are generated for texts: seed of the first, batch size, and sampling parameters."""

    @property
    def seed(self) -> int: ...

    @property
    def batch(self) -> int: ...

    @property
    def sampling(self) -> Sampling: ...


class Generator(Protocol):
    """A source of images; equal ``fingerprint``, ``precision`` and arguments give equal images."""

    @property
    def name(self) -> str:
        """The name in reports."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the images would."""
        ...

    @property
    def precision(self) -> str:
        """The precision of inference: ``fp32`` or ``int8``."""
        ...


class ImageGenerator(Generator, Protocol):
    """Generates one image for each prompt."""

    def generate(self, prompts: Sequence[str], seed: int, sampling: Sampling) -> list[Image.Image]:
        """One image per prompt, in order."""
        ...


def report_facts(generator: Generator, **more: str | int | float) -> dict[str, str | int | float]:
    """The facts of a report: the generator under evaluation, the experiment's ``more``, and the versions."""
    model = {"model": generator.name, "model_fingerprint": generator.fingerprint}
    return {**model, "precision": generator.precision, **more, **versions()}


class SampleStore:
    """A folder of images (``000000.png``, …) and of values measured on them.

    The arguments of ``SampleStore.of`` determine the images; the folder's ``run.json`` records them.
    """

    def __init__(self, work: Path, name: str, facts: Mapping[str, object]) -> None:
        """Open the store for the JSON ``facts`` below ``work``; CogViewError if it cannot be written."""
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
        """The store of a generator's images; ``more``: whatever else determines them, such as batch size."""
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
        """The file of an image, or of one candidate for the same prompt."""
        return self.folder / (f"{index:06d}.png" if candidate is None else f"{index:06d}-{candidate:02d}.png")

    def fill(
        self,
        count: int,
        generate: Callable[[range], Iterable[Image.Image | Save]],
        group: int = 1,
        rank: tuple[int, int] = WHOLE,
        what: str = "generating",
        progress: Progress | None = None,
    ) -> list[Path] | None:
        """The files of images 0 to ``count`` - 1; missing ones are generated, one group at a time.

        ``generate`` returns the images of a range of indices, or a function per image that writes its file.
        ``rank`` (i, n): only groups i, i + n, … are generated, and None is returned while groups of other
        ranks are missing.
        """
        paths = [self.path(i) for i in range(count)]
        for first in range(0, count, group):
            indices = range(first, min(first + group, count))
            files = [paths[i] for i in indices]
            if first // group % rank[1] == rank[0] and not all(path.is_file() for path in files):
                for path, image in zip(files, generate(indices), strict=True):
                    (image if callable(image) else partial(save_image, image))(path)
            if progress:
                progress(what, indices.stop, count)
        return paths if all(path.is_file() for path in paths) else None

    def text(self, name: str, make: Callable[[], str]) -> str:
        """The text stored under a name; ``make`` computes it if it is missing."""
        path = self.folder / f"{name}.txt"
        if not path.is_file():
            write_file(path, make())
        return path.read_text("utf-8")

    def numbers(self, name: str, count: int, make: Callable[[], Sequence[float]]) -> list[float]:
        """The ``count`` numbers stored under a name; ``make`` computes them if they are missing.

        Raises CogViewError if the file is damaged.
        """
        path = self.folder / f"{name}.json"
        if not path.is_file():
            write_file(path, json.dumps(list(make())))
        stored = load_json(path)
        if not isinstance(stored, list) or len(stored) != count:
            raise CogViewError(f"{path}: damaged; delete it to generate its images again")
        return [float(number) for number in stored]


def generate_images(
    texts: Sequence[str],
    generator: ImageGenerator,
    work: Path,
    plan: SamplePlan,
    rank: tuple[int, int] = WHOLE,
    what: str = "generating",
    progress: Progress | None = None,
) -> list[Path] | None:
    """Generate an image for each text; returns as :meth:`SampleStore.fill`.

    Experiments with the same ``work`` share the images. Images are generated ``plan.batch`` at a time; the
    group that begins with text i has the seed ``plan.seed + i``.
    """
    store = SampleStore.of(work, generator, texts, plan.seed, plan.sampling, batch=plan.batch)

    def generate(indices: range) -> list[Image.Image]:
        return generator.generate(
            texts[indices.start : indices.stop], plan.seed + indices.start, plan.sampling
        )

    return store.fill(len(texts), generate, plan.batch, rank, what, progress)


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    write_image(path, image.convert("RGB"))


def load_image(path: Path, shape: Preprocessing) -> NDArray[np.uint8]:
    """Load an image that :func:`save_image` wrote, (size, size, 3); CogViewError if it is broken."""
    try:
        return square(decode(path).image, shape)
    except BadImage as error:
        raise CogViewError(f"{path}: {error}; delete it to generate it again") from None


def load_all(paths: Sequence[Path], shape: Preprocessing) -> NDArray[np.uint8]:
    """Load the images (n, size, size, 3) of ``paths``; CogViewError if one is broken."""
    return np.stack([load_image(path, shape) for path in paths])


def parse_rank(text: str, option: str = "--rank") -> tuple[int, int]:
    """(0-based rank, number of ranks) of "2/4"; a CogViewError names ``option``."""
    rank, _, count = text.partition("/")
    if not (rank.isdecimal() and count.isdecimal() and 1 <= int(rank) <= int(count)):
        raise CogViewError(f"{option} {text}: expected I/N with 1 <= I <= N, such as 2/4")
    return int(rank) - 1, int(count)
