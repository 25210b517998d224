"""Self-reranking measured: attribute accuracy of the best of 1, 4 and 16 images (CogView, section 3.2).

For every held-out caption as many images are drawn as the largest number; the best of the first K by
caption loss stands for K, so the numbers share their candidates. A classifier that the ranking knows nothing
of reads the attributes (``attributes.py``). CogView's Figure 9 compares this with ranking by CLIP, in FID and
IS: an alignment scorer can rank beside the caption loss, and a network of features gives those figures too.

A run can be stopped at any time: candidates, their losses and fits are kept in the work folder.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from cogview.config import Config
from cogview.evaluation.experiments.attributes import REAL, read_answers, real_images
from cogview.evaluation.judges.attribute_corpus import (
    Selection,
    caption_languages,
    corpus_fingerprint,
    held_out,
    read_avatars,
)
from cogview.evaluation.judges.classifier import AttributeClassifier
from cogview.evaluation.metrics.accuracy import Accuracy, Figure, score
from cogview.evaluation.plans import BestOfPlan
from cogview.evaluation.sample_store import (
    Generator,
    Progress,
    SampleStore,
    load_all,
    report_facts,
    save_image,
)

if TYPE_CHECKING:
    from cogview.evaluation.judges.scorer import DualEncoder
    from cogview.evaluation.metrics.fid import Extractor

BY_ALIGNMENT = " by alignment"
NAME = re.compile(r"(.+?) best of (\d+)(.*)")


class Candidates(Generator, Protocol):
    """Draws several images of a prompt and returns the caption loss of each."""

    def candidates(
        self, prompt: str, n: int, seed: int, sampling: Mapping[str, int | float | str]
    ) -> tuple[list[Image.Image], list[float]]:
        """``n`` images and their caption losses; the first ones do not depend on ``n``."""
        ...


class BestOfReport(Config):
    """What one run found, by "en best of 4", "en best of 4 by alignment" and so on.

    losses: mean caption loss of the chosen, nats a token; distributions: FID, KID and IS of the chosen, by
    name, where a network was given (the reference is the real images of the same captions).
    """

    format: Literal[1] = 1
    plan: BestOfPlan
    accuracy: dict[str, Accuracy]
    losses: dict[str, float]
    distributions: dict[str, dict[str, float]] = Field(default_factory=dict)
    selection: Selection
    facts: dict[str, str | int | float]


def evaluate_best_of(
    plan: BestOfPlan,
    corpus: Path,
    reader: AttributeClassifier,
    generator: Candidates,
    work: Path,
    progress: Progress | None = None,
    alignment: DualEncoder | None = None,
    extractor: Extractor | None = None,
) -> tuple[BestOfReport, dict[str, NDArray[np.uint8]]]:
    """Draw, rank, read; the report, and each set's images (n, size, size, 3) in the selection's order.

    Args:
        alignment: ranks the candidates, too, in CLIP's place.
        extractor: gives FID, KID and IS of each set against the real images.

    Raises CogViewError as :func:`~cogview.evaluation.experiments.attributes.evaluate_attributes`.
    """
    attributes = reader.config.attributes
    avatars = read_avatars(corpus, plan.source, caption_languages(attributes, plan.languages))
    selection, chosen = held_out(avatars, attributes, plan)
    fingerprint = corpus_fingerprint(avatars)
    shape, losses = reader.config.preprocessing, dict[str, float]()
    sets = {REAL: real_images(corpus, chosen, shape)}
    for language in plan.languages:
        texts = [avatar.captions[language] for avatar in chosen]
        most = max(plan.sizes)
        store = SampleStore.of(work, generator, texts, plan.seed, plan.sampling, "best-of", most=most)
        drawn = _candidates(plan, texts, language, generator, store, progress)
        ranks = {"": [np.array(own) for own in drawn]}
        if alignment is not None:
            fits = _fits(alignment, texts, language, store, most, progress)
            ranks[BY_ALIGNMENT] = [-np.array(own) for own in fits]
        for suffix, ranking in ranks.items():
            for size in (size for size in plan.sizes if size > 1 or not suffix):
                name = f"{language} best of {size}{suffix}"
                best = [int(np.argmin(own[:size])) for own in ranking]
                sets[name] = load_all([store.path(i, number) for i, number in enumerate(best)], shape)
                losses[name] = float(np.mean([own[i] for own, i in zip(drawn, best, strict=True)]))
    answers = {
        name: read_answers(reader, chosen, pictures, name, progress) for name, pictures in sets.items()
    }
    others = {} if alignment is None else {"scorer_fingerprint": alignment.fingerprint}
    others |= {} if extractor is None else {extractor.name: extractor.fingerprint}
    facts = report_facts(
        generator, classifier_fingerprint=reader.fingerprint, corpus_fingerprint=fingerprint, **others
    )
    report = BestOfReport(
        plan=plan,
        accuracy=score(answers, REAL, plan.bootstrap, plan.seed),
        losses=losses,
        distributions={} if extractor is None else _distributions(sets, extractor, work, progress),
        selection=selection,
        facts=facts,
    )
    return report, sets


def curves(sets: Mapping[str, Accuracy]) -> dict[str, list[tuple[int, Figure]]]:
    """Accuracy against the number of candidates, for each language and way of ranking ("en by alignment")."""
    found: dict[str, list[tuple[int, Figure]]] = {}
    for name, own in sets.items():
        if told := NAME.fullmatch(name):
            found.setdefault(told[1] + told[3], []).append((int(told[2]), own.overall))
    for label, points in found.items():  # the best of one is the same by any ranking
        shared = found.get(label.removesuffix(BY_ALIGNMENT), [])
        if label.endswith(BY_ALIGNMENT) and shared and shared[0][0] < points[0][0]:
            points.insert(0, shared[0])
    return found


def _candidates(
    plan: BestOfPlan,
    texts: Sequence[str],
    language: str,
    generator: Candidates,
    store: SampleStore,
    progress: Progress | None,
) -> list[list[float]]:
    """The caption losses of every prompt's candidates; what is not in the store yet is drawn.

    Prompt i is drawn with the seed ``plan.seed + i``. Its losses are written last: where they are, its
    images are.
    """
    found, most = [], max(plan.sizes)
    for i, text in enumerate(texts):

        def draw(i: int = i, text: str = text) -> list[float]:
            pictures, losses = generator.candidates(text, most, plan.seed + i, plan.sampling)
            for number, picture in enumerate(pictures):
                save_image(picture, store.path(i, number))
            return losses

        found.append(store.numbers(f"{i:06d}", most, draw))
        if progress:
            progress(f"drawing {language}", i + 1, len(texts))
    return found


def _fits(
    alignment: DualEncoder,
    texts: Sequence[str],
    language: str,
    store: SampleStore,
    most: int,
    progress: Progress | None,
) -> list[list[float]]:
    """How well each prompt's candidates fit it, the higher the better; kept beside the losses."""
    found, shape = [], alignment.config.preprocessing
    for i, text in enumerate(texts):

        def fit(i: int = i, text: str = text) -> list[float]:
            pictures = load_all([store.path(i, number) for number in range(most)], shape)
            return list((alignment.encode_image(pictures) @ alignment.encode_text([text])[0]).tolist())

        found.append(store.numbers(f"{i:06d}.{alignment.fingerprint}", most, fit))
        if progress:
            progress(f"ranking {language}", i + 1, len(texts))
    return found


def _distributions(
    sets: Mapping[str, NDArray[np.uint8]], extractor: Extractor, work: Path, progress: Progress | None
) -> dict[str, dict[str, float]]:
    """FID-0, KID-0 and IS of every set against the real images."""
    from cogview.evaluation.metrics.fid import DistributionPlan, compare_pictures
    from cogview.evaluation.metrics.image_sets import ImageSet

    plan, named = DistributionPlan(metrics=("fid", "kid", "is"), bootstrap=0), {}
    for name, pictures in sets.items():
        named[name] = ImageSet(name, tuple((f"{i:05d}", _png(own)) for i, own in enumerate(pictures)))
    found = {}
    for name in (name for name in sets if name != REAL):
        report = compare_pictures(named[REAL], named[name], plan, extractor, work / "features", progress)
        assert report is not None  # it was computed in one part
        found[name] = {figure: own.value for figure, own in report.figures.items()}
    return found


def _png(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
