"""Attribute accuracy: does a generated image show what its caption states?

Images are generated for held-out combinations: captions with a pair of attributes that no training image has
together (``attribute_corpus.py``). A classifier trained on real training images (``classifier.py``) predicts
each stated attribute. The ceiling is the accuracy on the real images; reconstructions by the image tokenizer
are measured too; the floor is the accuracy against the captions of other images of the style
(``accuracy.py``). No number in CogView's papers is comparable; they use human ratings only (CogView, section
4.2).

A run can be interrupted at any time: images are stored in the work folder, and a run with the same model,
settings and selection resumes from them.
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
    """The results of one run (``accuracy`` by set of images) and the facts behind them."""

    format: Literal[1] = 1
    plan: AttributePlan
    accuracy: dict[str, Accuracy]
    selection: Selection
    facts: dict[str, str | int | float]

    @property
    def drawn(self) -> tuple[str, ...]:
        """The sets that the model generated, one per language."""
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
    """Generate, classify and score; the report and each set's images (n, size, size, 3), in selection order.

    Raises:
        CogViewError: the corpus has too few held-out combinations or a style the classifier does not know, or
            the work folder cannot be written.
    """
    attributes = reader.config.attributes
    avatars = read_avatars(corpus, plan.source, caption_languages(attributes, plan.languages))
    selection, selected = held_out(avatars, attributes, plan)
    shape = reader.config.preprocessing
    sets = {REAL: real_images(corpus, selected, shape)}
    if tokenizer is not None:
        sets[RECONSTRUCTED] = _reconstructed(tokenizer, corpus, selected, shape)
    for language in plan.languages:
        texts, what = [avatar.captions[language] for avatar in selected], f"generating {language}"
        paths = generate_images(texts, generator, work, plan, what=what, progress=progress)
        assert paths is not None  # there is only one rank
        sets[language] = load_all(paths, shape)
    answers = {name: read_answers(reader, selected, images, name, progress) for name, images in sets.items()}
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


def real_images(corpus: Path, avatars: Sequence[Avatar], shape: Preprocessing) -> NDArray[np.uint8]:
    """The corpus's images of ``avatars``, in their order."""
    by_key = dict(read_images(corpus, (avatar.key for avatar in avatars), shape))
    return np.stack([by_key[avatar.key] for avatar in avatars])


def _reconstructed(
    tokenizer: AnyImageTokenizer, corpus: Path, avatars: Sequence[Avatar], shape: Preprocessing
) -> NDArray[np.uint8]:
    """The tokenizer's reconstructions of the real images, at the classifier's size."""
    tokenizer_shape = shape.model_copy(update={"size": tokenizer.image_size})
    copies, _ = reconstruct(tokenizer, real_images(corpus, avatars, tokenizer_shape))
    return np.stack([square(Image.fromarray(copy), shape) for copy in copies])


def read_answers(
    reader: AttributeClassifier,
    avatars: Sequence[Avatar],
    images: NDArray[np.uint8],
    name: str = "",
    progress: Progress | None = None,
) -> Answers:
    """The classes that the captions of ``avatars`` state, and those that ``reader`` sees in ``images``."""
    styles = [avatar.style for avatar in avatars]
    read = reader.read(to_tensor(images), styles)
    if progress:
        progress(f"reading {name}", len(avatars), len(avatars))
    return Answers(styles, [statements(avatar, reader.config.attributes) for avatar in avatars], read)
