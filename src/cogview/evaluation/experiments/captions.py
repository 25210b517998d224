"""Captions of held-out images: how many of an image's attributes does its caption name?

The images and attributes are those of the attribute experiment (``attributes.py``), the other way
round: a model describes the real image, and the words that state an attribute (learned from the
training captions, ``attribute_corpus.py``) are looked for in what it wrote. Where words of several values
are there, the longest count ("a big smile" is no smile). The true captions, read the same way, are the
ceiling; captions asked of the other images of their style the floor. CogView's paper gives no number
(section 3.2). Self-reranking needs the reverse: the caption loss of an image's own caption should be
lower than that of another image's caption of its style. The share of images where it is, is reported
too.
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
Pictures = NDArray[np.uint8]


class Describer(Protocol):
    """Describes images (n, size, size, 3) uint8 and scores captions of them."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the captions would."""
        ...

    @property
    def image_size(self) -> int:
        """Side of the images it reads, in pixels."""
        ...

    def describe(self, pictures: Pictures, language: str, plan: CaptionPlan) -> list[str]:
        """A caption of each."""
        ...

    def losses(self, pictures: Pictures, texts: Sequence[str]) -> NDArray[np.float64]:
        """The caption loss (n,) of each image with the text of the same number, in nats a token."""
        ...


class Matching(Config):
    """Caption losses in nats a token: of the images' own captions, of another's of the style, and the share
    of images whose own is the lower; ``intervals``: the same with their 95 % bootstrap intervals."""

    own: float
    other: float
    preferred: float
    intervals: dict[str, Figure] = Field(default_factory=dict)


class CaptionReport(Config):
    """Everything one run found, by language (``true zh``: what is read off the true captions)."""

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
    describer: Describer,
    rare: int = 20,
    progress: Progress | None = None,
    work: Path | None = None,
) -> CaptionReport:
    """Describe held-out images and read the captions.

    Args:
        rare: values with fewer training images are skipped.
        work: where captions are kept, so that a stopped run goes on.

    Raises CogViewError where the corpus has too few held-out combinations.
    """
    avatars = read_avatars(corpus, plan.source, plan.languages)
    attributes = find_attributes([avatar for avatar in avatars if avatar.split == "train"], rare)
    selection, chosen = held_out(avatars, attributes, plan)
    pictures = real_images(corpus, chosen, Preprocessing(size=describer.image_size, resample="box"))
    accuracy, matching, captions = dict[str, Accuracy](), dict[str, Matching](), dict[str, dict[str, str]]()
    store = None if work is None else _store(work, describer, selection.keys, plan)
    for language in plan.languages:
        true = [avatar.captions[language] for avatar in chosen]
        written = []
        for i in range(len(chosen)):
            make = partial(_caption, describer, pictures[i : i + 1], language, plan)
            written.append(make() if store is None else store.text(f"{language}-{i:06d}", make))
            if progress:
                progress(f"describing {language}", i + 1, len(chosen))
        sets = {f"true {language}": true, language: written}
        answers = {name: read_captions(attributes, chosen, texts, language) for name, texts in sets.items()}
        accuracy |= score(answers, f"true {language}", plan.bootstrap, plan.seed)
        matching[language] = match(describer, chosen, pictures, true)
        captions[language] = dict(zip(selection.keys, written, strict=True))
    return CaptionReport(
        plan=plan,
        accuracy=accuracy,
        matching=matching,
        captions=captions,
        selection=selection,
        facts={
            "model": describer.name,
            "model_fingerprint": describer.fingerprint,
            "corpus_fingerprint": corpus_fingerprint(avatars),
            **versions(),
        },
    )


def _caption(describer: Describer, picture: Pictures, language: str, plan: CaptionPlan) -> str:
    return describer.describe(picture, language, plan)[0]


def _store(work: Path, describer: Describer, keys: Sequence[str], plan: CaptionPlan) -> SampleStore:
    """Where captions are kept: by all that decides them."""
    decided = plan.model_dump(mode="json", include={"seed", "beams", "sampling"})
    facts = {"model": describer.fingerprint, "pictures": list(keys), **decided}
    return SampleStore(work, f"captions-{describer.name}", facts)


def read_captions(
    attributes: Sequence[Attribute], chosen: Sequence[Avatar], texts: Sequence[str], language: str
) -> Answers:
    """What the captions of ``chosen`` state and what ``texts`` say of it."""
    own = [[a for a in attributes if a.style == avatar.style] for avatar in chosen]
    return Answers(
        [avatar.style for avatar in chosen],
        [statements(avatar, attributes) for avatar in chosen],
        [read_caption(mine, text, language) for mine, text in zip(own, texts, strict=True)],
    )


def read_caption(attributes: Sequence[Attribute], text: str, language: str) -> Mapping[str, int]:
    """The class of each attribute that a text names; those it does not name are missing."""
    tokens = spaced(text)
    found = {attribute.name: _named(attribute, tokens, language) for attribute in attributes}
    return {name: label for name, label in found.items() if label is not None}


def _named(attribute: Attribute, tokens: str, language: str) -> int | None:
    """The class whose phrase is there, the one with the longest where there are several."""
    there = [
        (len(phrase), -label)
        for label, statement in enumerate(attribute.classes)
        for phrase in statement.phrases.get(language, ())
        if phrase in tokens
    ]
    return -max(there)[1] if there else None


def match(
    describer: Describer, chosen: Sequence[Avatar], pictures: Pictures, texts: Sequence[str]
) -> Matching:
    """Each image's own caption against that of the next image of its style."""
    others = [_next(chosen, i) for i in range(len(chosen))]
    own = describer.losses(pictures, texts)
    other = describer.losses(pictures, [texts[i] for i in others])
    told = np.array([i != j for i, j in enumerate(others)])
    better = (own < other)[told].astype(np.float64)
    values = {"own": own, "other": other} | ({"preferred": better} if told.any() else {})
    return Matching(
        own=float(own.mean()),
        other=float(other.mean()),
        preferred=float(better.mean()) if told.any() else 0.0,
        intervals={name: mean_figure(value) for name, value in values.items()},
    )


def _next(chosen: Sequence[Avatar], i: int) -> int:
    """The number of the next avatar of the same style, the first after the last."""
    same = [j for j, avatar in enumerate(chosen) if avatar.style == chosen[i].style]
    return same[(same.index(i) + 1) % len(same)]
