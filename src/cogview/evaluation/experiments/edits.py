"""Does an edit change the requested attribute, and nothing else (CogView2, section 3.1)?

A task is an image, a mask around one of its attributes, and a caption of the same image with another value
of that attribute. The model fills the mask; a classifier (``classifier.py``) reads the result:

- *changed*: the attribute is classified as its new value;
- *kept*: the other attributes that were classified correctly in the original are classified as before;
- *untouched*: pixels outside the mask are bit-identical to the original.

The ceiling is the same figures for the true answers (the image rendered with the new value), where tasks have
them; the floor is the original itself, in which nothing has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from cogview import files
from cogview.config import Config, validate
from cogview.data.images import BadImage, decode, square
from cogview.errors import CogViewError
from cogview.evaluation.judges.attribute_corpus import Attribute
from cogview.evaluation.judges.classifier import AttributeClassifier
from cogview.evaluation.metrics.accuracy import Share, group_of
from cogview.evaluation.metrics.reconstruction import to_tensor
from cogview.evaluation.plans import EditingPlan
from cogview.evaluation.sample_store import Generator, Progress, SampleStore, load_all, report_facts

FILE = "edits.jsonl"
MAX_TASKS = 256 << 20  # maximum size of the file, in bytes
EDITED, ANSWER, ORIGINAL = "edited", "true answer", "original"

Pixels = NDArray[np.uint8]


class Edit(Config):
    """One row of ``edits.jsonl``: all attributes before and after; paths are relative to the file."""

    key: str
    style: str
    attribute: str
    before: dict[str, str]
    after: dict[str, str]
    captions: dict[str, str] = Field(min_length=1)
    picture: str
    mask: str
    answer: str | None = None


class Editor(Generator, Protocol):
    """Edits images."""

    def edit(
        self, image: Image.Image, prompt: str, mask: NDArray[np.bool_], seed: int, plan: EditingPlan
    ) -> Image.Image:
        """The image with its masked region generated again."""
        ...


class Outcome(Config):
    """The figures of one set of images."""

    changed: Share
    kept: Share
    by_group: dict[str, Share]


class EditingReport(Config):
    """The results of ``cogview eval editing``, by set of images, and the facts behind them."""

    format: Literal[1] = 1
    plan: EditingPlan
    outcomes: dict[str, Outcome]
    untouched: Share
    skipped: int
    facts: dict[str, str | int | float]


@dataclass(frozen=True)
class Task:
    """A row with its classes: of the new value (``target``), and of the unchanged attributes by name."""

    edit: Edit
    target: int
    others: Mapping[str, int]


def read_edits(folder: Path) -> list[Edit]:
    """Read the rows of ``folder/edits.jsonl``; CogViewError if a line is not a task."""
    path = folder / FILE
    edits = []
    for number, line in enumerate(files.read_text(path, MAX_TASKS).splitlines(), 1):
        row = files.parse_json(line, f"{path}, line {number}")
        edits.append(validate(Edit, row, f"{path}, line {number}"))
    if not edits:
        raise CogViewError(f"{path}: no tasks in it")
    return edits


def readable_tasks(edits: Sequence[Edit], attributes: Sequence[Attribute]) -> list[Task]:
    """The edits whose change the classifier can see: old and new value are different known classes."""
    known = {(attribute.style, attribute.name): attribute for attribute in attributes}
    tasks = []
    for edit in edits:
        edited = known.get((edit.style, edit.attribute))
        if edited is None:
            continue
        old, new = (edited.index.get(values.get(edit.attribute, "")) for values in (edit.before, edit.after))
        if new is None or old is None or old == new:
            continue
        others = {
            name: label
            for name, value in edit.before.items()
            if name != edit.attribute and (edit.style, name) in known
            if (label := known[edit.style, name].index.get(value)) is not None
        }
        tasks.append(Task(edit, new, others))
    return tasks


def judge(
    tasks: Sequence[Task], before: Sequence[Mapping[str, int]], after: Sequence[Mapping[str, int]]
) -> Outcome:
    """Count what changed and what was kept, from the classes of the originals and of the results."""
    changed, kept, groups = [], [], dict[str, list[bool]]()
    for task, old, new in zip(tasks, before, after, strict=True):
        success = new.get(task.edit.attribute) == task.target
        changed.append(success)
        groups.setdefault(group_of(task.edit.attribute), []).append(success)
        kept += [new.get(name) == label for name, label in task.others.items() if old.get(name) == label]
    return Outcome(
        changed=_share(changed), kept=_share(kept), by_group={k: _share(v) for k, v in sorted(groups.items())}
    )


def _share(outcomes: Sequence[bool]) -> Share:
    return Share(right=sum(outcomes), stated=len(outcomes))


def evaluate_editing(
    plan: EditingPlan,
    folder: Path,
    reader: AttributeClassifier,
    editor: Editor,
    work: Path,
    progress: Progress | None = None,
) -> tuple[EditingReport, dict[str, Pixels]]:
    """Edit, classify and judge; the report and the images by set (n, size, size, 3), including ``mask``.

    Results are stored in ``work``, so that an interrupted run resumes.

    Raises:
        CogViewError: there are no tasks, or none the classifier can read, or a file or caption is missing.
    """
    edits = read_edits(folder)
    tasks = readable_tasks(edits, reader.config.attributes)
    skipped, tasks = len(edits) - len(tasks), tasks[: plan.count]
    if not tasks:
        raise CogViewError(f"{folder}: the classifier knows none of the attributes that are changed")
    paths = _edited(plan, folder, tasks, editor, work, progress)
    shape = reader.config.preprocessing
    sets: dict[str, list[Pixels]] = {ORIGINAL: [], "mask": [], ANSWER: []}
    untouched = []
    for path, task in zip(paths, tasks, strict=True):
        original, mask = _image(folder / task.edit.picture), _mask(folder / task.edit.mask)
        untouched.append(_same_outside(original, _image(path), mask))
        sets[ORIGINAL].append(square(original, shape))
        sets["mask"].append(square(Image.fromarray(mask).convert("RGB"), shape))
        if task.edit.answer is not None:
            sets[ANSWER].append(square(_image(folder / task.edit.answer), shape))
    images = {name: np.stack(members) for name, members in sets.items() if len(members) == len(tasks)}
    images[EDITED] = load_all(paths, shape)
    return _report(plan, tasks, reader, editor, images, (untouched, skipped)), images


def _report(
    plan: EditingPlan,
    tasks: Sequence[Task],
    reader: AttributeClassifier,
    editor: Editor,
    images: Mapping[str, Pixels],
    counts: tuple[list[bool], int],
) -> EditingReport:
    styles = [task.edit.style for task in tasks]
    read = {k: reader.read(to_tensor(v), styles) for k, v in images.items() if k != "mask"}
    return EditingReport(
        plan=plan,
        outcomes={name: judge(tasks, read[ORIGINAL], answers) for name, answers in read.items()},
        untouched=_share(counts[0]),
        skipped=counts[1],
        facts=report_facts(editor, classifier_fingerprint=reader.fingerprint),
    )


def _edited(
    plan: EditingPlan,
    folder: Path,
    tasks: Sequence[Task],
    editor: Editor,
    work: Path,
    progress: Progress | None,
) -> list[Path]:
    """The result files of all tasks; task i is edited with the seed ``plan.seed + i``."""
    prompts = [[task.edit.key, task.edit.attribute, task.edit.captions] for task in tasks]
    settings = plan.model_dump(mode="json", include={"languages", "order", "best_of"})
    store = SampleStore.of(work, editor, prompts, plan.seed, plan.sampling, "editing", **settings)

    def edit(indices: range) -> list[Image.Image]:
        task, i = tasks[indices.start].edit, indices.start
        original, mask = _image(folder / task.picture), _mask(folder / task.mask)
        prompt = _prompt(task, plan.languages[i % len(plan.languages)])
        return [editor.edit(original, prompt, mask, plan.seed + i, plan)]

    paths = store.fill(len(tasks), edit, what="editing", progress=progress)
    assert paths is not None  # there is only one rank
    return paths


def _prompt(edit: Edit, language: str) -> str:
    if language not in edit.captions:
        available = ", ".join(edit.captions)
        raise CogViewError(f"{edit.key} has no caption in {language!r}; it has {available}")
    return edit.captions[language]


def _image(path: Path) -> Image.Image:
    try:
        return decode(path).image
    except BadImage as error:
        raise CogViewError(f"{path}: {error}") from None


def _mask(path: Path) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = np.asarray(_image(path).convert("L")) >= 128
    return mask


def _same_outside(original: Image.Image, edited: Image.Image, mask: NDArray[np.bool_]) -> bool:
    one, other = np.asarray(original), np.asarray(edited)
    return one.shape == other.shape and bool((one[~mask] == other[~mask]).all())
