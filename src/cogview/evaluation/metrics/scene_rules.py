"""Rules that decide from detections whether an image shows the scene of its prompt.

The six tasks and the rules are those of GenEval (Ghosh et al., 2023, section 3): one thing, two things,
counting, the colour of one thing, the position of two and a colour for each of two. An image is right only if
it shows everything that the prompt asks for; figures are the shares of right images, by task and their mean.

Differences from GenEval: a colour is named from the pixels of a box (``colours.py``) instead of by CLIP, and
``on`` and ``behind`` are added to the four positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from cogview.config import Config
from cogview.evaluation.metrics.accuracy import Share

Box = tuple[float, float, float, float]  # left, top, right, bottom
Task = Literal["one", "two", "count", "colour", "position", "colours"]
Relation = Literal["left", "right", "above", "below", "on", "behind"]
TASKS: tuple[Task, ...] = ("one", "two", "count", "colour", "position", "colours")
MARGIN = 0.1  # centres nearer than this share of the boxes' summed sizes have no position (GenEval)
OBLIQUE = 0.5  # minimum share of a direction in the distance between the centres (GenEval)


class Target(Config):
    """A thing that a prompt asks for: its count and, if stated, its colour."""

    thing: str
    count: int = Field(1, ge=1)
    colour: str | None = None


class ScenePrompt(Config):
    """A prompt in both languages, and what its image must show.

    ``relation``: of the first thing to the second; ``place``: a landscape in the prompt that is not scored.
    """

    id: str
    task: Task
    en: str
    zh: str
    asked: tuple[Target, ...] = Field(min_length=1, max_length=2)
    relation: Relation | None = None
    place: str | None = None

    @model_validator(mode="after")
    def _two_things_have_a_position(self) -> ScenePrompt:
        if (self.relation is not None) != (self.task == "position"):
            raise ValueError("a relation belongs to the task 'position' and to no other")
        if self.relation is not None and len(self.asked) != 2:
            raise ValueError("a relation needs two things")
        return self


class Rules(Config):
    """Score thresholds of detections: for presence (``found``) and for exact counts (``counted``).

    GenEval's values (0.3 and 0.9) are for its Mask2Former; a reader's thresholds are chosen on held-out
    scenes.
    """

    found: float = Field(0.3, ge=0, le=1)
    counted: float = Field(0.9, ge=0, le=1)


@dataclass(frozen=True)
class Detection:
    """A detected thing: its name in the list of things, its box, its score (0 to 1) and its colour.

    ``box`` is in pixels or in fractions of the image, with the y axis downwards; ``colour`` is one of
    ``colours.NAMES``, or None if it is unknown.
    """

    thing: str
    box: Box
    score: float = 1.0
    colour: str | None = None


class SceneReader(Protocol):
    """Detects things in images.

    A reader must not be trained on images of the model under evaluation or of its tokenizer. It is trained on
    composed scenes of the split ``train`` and on drawings in other styles, and its results are only
    meaningful with its ceiling: :func:`judge` over the true images of held-out combinations, of which at most
    a tenth may fail. Overlapping detections of the same thing must be suppressed before they are returned.
    """

    @property
    def fingerprint(self) -> str:
        """Changes when the detections would; a run resumes only with the same fingerprint."""
        ...

    @property
    def rules(self) -> Rules:
        """The thresholds for its scores, chosen on held-out scenes."""
        ...

    def read(self, images: NDArray[np.uint8]) -> list[list[Detection]]:
        """The detections in each image (n, side, side, 3), by descending score, with their colours."""
        ...


@dataclass(frozen=True)
class Verdict:
    """Whether an image is right and, if not, the first reason."""

    right: bool
    wrong: Literal["", "missing", "count", "colour", "position"] = ""


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def directions(first: Box, second: Box) -> frozenset[Relation]:
    """The position of the first box relative to the second: none, one or two of left, right, above, below.

    A tenth of the boxes' summed sizes is subtracted from the offset of the centres along each axis; the rest
    must be more than half of the full distance (GenEval, section 3.2).
    """
    (x1, y1), (x2, y2) = _centre(first), _centre(second)
    across, down = x1 - x2, y1 - y2
    distance = float(np.hypot(across, down))
    if distance == 0:
        return frozenset()
    width = first[2] - first[0] + second[2] - second[0]
    height = first[3] - first[1] + second[3] - second[1]
    relations: set[Relation] = set()
    if abs(across) - MARGIN * width > OBLIQUE * distance:
        relations.add("left" if across < 0 else "right")
    if abs(down) - MARGIN * height > OBLIQUE * distance:
        relations.add("above" if down < 0 else "below")
    return frozenset(relations)


def is_on(first: Box, second: Box) -> bool:
    """Whether the first box stands on the second: above it, with its bottom at the second's top or lower."""
    x, y = _centre(first)
    slack = MARGIN * (first[3] - first[1] + second[3] - second[1])
    inside = second[0] <= x <= second[2]
    touches = second[1] - slack <= first[3] <= _centre(second)[1] + slack
    return inside and touches and y < _centre(second)[1]


def is_behind(first: Box, second: Box) -> bool:
    """Whether the first box overlaps the second, which extends further down."""
    overlap = min(first[2], second[2]) > max(first[0], second[0]) and min(first[3], second[3]) > max(
        first[1], second[1]
    )
    return overlap and first[3] < second[3]


def related(relation: Relation, first: Box, second: Box) -> bool:
    """Whether ``relation`` holds between the first box and the second."""
    if relation == "on":
        return is_on(first, second)
    return is_behind(first, second) if relation == "behind" else relation in directions(first, second)


def judge(prompt: ScenePrompt, detections: Sequence[Detection], rules: Rules | None = None) -> Verdict:
    """Whether the detections in an image are what the prompt asks for.

    A thing must be detected at least as often as requested, in the task ``count`` exactly as often. Of more
    detections than requested only the most confident are used: each must have the requested colour, and every
    one of the first thing must have the requested position relative to every one of the second.
    """
    rules = rules or Rules()
    exact = prompt.task == "count"
    threshold = rules.counted if exact else rules.found
    confident = sorted((d for d in detections if d.score >= threshold), key=lambda d: -d.score)
    groups: list[list[Detection]] = []
    for target in prompt.asked:
        group = [detection for detection in confident if detection.thing == target.thing]
        if len(group) < target.count or (exact and len(group) != target.count):
            return Verdict(False, "count" if group and target.count > 1 else "missing")
        groups.append(group[: target.count])
    for target, group in zip(prompt.asked, groups, strict=True):
        if target.colour and any(detection.colour != target.colour for detection in group):
            return Verdict(False, "colour")
    if prompt.relation:
        pairs = [(first.box, second.box) for first in groups[0] for second in groups[1]]
        if not all(related(prompt.relation, first, second) for first, second in pairs):
            return Verdict(False, "position")
    return Verdict(True)


def shares(prompts: Sequence[ScenePrompt], verdicts: Sequence[Verdict]) -> dict[Task, Share]:
    """The share of right images of each task that occurs, in GenEval's order."""
    by_task: dict[Task, Share] = {}
    for task in TASKS:
        right = [v.right for prompt, v in zip(prompts, verdicts, strict=True) if prompt.task == task]
        if right:
            by_task[task] = Share(right=sum(right), stated=len(right))
    return by_task


def overall(by_task: Mapping[Task, Share]) -> float:
    """The mean of the tasks' shares, equally weighted (GenEval's overall score)."""
    return sum(share.value for share in by_task.values()) / len(by_task) if by_task else 0.0
