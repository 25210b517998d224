"""Whether an image shows the scene that its prompt asks for, given what a reader of scenes detects in it.

The six tasks and the rules are those of GenEval (Ghosh et al., 2023, section 3): one thing, two things,
counting, the colour of one thing, the position of two and a colour for each of two. A prompt is right only
where everything it asks for is found; figures are shares of right prompts, a task at a time and their mean.

Differences from GenEval: a count is asked of the confident detections only, as there, but a colour is named
from the pixels of a box (``colours.py``) instead of by CLIP; ``on`` and ``behind`` are added to the four
positions.
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
MARGIN = 0.1  # of the summed sizes of two boxes: centres nearer than that have no position (GenEval)
OBLIQUE = 0.5  # a direction counts where it is this much of the distance between the centres (GenEval)


class Target(Config):
    """A thing that a prompt asks for: how many of it and, where said, in which colour."""

    thing: str
    count: int = Field(1, ge=1)
    colour: str | None = None


class ScenePrompt(Config):
    """A prompt in both languages and what an image of it must show.

    ``relation`` is the first thing's to the second, ``place`` a landscape that is said but not scored.
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
    """How confident a detection must be to count: to be found at all, and to be counted exactly.

    GenEval's values (0.3 and 0.9) are for its Mask2Former; a reader sets its own by its held-out scenes.
    """

    found: float = Field(0.3, ge=0, le=1)
    counted: float = Field(0.9, ge=0, le=1)


@dataclass(frozen=True)
class Detection:
    """A thing that a reader sees: its key in the list of things, where, how surely (0 to 1) and its colour.

    ``box`` is in pixels or in parts of the image, with the y axis downwards; ``colour`` is one of
    ``colours.NAMES`` or None where it was not asked for.
    """

    thing: str
    box: Box
    score: float = 1.0
    colour: str | None = None


class SceneReader(Protocol):
    """What reads scenes off images.

    A reader never sees an image that the judged model drew, nor the model's tokenizer, in its training. It
    is trained on composed scenes of the split ``train`` and of drawings in other styles, and it counts only
    with its own ceiling: :func:`judge` over the true images of withheld combinations, at most a tenth of
    which may fail. Boxes of one thing must not be given twice: suppress overlapping detections of the same
    thing before they are returned.
    """

    @property
    def fingerprint(self) -> str:
        """Changes when the detections would; a kept run is gone on with only where it is the same."""
        ...

    @property
    def rules(self) -> Rules:
        """The thresholds that its scores are made for, chosen on held-out scenes."""
        ...

    def read(self, images: NDArray[np.uint8]) -> list[list[Detection]]:
        """The detections in each image (n, side, side, 3), by falling score, with their colours named."""
        ...


@dataclass(frozen=True)
class Verdict:
    """Whether an image is right and, where it is not, what is wrong with it first."""

    right: bool
    wrong: Literal["", "missing", "count", "colour", "position"] = ""


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def directions(first: Box, second: Box) -> frozenset[Relation]:
    """Where the first box lies, seen from the second: none, one or two of left, right, above, below.

    Of the offset of the centres, a tenth of the two boxes' summed sizes is taken off along each axis; what
    is left must be more than half of the whole distance (GenEval, section 3.2).
    """
    (x1, y1), (x2, y2) = _centre(first), _centre(second)
    across, down = x1 - x2, y1 - y2
    distance = float(np.hypot(across, down))
    if distance == 0:
        return frozenset()
    width = first[2] - first[0] + second[2] - second[0]
    height = first[3] - first[1] + second[3] - second[1]
    found: set[Relation] = set()
    if abs(across) - MARGIN * width > OBLIQUE * distance:
        found.add("left" if across < 0 else "right")
    if abs(down) - MARGIN * height > OBLIQUE * distance:
        found.add("above" if down < 0 else "below")
    return frozenset(found)


def is_on(first: Box, second: Box) -> bool:
    """Whether the first box stands on the second: over it, with its foot at its top or a little lower."""
    middle, (_, height) = _centre(first)[0], _centre(first)
    slack = MARGIN * (first[3] - first[1] + second[3] - second[1])
    inside = second[0] <= middle <= second[2]
    touches = second[1] - slack <= first[3] <= _centre(second)[1] + slack
    return inside and touches and height < _centre(second)[1]


def is_behind(first: Box, second: Box) -> bool:
    """Whether the first box is partly covered by the second, which reaches further down."""
    overlap = min(first[2], second[2]) > max(first[0], second[0]) and min(first[3], second[3]) > max(
        first[1], second[1]
    )
    return overlap and first[3] < second[3]


def related(relation: Relation, first: Box, second: Box) -> bool:
    """Whether the first box is ``relation`` of the second."""
    if relation == "on":
        return is_on(first, second)
    return is_behind(first, second) if relation == "behind" else relation in directions(first, second)


def judge(prompt: ScenePrompt, detections: Sequence[Detection], rules: Rules | None = None) -> Verdict:
    """Whether the detections in an image are what the prompt asks for.

    A thing must be detected at least as often as asked, in the task ``count`` exactly as often. Of more
    detections than asked for, the most confident are looked at: as many must have the colour asked for, and
    every one of the first thing must lie as asked to every one of the second.
    """
    rules = rules or Rules()
    exact = prompt.task == "count"
    least = rules.counted if exact else rules.found
    seen = sorted((one for one in detections if one.score >= least), key=lambda one: -one.score)
    groups: list[list[Detection]] = []
    for asked in prompt.asked:
        group = [one for one in seen if one.thing == asked.thing]
        if len(group) < asked.count or (exact and len(group) != asked.count):
            return Verdict(False, "count" if group and asked.count > 1 else "missing")
        groups.append(group[: asked.count])
    for asked, group in zip(prompt.asked, groups, strict=True):
        if asked.colour and any(one.colour != asked.colour for one in group):
            return Verdict(False, "colour")
    if prompt.relation:
        pairs = [(first.box, second.box) for first in groups[0] for second in groups[1]]
        if not all(related(prompt.relation, first, second) for first, second in pairs):
            return Verdict(False, "position")
    return Verdict(True)


def shares(prompts: Sequence[ScenePrompt], verdicts: Sequence[Verdict]) -> dict[Task, Share]:
    """Right prompts of each task that occurs, in GenEval's order."""
    found: dict[Task, Share] = {}
    for task in TASKS:
        right = [one.right for prompt, one in zip(prompts, verdicts, strict=True) if prompt.task == task]
        if right:
            found[task] = Share(right=sum(right), stated=len(right))
    return found


def overall(found: Mapping[Task, Share]) -> float:
    """The mean of the tasks' shares, each weighing the same (GenEval's overall score)."""
    return sum(share.value for share in found.values()) / len(found) if found else 0.0
