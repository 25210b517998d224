"""Captions of held-out images: how many of an image's attributes does its caption name?

The reverse of the attribute experiment (``attributes.py``), with the same images and attributes: a model
captions the real image, and the caption is searched for the phrases that state an attribute (learned from the
training captions, ``attribute_corpus.py``). If phrases of several values occur, the longest counts ("a big
smile" is not "a smile"). The ceiling is the true captions, read the same way; the floor is captions against
the attributes of other images of their style. CogView's paper has no such number (section 3.2).

Self-reranking needs the caption loss of an image's own caption to be lower than that of another image's
caption of its style; the share of images for which it is lower is reported too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cogview.config import Config
from cogview.data.shards import Preprocessing
from cogview.evaluation.experiments.attributes import real_images
from cogview.evaluation.judges.attribute_corpus import (
    Attribute,
    Avatar,
    Selection,
    corpus_fingerprint,
    find_attributes,
    held_out,
    read_avatars,
    spaced,
    statements,
)
from cogview.evaluation.metrics.accuracy import Accuracy, Answers, Figure, score
from cogview.evaluation.metrics.intervals import mean_figure
from cogview.evaluation.plans import CaptionPlan
from cogview.evaluation.reports import versions
from cogview.evaluation.sample_store import SampleStore

Progress = Callable[[str, int, int], None]
Pixels = NDArray[np.uint8]


class Captioner(Protocol):
    """Captions images (n, size, size, 3) uint8 and scores captions of them."""

    @property
    def name(self) -> str:
        """The name in reports."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the captions would."""
        ...

    @property
    def image_size(self) -> int:
        """Side of the input images, in pixels."""
        ...

    def caption(self, pixels: Pixels, language: str, plan: CaptionPlan) -> list[str]:
        """A caption of each image."""
        ...

    def losses(self, pixels: Pixels, texts: Sequence[str]) -> NDArray[np.float64]:
        """The caption loss (n,) of each image with the text of the same index, in nats per token."""
        ...


class Matching(Config):
    """Mean caption losses in nats per token of the images' own captions and of another image's of the style.

    preferred: share of images whose own caption has the lower loss; intervals: the same figures with their
    95 % bootstrap intervals.
    """

    own: float
    other: float
    preferred: float
    intervals: dict[str, Figure] = Field(default_factory=dict)


class CaptionReport(Config):
    """The results of one run, by language (``true zh``: the true captions)."""

    format: Literal[1] = 1
    plan: CaptionPlan
    accuracy: dict[str, Accuracy]
    matching: dict[str, Matching]
    captions: dict[str, dict[str, str]]
    selection: Selection
    facts: dict[str, str | int | float]


def evaluate_captions(
    plan: CaptionPlan,
    corpus: Path,
    captioner: Captioner,
    rare: int = 20,
    progress: Progress | None = None,
    work: Path | None = None,
) -> CaptionReport:
    """Caption held-out images and read the attributes in the captions.

    Args:
        rare: attribute values with fewer training images are skipped.
        work: folder for captions, so that an interrupted run resumes.

    Raises CogViewError if the corpus has too few held-out combinations.
    """
    avatars = read_avatars(corpus, plan.source, plan.languages)
    attributes = find_attributes([avatar for avatar in avatars if avatar.split == "train"], rare)
    selection, selected = held_out(avatars, attributes, plan)
    images = real_images(corpus, selected, Preprocessing(size=captioner.image_size, resample="box"))
    accuracy, matching, captions = dict[str, Accuracy](), dict[str, Matching](), dict[str, dict[str, str]]()
    store = None if work is None else _store(work, captioner, selection.keys, plan)
    for language in plan.languages:
        true = [avatar.captions[language] for avatar in selected]
        generated = []
        for i in range(len(selected)):
            caption = partial(_caption, captioner, images[i : i + 1], language, plan)
            generated.append(caption() if store is None else store.text(f"{language}-{i:06d}", caption))
            if progress:
                progress(f"captioning {language}", i + 1, len(selected))
        sets = {f"true {language}": true, language: generated}
        answers = {name: read_captions(attributes, selected, texts, language) for name, texts in sets.items()}
        accuracy |= score(answers, f"true {language}", plan.bootstrap, plan.seed)
        matching[language] = match(captioner, selected, images, true)
        captions[language] = dict(zip(selection.keys, generated, strict=True))
    return CaptionReport(
        plan=plan,
        accuracy=accuracy,
        matching=matching,
        captions=captions,
        selection=selection,
        facts={
            "model": captioner.name,
            "model_fingerprint": captioner.fingerprint,
            "corpus_fingerprint": corpus_fingerprint(avatars),
            **versions(),
        },
    )


def _caption(captioner: Captioner, pixels: Pixels, language: str, plan: CaptionPlan) -> str:
    return captioner.caption(pixels, language, plan)[0]


def _store(work: Path, captioner: Captioner, keys: Sequence[str], plan: CaptionPlan) -> SampleStore:
    """The store of the captions, named after everything that determines them."""
    settings = plan.model_dump(mode="json", include={"seed", "beams", "sampling"})
    facts = {"model": captioner.fingerprint, "pictures": list(keys), **settings}
    return SampleStore(work, f"captions-{captioner.name}", facts)


def read_captions(
    attributes: Sequence[Attribute], avatars: Sequence[Avatar], texts: Sequence[str], language: str
) -> Answers:
    """The classes that the captions of ``avatars`` state, and those that ``texts`` name."""
    by_avatar = [[a for a in attributes if a.style == avatar.style] for avatar in avatars]
    return Answers(
        [avatar.style for avatar in avatars],
        [statements(avatar, attributes) for avatar in avatars],
        [read_caption(of_style, text, language) for of_style, text in zip(by_avatar, texts, strict=True)],
    )


def read_caption(attributes: Sequence[Attribute], text: str, language: str) -> Mapping[str, int]:
    """The class of each attribute that a text names; attributes that it does not name are missing."""
    tokens = spaced(text)
    labels = {attribute.name: _named(attribute, tokens, language) for attribute in attributes}
    return {name: label for name, label in labels.items() if label is not None}


def _named(attribute: Attribute, tokens: str, language: str) -> int | None:
    """The class with the longest phrase in the text, or None if there is none."""
    matches = [
        (len(phrase), -label)
        for label, statement in enumerate(attribute.classes)
        for phrase in statement.phrases.get(language, ())
        if phrase in tokens
    ]
    return -max(matches)[1] if matches else None


def match(captioner: Captioner, avatars: Sequence[Avatar], images: Pixels, texts: Sequence[str]) -> Matching:
    """Compare the loss of each image's own caption with that of the next image of its style."""
    others = [_next(avatars, i) for i in range(len(avatars))]
    own = captioner.losses(images, texts)
    other = captioner.losses(images, [texts[i] for i in others])
    comparable = np.array([i != j for i, j in enumerate(others)])
    better = (own < other)[comparable].astype(np.float64)
    values = {"own": own, "other": other} | ({"preferred": better} if comparable.any() else {})
    return Matching(
        own=float(own.mean()),
        other=float(other.mean()),
        preferred=float(better.mean()) if comparable.any() else 0.0,
        intervals={name: mean_figure(value) for name, value in values.items()},
    )


def _next(avatars: Sequence[Avatar], i: int) -> int:
    """The index of the next avatar of the same style, cyclically."""
    same = [j for j, avatar in enumerate(avatars) if avatar.style == avatars[i].style]
    return same[(same.index(i) + 1) % len(same)]
