"""Attribute accuracy: does a generated image show what its caption says?

A classifier trained on real training images (``classifier.py``) reads each attribute a caption states
off images drawn for held-out combinations: captions with a pair of attributes that no training image
has together (``attribute_corpus.py``). The same is read off the real images (the ceiling) and off what
the image tokenizer makes of them; prompts asked of the other images of their style are the floor
(``scoring.py``). No number in CogView's papers can be compared; they rate such faithfulness by people
only (CogView, section 4.2).

A run can be stopped at any time: images drawn so far are kept in the work folder and found again by a run
with the same model, settings and selection.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cogview.config import Config
from cogview.data.images import square
from cogview.data.shards import Preprocessing
from cogview.evaluation.judges.attribute_corpus import (
    Avatar,
    Selection,
    caption_languages,
    corpus_fingerprint,
    held_out,
    read_avatars,
    read_images,
    statements,
)
from cogview.evaluation.judges.classifier import AttributeClassifier
from cogview.evaluation.metrics.accuracy import Accuracy, Answers, score
from cogview.evaluation.metrics.reconstruction import reconstruct, to_tensor
from cogview.evaluation.plans import AttributePlan
from cogview.evaluation.sample_store import ImageGenerator, Progress, generate_images, load_all, report_facts
from cogview.tokenizers.loading import AnyImageTokenizer

REAL, RECONSTRUCTED = "real", "reconstructed"


class AttributeReport(Config):
    """Everything one run found (``accuracy`` by set of images) and everything it was made with."""

    format: Literal[1] = 1
    plan: AttributePlan
    accuracy: dict[str, Accuracy]
    selection: Selection
    facts: dict[str, str | int | float]

    @property
    def drawn(self) -> tuple[str, ...]:
        """The sets that the model drew, one a language."""
        return self.plan.languages


def evaluate_attributes(
    plan: AttributePlan,
    corpus: Path,
    reader: AttributeClassifier,
    generator: ImageGenerator,
    work: Path,
    tokenizer: AnyImageTokenizer | None = None,
    progress: Progress | None = None,
) -> tuple[AttributeReport, dict[str, NDArray[np.uint8]]]:
    """Draw, read and score; the report and every set's images (n, size, size, 3), in the selection's order.

    Raises:
        CogViewError: the corpus has too few held-out combinations or styles the classifier does not know, or
        the
            work folder cannot be written.
    """
    attributes = reader.config.attributes
    avatars = read_avatars(corpus, plan.source, caption_languages(attributes, plan.languages))
    selection, chosen = held_out(avatars, attributes, plan)
    shape = reader.config.preprocessing
    sets = {REAL: real_images(corpus, chosen, shape)}
    if tokenizer is not None:
        sets[RECONSTRUCTED] = _reconstructed(tokenizer, corpus, chosen, shape)
    for language in plan.languages:
        texts, what = [avatar.captions[language] for avatar in chosen], f"drawing {language}"
        paths = generate_images(texts, generator, work, plan, what=what, progress=progress)
        assert paths is not None  # one process draws them all
        sets[language] = load_all(paths, shape)
    answers = {
        name: read_answers(reader, chosen, pictures, name, progress) for name, pictures in sets.items()
    }
    report = AttributeReport(
        plan=plan,
        accuracy=score(answers, REAL, plan.bootstrap, plan.seed),
        selection=selection,
        facts=report_facts(
            generator,
            classifier_fingerprint=reader.fingerprint,
            tokenizer_fingerprint=tokenizer.fingerprint if tokenizer else "",
            corpus_fingerprint=corpus_fingerprint(avatars),
        ),
    )
    return report, sets


def real_images(corpus: Path, chosen: Sequence[Avatar], shape: Preprocessing) -> NDArray[np.uint8]:
    """The corpus's own images of ``chosen``, in their order."""
    found = dict(read_images(corpus, (avatar.key for avatar in chosen), shape))
    return np.stack([found[avatar.key] for avatar in chosen])


def _reconstructed(
    tokenizer: AnyImageTokenizer, corpus: Path, chosen: Sequence[Avatar], shape: Preprocessing
) -> NDArray[np.uint8]:
    """What the tokenizer makes of the real images, at the classifier's size."""
    own = shape.model_copy(update={"size": tokenizer.image_size})
    copies, _ = reconstruct(tokenizer, real_images(corpus, chosen, own))
    return np.stack([square(Image.fromarray(copy), shape) for copy in copies])


def read_answers(
    reader: AttributeClassifier,
    chosen: Sequence[Avatar],
    pictures: NDArray[np.uint8],
    name: str = "",
    progress: Progress | None = None,
) -> Answers:
    """What the captions of ``chosen`` state and what ``reader`` reads off ``pictures``."""
    styles = [avatar.style for avatar in chosen]
    read = reader.read(to_tensor(pictures), styles)
    if progress:
        progress(f"reading {name}", len(chosen), len(chosen))
    return Answers(styles, [statements(avatar, reader.config.attributes) for avatar in chosen], read)
