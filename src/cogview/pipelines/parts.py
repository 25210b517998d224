"""Generates images for many prompts in parts, distributed over any number of workers.

::

    OUT/generation.json     the plan (:class:`Plan`)
    OUT/part-000012/        the images of some prompts, 0000768-00.png (number of the prompt, which of n), and
                            images.jsonl, one line per image with its prompt, caption, seed and index

A part is written under a temporary name and renamed, so it is either complete or absent, even after a crash.
Existing parts are not generated again.
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
IMAGES = 64  # in a part, at least, unless there are fewer in total; a killed worker loses at most one part


class Part(NamedTuple):
    """Consecutive prompts; ``first``: the number of the first one."""

    number: int
    first: int
    texts: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its directory."""
        return f"part-{self.number:06d}"


class Plan(Config):
    """``generation.json``.

    n: images per prompt; prompts: in total; size: prompts per part; settings: a hash of everything else that
    determines the images.
    """

    version: Literal[1] = 1
    settings: str
    seed: int = Field(ge=0)
    n: int = Field(ge=1)
    prompts: int = Field(ge=1)
    size: int = Field(ge=1)

    @property
    def images(self) -> int:
        """The total number of images."""
        return self.prompts * self.n

    def missing(self, folder: Path, texts: Sequence[str]) -> list[Part]:
        """The parts that do not exist yet."""
        firsts = range(0, self.prompts, self.size)
        parts = (Part(i, first, tuple(texts[first : first + self.size])) for i, first in enumerate(firsts))
        return [part for part in parts if not (folder / part.name).is_dir()]


def begin(folder: Path, texts: Sequence[str], request: GenerateRequest, facts: Mapping[str, Any]) -> Plan:
    """The plan of a folder: the one that is stored there, or a new one; the folder is created.

    facts: what determines the images besides prompts and request, as JSON values.

    Raises:
        CogViewError: the folder has a plan for other images.
    """
    content = request.model_dump(mode="json", exclude={"seed"}) | {"facts": facts, "prompts": list(texts)}
    settings = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path = folder / PLAN
    if path.is_file():
        stored = read_json(Plan, path)
        if stored.settings != settings or request.seed not in (None, stored.seed):
            raise CogViewError(
                f"{folder}: it holds other images (other prompts, settings or model, or the seed "
                f"{stored.seed}); give another -o"
            )
        return stored
    size = max(1, IMAGES // request.n)
    seed = checked_seed(request.seed)
    plan = Plan(settings=settings, seed=seed, n=request.n, prompts=len(texts), size=size)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(path, plan.model_dump_json(indent=1) + "\n")
    return plan


@dataclass(frozen=True)
class PartWriter:
    """Generates parts into a folder; called once in each worker.

    open: loads the pipeline in the worker. request: with a seed. times: the factor by which each image is
    upscaled; 0: not at all.
    """

    folder: Path
    open: Callable[[], Pipeline]
    request: GenerateRequest
    times: int = 0
    batch_size: int | None = None

    def __call__(self) -> Callable[[Part], int]:
        return partial(self.write, self.open())

    def write(self, pipeline: Pipeline, part: Part) -> int:
        """Generate a part unless it exists; returns its number of images."""
        target, n, lines = self.folder / part.name, self.request.n, list[str]()
        if target.is_dir():
            return len(part.texts) * n
        images = pipeline.generate(list(part.texts), **dict(self.request), batch_size=self.batch_size)
        if self.times:
            images = pipeline.upscale(images, times=self.times, batch_size=self.batch_size)
        assert len(images) == len(part.texts) * n
        temporary = spare_name(target)
        temporary.mkdir()
        try:
            for number, image in enumerate(images):
                name = f"{part.first + number // n:07d}-{number % n:02d}.png"
                self.keep(temporary / name, image)
                record: dict[str, Any] = {"file": name, "prompt": image.prompt, "caption": image.caption}
                record |= {"seed": image.seed, "index": image.index}
                lines.append(json.dumps(record, ensure_ascii=False))
            (temporary / LINES).write_text("\n".join(lines) + "\n", encoding="utf-8")
            _publish(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return len(images)

    def keep(self, path: Path, image: GeneratedImage) -> None:
        """Write one image."""
        path.write_bytes(image.png())


def _publish(temporary: Path, target: Path) -> None:
    """Rename a finished part, unless another worker has written it in the meantime."""
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir():
            raise


Spread = Callable[[PartWriter, Sequence[Part]], Iterable[int]]  # yields the image count of each finished part


def generate_parts(
    work: PartWriter,
    texts: Sequence[str],
    facts: Mapping[str, Any],
    spread: Spread,
    progress: ProgressCallback,
) -> Plan:
    """Generate the images of all prompts; existing parts are kept.

    facts: as for :func:`begin`. spread: distributes the parts over workers that run the writer.
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
    """Remove the temporary directories of killed workers."""
    for left in folder.glob(".*.part"):
        shutil.rmtree(left, ignore_errors=True)
