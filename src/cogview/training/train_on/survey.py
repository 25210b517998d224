"""What the data are, what every sample becomes, and what training on it will cost.

The time is that of some training steps, done here and now (``measure.py``), times their number, and of the
evaluations between them.
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

LOOK_AT = 5000  # records that are decoded to know the data; a larger set is judged by its first ones

HELD_OUT = 0.05  # of the images, where there are enough


class Survey(Config):
    """What was found: the report of the records looked at, and what it does not say.

    unnamed: images without a caption of their own; smallest: side of the smallest image, in pixels;
    most: the largest number of captions of one image.
    """

    total: int
    report: Report
    unnamed: int = 0
    smallest: int = 0
    most: int = 0
    examples: tuple[str, ...] = Field(default=())

    @property
    def pictures(self) -> int:
        """How many usable images there are, extrapolated where not all were looked at."""
        if self.report.records == self.total:
            return self.report.good
        return round(self.total * self.report.good / max(1, self.report.records))


def survey(
    plain: Source, named: Source, limits: Limits, progress: Callable[[int, int], None] | None = None
) -> Survey:
    """Read the first records of a data set as a build would (``named`` is ``plain`` with every caption).

    Raises CogViewError where none of them is usable.
    """
    tally, seen, examples = Tally(), set[str](), dict[str, None]()
    unnamed, sides, most = 0, list[int](), 0
    total = min(LOOK_AT, len(plain))
    with Decoders(limits, GLANCE, workers_for(plain)) as decoders:
        readings = decoders.readings(islice(named.records(), total))
        for own, (record, found) in zip(islice(plain.records(), total), readings, strict=True):
            reading = found.unless_in(seen, record)
            tally.add(reading)
            if reading.sample is not None:
                sides.append(reading.side)
                most = max(most, len(record.captions))
                unnamed += not own.captions
                if len(examples) < 8:
                    examples[record.captions[0].text] = None
            if progress:
                progress(tally.records, total)
    report = tally.report()
    if not report.good:
        first = report.examples[0].message if report.examples else "no records"
        raise CogViewError(f"not one usable picture among {report.records:,} records; the first: {first}")
    return Survey(
        total=len(plain),
        report=report,
        unnamed=unnamed,
        smallest=min(sides),
        most=most,
        examples=tuple(examples),
    )


def describe(found: Survey, size: int) -> list[str]:
    """The survey for people."""
    report = found.report
    looked = (
        "" if report.records == found.total else f" among the first {report.records:,} of {found.total:,}"
    )
    counts = ", ".join(f"{name or 'untagged'} {n:,}" for name, n in report.captions.items())
    several = f", up to {found.most} a picture" if found.most > 1 else ""
    lines = [f"{report.good:,} usable pictures{looked}; captions: {counts}{several}"]
    for reason, count in report.rejected.items():
        first = next(example for example in report.examples if example.reason == reason)
        lines.append(
            f"  {count:,} left out, {reason}: {EXPLANATIONS.get(reason, '')} (such as {first.place})"
        )
    lines += [f"  {count:,} converted: {how}" for how, count in report.conversions.items()]
    if found.unnamed:
        named = found.examples[0] if found.unnamed == report.good else "…"
        example = f', such as "{named}"' if named != "…" else ""
        lines.append(f"  {found.unnamed:,} without a caption: called after their files or folders{example}")
    if found.smallest < size:
        lines.append(f"  the smallest is {found.smallest} px and becomes {size}: enlarged, it stays blurred")
    if report.good < 100:
        lines.append("  few pictures: expect the model to learn them by heart rather than to invent")
    return lines


# ---------------------------------------------------------------------------------------------- text


def fit_text_tokenizer(texts: Sequence[str], pieces: int) -> TextTokenizer:
    """A text tokenizer of ``pieces``, or of as many as the texts allow."""
    for _ in range(8):
        try:
            return TextTokenizer.train(texts, pieces)
        except CogViewError as error:
            limit = re.search(r"suffice for (\d+) at most", str(error))
            needed = re.search(r"characters alone need (\d+)", str(error))
            if not limit and not needed:
                raise
            pieces = int(limit[1]) if limit else int(needed[1]) + 8 if needed else pieces
    raise CogViewError("no text tokenizer can be learnt from these captions; write longer ones")


class Lengths(Config):
    """Lengths of the captions in tokens; ``over`` are longer than what the model reads and are cut."""

    least: int
    median: int
    most: int
    over: int

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: TextTokenizer, limit: int) -> Lengths:
        """The lengths of some texts."""
        found = [len(tokenizer.encode(text)) for text in texts]
        over = sum(length > limit for length in found)
        return cls(least=min(found), median=round(statistics.median(found)), most=max(found), over=over)


# ---------------------------------------------------------------------------------------------- cost


class Cost(Config):
    """An estimate: seconds for each stage and bytes of memory at the most."""

    tokenizer_parameters: int
    transformer_parameters: int
    tokenizer_seconds: float
    transformer_seconds: float
    memory: int

    @property
    def seconds(self) -> float:
        """All of the training."""
        return self.tokenizer_seconds + self.transformer_seconds


def tokenizer_parameters(config: ImageTokenizerConfig) -> int:
    """All weights of an image tokenizer."""
    with torch.device("meta"):
        return sum(p.numel() for p in ImageTokenizer(config).parameters())


def transformer_parameters(config: TransformerConfig) -> int:
    """All weights of a transformer."""
    return sum(tensor.numel() for tensor in Transformer.shapes(config).values())


class Part(NamedTuple):
    """A run of training: updates, rows of each, seconds of each; rows evaluated, and how often."""

    steps: int = 0
    rows: int = 1
    seconds: float = 0.0
    evaluated: int = 0
    evaluations: int = 0

    @property
    def total(self) -> float:
        """Seconds of all; an evaluation is a forward pass, a third of a step of as many rows."""
        return self.seconds * (self.steps + self.evaluations * self.evaluated / self.rows / 3)


def estimate(
    tokenizer: ImageTokenizerConfig, first: Part, config: TransformerConfig, second: Part, length: int
) -> Cost:
    """What training costs. ``first`` has no steps where the tokenizer is taken over; length: of a sequence.

    Memory: weights, gradients and two moments, and the activations of one batch.
    """
    small, large = tokenizer_parameters(tokenizer), transformer_parameters(config)
    held = 4 * second.rows * length * config.hidden * config.layers * 16
    area = 4 * first.rows * tokenizer.image_size**2 * 64
    return Cost(
        tokenizer_parameters=small,
        transformer_parameters=large,
        tokenizer_seconds=first.total,
        transformer_seconds=second.total,
        memory=max(16 * large + held, 16 * small + area) + (300 << 20),
    )


def held_out(pictures: int) -> float:
    """The share of the images that is kept for evaluation."""
    return 0.0 if pictures < 40 else min(HELD_OUT, 1024 / pictures)
