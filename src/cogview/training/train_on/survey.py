"""A survey of the data, and an estimate of the cost of training on it.

The estimated time is the measured time of a few training steps (``measure.py``) times their number, and that
of the evaluations between them.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from pydantic import Field

from cogview.config import Config
from cogview.data.check import GLANCE
from cogview.data.decoders import Decoders, workers_for
from cogview.data.images import Limits
from cogview.data.sources import Source
from cogview.data.tally import EXPLANATIONS, Report, Tally
from cogview.errors import CogViewError
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer

SURVEYED = 5000  # maximum number of records that are decoded for the survey, the first ones of the data

HELD_OUT = 0.05  # fraction of the images, if there are enough


class Survey(Config):
    """The result of a survey: the report of the decoded records, and further statistics.

    unnamed: number of images without a caption; smallest: side of the smallest image, in pixels; most:
    maximum number of captions of one image.
    """

    total: int
    report: Report
    unnamed: int = 0
    smallest: int = 0
    most: int = 0
    examples: tuple[str, ...] = Field(default=())

    @property
    def pictures(self) -> int:
        """The number of usable images, extrapolated if not all were surveyed."""
        if self.report.records == self.total:
            return self.report.good
        return round(self.total * self.report.good / max(1, self.report.records))


def survey(
    plain: Source, named: Source, limits: Limits, progress: Callable[[int, int], None] | None = None
) -> Survey:
    """Decode the first records of a data set as a build does; ``named`` is ``plain`` with all captions.

    Raises CogViewError if none of them is usable.
    """
    tally, seen, examples = Tally(), set[str](), dict[str, None]()
    unnamed, sides, most = 0, list[int](), 0
    total = min(SURVEYED, len(plain))
    with Decoders(limits, GLANCE, workers_for(plain)) as decoders:
        readings = decoders.readings(islice(named.records(), total))
        for original, (record, decoded) in zip(islice(plain.records(), total), readings, strict=True):
            reading = decoded.unless_in(seen, record)
            tally.add(reading)
            if reading.sample is not None:
                sides.append(reading.side)
                most = max(most, len(record.captions))
                unnamed += not original.captions
                if len(examples) < 8:
                    examples[record.captions[0].text] = None
            if progress:
                progress(tally.records, total)
    report = tally.report()
    if not report.good:
        first = report.examples[0].message if report.examples else "no records"
        raise CogViewError(f"no usable image among {report.records:,} records; the first: {first}")
    return Survey(
        total=len(plain),
        report=report,
        unnamed=unnamed,
        smallest=min(sides),
        most=most,
        examples=tuple(examples),
    )


def describe(result: Survey, size: int) -> list[str]:
    """The survey as text lines."""
    report = result.report
    surveyed = (
        "" if report.records == result.total else f" among the first {report.records:,} of {result.total:,}"
    )
    counts = ", ".join(f"{name or 'untagged'} {n:,}" for name, n in report.captions.items())
    several = f", up to {result.most} per image" if result.most > 1 else ""
    lines = [f"{report.good:,} usable images{surveyed}; captions: {counts}{several}"]
    for reason, count in report.rejected.items():
        first = next(example for example in report.examples if example.reason == reason)
        lines.append(
            f"  {count:,} left out, {reason}: {EXPLANATIONS.get(reason, '')} (such as {first.place})"
        )
    lines += [f"  {count:,} converted: {how}" for how, count in report.conversions.items()]
    if result.unnamed:
        named = result.examples[0] if result.unnamed == report.good else "…"
        example = f', such as "{named}"' if named != "…" else ""
        lines.append(f"  {result.unnamed:,} without a caption: named after their files or folders{example}")
    if result.smallest < size:
        lines.append(f"  the smallest is {result.smallest} px and is upscaled to {size}: it will be blurred")
    if report.good < 100:
        lines.append("  few images: expect the model to memorize them rather than to generalize")
    return lines


# ---------------------------------------------------------------------------------------------- text


def fit_text_tokenizer(texts: Sequence[str], pieces: int) -> TextTokenizer:
    """Train a text tokenizer with ``pieces`` tokens, or as many as the texts allow."""
    for _ in range(8):
        try:
            return TextTokenizer.train(texts, pieces)
        except CogViewError as error:
            limit = re.search(r"suffice for (\d+) at most", str(error))
            needed = re.search(r"characters alone need (\d+)", str(error))
            if not limit and not needed:
                raise
            pieces = int(limit[1]) if limit else int(needed[1]) + 8 if needed else pieces
    raise CogViewError("no text tokenizer can be trained on these captions; write longer ones")


class Lengths(Config):
    """Lengths of the captions in tokens; ``over`` of them are longer than the limit and are truncated."""

    least: int
    median: int
    most: int
    over: int

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: TextTokenizer, limit: int) -> Lengths:
        """The statistics of some texts."""
        lengths = [len(tokenizer.encode(text)) for text in texts]
        over = sum(length > limit for length in lengths)
        median = round(statistics.median(lengths))
        return cls(least=min(lengths), median=median, most=max(lengths), over=over)


# ---------------------------------------------------------------------------------------------- cost


class Cost(Config):
    """An estimate: seconds of each stage, and bytes of peak memory."""

    tokenizer_parameters: int
    transformer_parameters: int
    tokenizer_seconds: float
    transformer_seconds: float
    memory: int

    @property
    def seconds(self) -> float:
        """Seconds of all training."""
        return self.tokenizer_seconds + self.transformer_seconds


def tokenizer_parameters(config: ImageTokenizerConfig) -> int:
    """The number of parameters of an image tokenizer."""
    with torch.device("meta"):
        return sum(p.numel() for p in ImageTokenizer(config).parameters())


def transformer_parameters(config: TransformerConfig) -> int:
    """The number of parameters of a transformer."""
    return sum(tensor.numel() for tensor in Transformer.shapes(config).values())


class Part(NamedTuple):
    """A training run: updates, rows and seconds per update; rows per evaluation, number of evaluations."""

    steps: int = 0
    rows: int = 1
    seconds: float = 0.0
    evaluated: int = 0
    evaluations: int = 0

    @property
    def total(self) -> float:
        """Total seconds; the forward pass of an evaluation takes a third of a step with as many rows."""
        return self.seconds * (self.steps + self.evaluations * self.evaluated / self.rows / 3)


def estimate(
    tokenizer: ImageTokenizerConfig, first: Part, config: TransformerConfig, second: Part, length: int
) -> Cost:
    """The cost of training. ``first`` has no steps if the tokenizer is not trained; length: of a sequence.

    Memory: weights, gradients and two moments, and the activations of one batch.
    """
    small, large = tokenizer_parameters(tokenizer), transformer_parameters(config)
    activations = 4 * second.rows * length * config.hidden * config.layers * 16
    feature_maps = 4 * first.rows * tokenizer.image_size**2 * 64
    return Cost(
        tokenizer_parameters=small,
        transformer_parameters=large,
        tokenizer_seconds=first.total,
        transformer_seconds=second.total,
        memory=max(16 * large + activations, 16 * small + feature_maps) + (300 << 20),
    )


def held_out(images: int) -> float:
    """The fraction of the images that is held out for evaluation."""
    return 0.0 if images < 40 else min(HELD_OUT, 1024 / images)
