"""Images for more prompts than one process should generate: in parts, by any number of workers.

::

    OUT/generation.json     what is generated (:class:`Plan`)
    OUT/part-000012/        the images of some prompts, 0000768-00.png (number of the prompt, which of n), and
                            images.jsonl, a line for each with its prompt, caption, seed and index

A part is written under a name of its own and renamed, so it is there whole or not at all, whoever wrote it
and whatever was killed; what is there is not generated again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from cogview.config import Config, read_json
from cogview.errors import CogViewError
from cogview.files import spare_name, write_file
from cogview.pipelines.base import GeneratedImage, checked_seed
from cogview.pipelines.model import Pipeline
from cogview.pipelines.task_requests import GenerateRequest
from cogview.types import ProgressCallback

PLAN, LINES = "generation.json", "images.jsonl"
IMAGES = 64  # of a part, at least, unless there are fewer in all; what a killed worker can lose


class Part(NamedTuple):
    """Some of the prompts; ``first``: the number of the first one."""

    number: int
    first: int
    texts: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its directory."""
        return f"part-{self.number:06d}"


class Plan(Config):
    """``generation.json``: the seed, images a prompt, prompts in all and in a part.

    settings: a hash of everything else that decides the images.
    """

    version: Literal[1] = 1
    settings: str
    seed: int = Field(ge=0)
    n: int = Field(ge=1)
    prompts: int = Field(ge=1)
    size: int = Field(ge=1)

    @property
    def images(self) -> int:
        """In all."""
        return self.prompts * self.n

    def missing(self, folder: Path, texts: Sequence[str]) -> list[Part]:
        """The parts that are not there yet."""
        firsts = range(0, self.prompts, self.size)
        parts = (Part(i, first, tuple(texts[first : first + self.size])) for i, first in enumerate(firsts))
        return [part for part in parts if not (folder / part.name).is_dir()]


def begin(folder: Path, texts: Sequence[str], request: GenerateRequest, facts: Mapping[str, Any]) -> Plan:
    """The plan for a folder, which is made: what was begun there, or a new one.

    facts: what decides the images besides prompts and request, for JSON.

    Raises:
        CogViewError: other images were begun there.
    """
    asked = request.model_dump(mode="json", exclude={"seed"}) | {"facts": facts, "prompts": list(texts)}
    settings = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    path = folder / PLAN
    if path.is_file():
        found = read_json(Plan, path)
        if found.settings != settings or request.seed not in (None, found.seed):
            raise CogViewError(
                f"{folder}: other images were begun there (other prompts, settings or model, or the seed "
                f"{found.seed}); give another -o"
            )
        return found
    size = max(1, IMAGES // request.n)
    seed = checked_seed(request.seed)
    plan = Plan(settings=settings, seed=seed, n=request.n, prompts=len(texts), size=size)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(path, plan.model_dump_json(indent=1) + "\n")
    return plan


@dataclass(frozen=True)
class PartWriter:
    """Generates parts into a folder; called once in each worker.

    open: the pipeline, opened in the worker. request: with a seed. times: how much each image is upscaled, 0:
    not at all.
    """

    folder: Path
    open: Callable[[], Pipeline]
    request: GenerateRequest
    times: int = 0
    batch_size: int | None = None

    def __call__(self) -> Callable[[Part], int]:
        return partial(self.write, self.open())

    def write(self, pipeline: Pipeline, part: Part) -> int:
        """Generate a part, unless it is there; returns how many images it has."""
        place, n, lines = self.folder / part.name, self.request.n, list[str]()
        if place.is_dir():
            return len(part.texts) * n
        images = pipeline.generate(list(part.texts), **dict(self.request), batch_size=self.batch_size)
        if self.times:
            images = pipeline.upscale(images, times=self.times, batch_size=self.batch_size)
        assert len(images) == len(part.texts) * n
        fresh = spare_name(place)
        fresh.mkdir()
        try:
            for number, image in enumerate(images):
                name = f"{part.first + number // n:07d}-{number % n:02d}.png"
                self.keep(fresh / name, image)
                told: dict[str, Any] = {"file": name, "prompt": image.prompt, "caption": image.caption}
                told |= {"seed": image.seed, "index": image.index}
                lines.append(json.dumps(told, ensure_ascii=False))
            (fresh / LINES).write_text("\n".join(lines) + "\n", encoding="utf-8")
            _publish(fresh, place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return len(images)

    def keep(self, path: Path, image: GeneratedImage) -> None:
        """Write one image."""
        path.write_bytes(image.png())


def _publish(fresh: Path, place: Path) -> None:
    """Give a part its name; one that another worker wrote meanwhile stays."""
    try:
        fresh.rename(place)
    except OSError:
        if not place.is_dir():
            raise


Spread = Callable[[PartWriter, Sequence[Part]], Iterable[int]]  # images of parts, as these are done


def generate_parts(
    work: PartWriter,
    texts: Sequence[str],
    facts: Mapping[str, Any],
    spread: Spread,
    progress: ProgressCallback,
) -> Plan:
    """Generate the images of all prompts, or those that are missing.

    facts: as for :func:`begin`. spread: has the writer called with every part, somewhere.
    """
    plan = begin(work.folder, texts, work.request, facts)
    work = replace(work, request=work.request.model_copy(update={"seed": plan.seed}))
    missing = plan.missing(work.folder, texts)
    done = plan.images - plan.n * sum(len(part.texts) for part in missing)
    for count in spread(work, missing) if missing else ():
        done += count
        progress(done, plan.images)
    clean(work.folder)
    return plan


def clean(folder: Path) -> None:
    """Remove what killed workers left of parts that others wrote."""
    for left in folder.glob(".*.part"):
        shutil.rmtree(left, ignore_errors=True)
