"""Self-reranking: attribute accuracy of the best of 1, 4 and 16 images (CogView, section 3.2).

For every held-out caption the largest number of candidates is generated; the best of K is the one with the
lowest caption loss among the first K, so all K share their candidates. A classifier that is independent of
the ranking reads the attributes (``attributes.py``). CogView's figure 9 compares this with ranking by CLIP,
in FID and IS: an alignment scorer can also rank the candidates, and a feature network adds those metrics.

A run can be interrupted at any time: candidates, their losses and scores are stored in the work folder.
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
Points = list[tuple[int, Figure]]  # (candidates, value)


class Candidates(Generator, Protocol):
    """Generates several images of a prompt and returns the caption loss of each."""

    def candidates(
        self, prompt: str, n: int, seed: int, sampling: Mapping[str, int | float | str]
    ) -> tuple[list[Image.Image], list[float]]:
        """``n`` images and their caption losses; image i does not depend on ``n``."""
        ...


class BestOfReport(Config):
    """The results of one run, by "en best of 4", "en best of 4 by alignment" and so on.

    losses: mean caption loss of the selected images, in nats per token; distributions: FID, KID and IS of the
    selected images, by name, if there is a feature network (the reference is the real images of the
    captions).
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
    """Generate, rank and classify; the report, and each set's images (n, size, size, 3) in selection order.

    Args:
        alignment: also ranks the candidates, in place of CLIP.
        extractor: for FID, KID and IS of each set against the real images.

    Raises CogViewError as :func:`~cogview.evaluation.experiments.attributes.evaluate_attributes`.
    """
    attributes = reader.config.attributes
    avatars = read_avatars(corpus, plan.source, caption_languages(attributes, plan.languages))
    selection, selected = held_out(avatars, attributes, plan)
    fingerprint = corpus_fingerprint(avatars)
    shape, losses = reader.config.preprocessing, dict[str, float]()
    sets = {REAL: real_images(corpus, selected, shape)}
    for language in plan.languages:
        texts = [avatar.captions[language] for avatar in selected]
        most = max(plan.sizes)
        store = SampleStore.of(work, generator, texts, plan.seed, plan.sampling, "best-of", most=most)
        caption_losses = _candidates(plan, texts, language, generator, store, progress)
        rankings = {"": [np.array(values) for values in caption_losses]}
        if alignment is not None:
            scores = _scores(alignment, texts, language, store, most, progress)
            rankings[BY_ALIGNMENT] = [-np.array(values) for values in scores]
        for suffix, ranking in rankings.items():
            for size in (size for size in plan.sizes if size > 1 or not suffix):
                name = f"{language} best of {size}{suffix}"
                best = [int(np.argmin(values[:size])) for values in ranking]
                sets[name] = load_all([store.path(i, number) for i, number in enumerate(best)], shape)
                losses[name] = float(np.mean([v[i] for v, i in zip(caption_losses, best, strict=True)]))
    answers = {name: read_answers(reader, selected, images, name, progress) for name, images in sets.items()}
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


def panels(report: BestOfReport) -> dict[str, dict[str, Points]]:
    """The curves of CogView's figure 9 by metric: accuracy, and FID, KID and IS if they were measured."""
    found = {"attribute accuracy": curves({name: own.overall for name, own in report.accuracy.items()})}
    for metric in next(iter(report.distributions.values()), {}):
        values = {name: figures[metric] for name, figures in report.distributions.items()}
        found[metric] = curves({name: Figure(value=x, low=x, high=x) for name, x in values.items()})
    return found


def curves(figures: Mapping[str, Figure]) -> dict[str, Points]:
    """A metric against the number of candidates, for each language and ranking ("en by alignment")."""
    by_label: dict[str, Points] = {}
    for name, figure in figures.items():
        if match := NAME.fullmatch(name):
            by_label.setdefault(match[1] + match[3], []).append((int(match[2]), figure))
    for label, points in by_label.items():  # the best of one is the same for every ranking
        shared = by_label.get(label.removesuffix(BY_ALIGNMENT), [])
        if label.endswith(BY_ALIGNMENT) and shared and shared[0][0] < points[0][0]:
            points.insert(0, shared[0])
    return by_label


def _candidates(
    plan: BestOfPlan,
    texts: Sequence[str],
    language: str,
    generator: Candidates,
    store: SampleStore,
    progress: Progress | None,
) -> list[list[float]]:
    """The caption losses of every prompt's candidates; those that are not in the store are generated.

    Prompt i has the seed ``plan.seed + i``. Its losses are written last, so where they exist its images do.
    """
    losses, most = [], max(plan.sizes)
    for i, text in enumerate(texts):

        def generate(i: int = i, text: str = text) -> list[float]:
            images, of_prompt = generator.candidates(text, most, plan.seed + i, plan.sampling)
            for number, image in enumerate(images):
                save_image(image, store.path(i, number))
            return of_prompt

        losses.append(store.numbers(f"{i:06d}", most, generate))
        if progress:
            progress(f"generating {language}", i + 1, len(texts))
    return losses


def _scores(
    alignment: DualEncoder,
    texts: Sequence[str],
    language: str,
    store: SampleStore,
    most: int,
    progress: Progress | None,
) -> list[list[float]]:
    """The cosines of each prompt with its candidates; stored beside the losses."""
    scores, shape = [], alignment.config.preprocessing
    for i, text in enumerate(texts):

        def score_prompt(i: int = i, text: str = text) -> list[float]:
            images = load_all([store.path(i, number) for number in range(most)], shape)
            return list((alignment.encode_image(images) @ alignment.encode_text([text])[0]).tolist())

        scores.append(store.numbers(f"{i:06d}.{alignment.fingerprint}", most, score_prompt))
        if progress:
            progress(f"ranking {language}", i + 1, len(texts))
    return scores


def _distributions(
    sets: Mapping[str, NDArray[np.uint8]], extractor: Extractor, work: Path, progress: Progress | None
) -> dict[str, dict[str, float]]:
    """FID-0, KID-0 and IS of every set against the real images."""
    from cogview.evaluation.metrics.fid import DistributionPlan, compare_pictures
    from cogview.evaluation.metrics.image_sets import ImageSet

    plan, image_sets = DistributionPlan(metrics=("fid", "kid", "is"), bootstrap=0), {}
    for name, images in sets.items():
        image_sets[name] = ImageSet(name, tuple((f"{i:05d}", _png(image)) for i, image in enumerate(images)))
    figures = {}
    for name in (name for name in sets if name != REAL):
        pair = image_sets[REAL], image_sets[name]
        report = compare_pictures(*pair, plan, extractor, work / "features", progress)
        assert report is not None  # there is only one part
        figures[name] = {metric: value.value for metric, value in report.figures.items()}
    return figures


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
