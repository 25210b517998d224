"""Does an edit change what it is asked to, and nothing else (CogView2, section 3.1)?

A task is an image, a mask around one of its attributes, and a caption of the same image with another value
of that attribute. The model fills the mask; a classifier (``classifier.py``) reads the result:

- *changed*: the attribute is read as its new value;
- *kept*: the other attributes that were read right off the original are read as before;
- *untouched*: pixels outside the mask are the original's, bit for bit.

Where a task has a true answer (the image generated again with that value), the same figures of it are the
ceiling; the original itself is the floor, on which nothing has changed.
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
MAX_TASKS = 256 << 20  # bytes of the file
EDITED, ANSWER, ORIGINAL = "edited", "true answer", "original"

Pixels = NDArray[np.uint8]


class Edit(Config):
    """One row of ``edits.jsonl``: before and after are all attributes; images are beside the file."""

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
    """What edits."""

    def edit(
        self, picture: Image.Image, prompt: str, mask: NDArray[np.bool_], seed: int, plan: EditingPlan
    ) -> Image.Image:
        """The image with what is masked generated again."""
        ...


class Outcome(Config):
    """What was read off one set of images."""

    changed: Share
    kept: Share
    by_group: dict[str, Share]


class EditingReport(Config):
    """Everything ``cogview eval editing`` finds, by set of images, and what it was found with."""

    format: Literal[1] = 1
    plan: EditingPlan
    outcomes: dict[str, Outcome]
    untouched: Share
    skipped: int
    facts: dict[str, str | int | float]


@dataclass(frozen=True)
class Task:
    """A row with its classes: of the new value, and by attribute of the other, unchanged ones."""

    edit: Edit
    wanted: int
    others: Mapping[str, int]


def read_edits(folder: Path) -> list[Edit]:
    """The rows of ``folder/edits.jsonl``; CogViewError where a line is no task."""
    path = folder / FILE
    found = []
    for number, line in enumerate(files.read_text(path, MAX_TASKS).splitlines(), 1):
        given = files.parse_json(line, f"{path}, line {number}")
        found.append(validate(Edit, given, f"{path}, line {number}"))
    if not found:
        raise CogViewError(f"{path}: no tasks in it")
    return found


def readable_tasks(edits: Sequence[Edit], attributes: Sequence[Attribute]) -> list[Task]:
    """The edits whose change the classifier can see: old and new value are two classes that it knows."""
    known = {(attribute.style, attribute.name): attribute for attribute in attributes}
    found = []
    for edit in edits:
        asked = known.get((edit.style, edit.attribute))
        if asked is None:
            continue
        old, new = (asked.index.get(values.get(edit.attribute, "")) for values in (edit.before, edit.after))
        if new is None or old is None or old == new:
            continue
        others = {
            name: label
            for name, value in edit.before.items()
            if name != edit.attribute and (edit.style, name) in known
            if (label := known[edit.style, name].index.get(value)) is not None
        }
        found.append(Task(edit, new, others))
    return found


def judge(
    tasks: Sequence[Task], before: Sequence[Mapping[str, int]], after: Sequence[Mapping[str, int]]
) -> Outcome:
    """What changed and what was kept, from the classes read off the originals and off the results."""
    changed, kept, groups = [], [], dict[str, list[bool]]()
    for task, old, new in zip(tasks, before, after, strict=True):
        done = new.get(task.edit.attribute) == task.wanted
        changed.append(done)
        groups.setdefault(group_of(task.edit.attribute), []).append(done)
        kept += [new.get(name) == label for name, label in task.others.items() if old.get(name) == label]
    return Outcome(
        changed=_share(changed), kept=_share(kept), by_group={k: _share(v) for k, v in sorted(groups.items())}
    )


def _share(found: Sequence[bool]) -> Share:
    return Share(right=sum(found), stated=len(found))


def evaluate_editing(
    plan: EditingPlan,
    folder: Path,
    reader: AttributeClassifier,
    editor: Editor,
    work: Path,
    progress: Progress | None = None,
) -> tuple[EditingReport, dict[str, Pixels]]:
    """Edit, read and judge; the report and the images by set (n, size, size, 3), ``mask`` among them.

    Results are kept in ``work``, so that a stopped run goes on.

    Raises:
        CogViewError: no tasks, none the classifier can read, files missing, a language without a caption.
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
        original, mask = _picture(folder / task.edit.picture), _mask(folder / task.edit.mask)
        untouched.append(_same_outside(original, _picture(path), mask))
        sets[ORIGINAL].append(square(original, shape))
        sets["mask"].append(square(Image.fromarray(mask).convert("RGB"), shape))
        if task.edit.answer is not None:
            sets[ANSWER].append(square(_picture(folder / task.edit.answer), shape))
    pictures = {name: np.stack(found) for name, found in sets.items() if len(found) == len(tasks)}
    pictures[EDITED] = load_all(paths, shape)
    return _report(plan, tasks, reader, editor, pictures, (untouched, skipped)), pictures


def _report(
    plan: EditingPlan,
    tasks: Sequence[Task],
    reader: AttributeClassifier,
    editor: Editor,
    pictures: Mapping[str, Pixels],
    found: tuple[list[bool], int],
) -> EditingReport:
    styles = [task.edit.style for task in tasks]
    read = {k: reader.read(to_tensor(v), styles) for k, v in pictures.items() if k != "mask"}
    return EditingReport(
        plan=plan,
        outcomes={name: judge(tasks, read[ORIGINAL], answers) for name, answers in read.items()},
        untouched=_share(found[0]),
        skipped=found[1],
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
    """The results of all tasks; task i is edited with the seed ``plan.seed + i``."""
    asked = [[task.edit.key, task.edit.attribute, task.edit.captions] for task in tasks]
    kept = plan.model_dump(mode="json", include={"languages", "order", "best_of"})
    store = SampleStore.of(work, editor, asked, plan.seed, plan.sampling, "editing", **kept)

    def edit(numbers: range) -> list[Image.Image]:
        task, i = tasks[numbers.start].edit, numbers.start
        original, mask = _picture(folder / task.picture), _mask(folder / task.mask)
        prompt = _prompt(task, plan.languages[i % len(plan.languages)])
        return [editor.edit(original, prompt, mask, plan.seed + i, plan)]

    paths = store.fill(len(tasks), edit, what="editing", progress=progress)
    assert paths is not None  # one process edits them all
    return paths


def _prompt(edit: Edit, language: str) -> str:
    if language not in edit.captions:
        there = ", ".join(edit.captions)
        raise CogViewError(f"{edit.key} has no caption in {language!r}; it has {there}")
    return edit.captions[language]


def _picture(path: Path) -> Image.Image:
    try:
        return decode(path).image
    except BadImage as error:
        raise CogViewError(f"{path}: {error}") from None


def _mask(path: Path) -> NDArray[np.bool_]:
    chosen: NDArray[np.bool_] = np.asarray(_picture(path).convert("L")) >= 128
    return chosen


def _same_outside(original: Image.Image, edited: Image.Image, mask: NDArray[np.bool_]) -> bool:
    one, other = np.asarray(original), np.asarray(edited)
    return one.shape == other.shape and bool((one[~mask] == other[~mask]).all())
