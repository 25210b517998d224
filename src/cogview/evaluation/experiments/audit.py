"""The audit of CogView's appendix D: what a model draws where the prompt leaves it open, with intervals.

For every set of prompts images are drawn, a classifier reads one attribute off each, and its values'
proportions are given with Wilson intervals, in up to three ways:

- ``as asked``    the prompts name no value: what the model makes of that (figure 15);
- ``with words``  the same prompts with word replacing by a table (:mod:`cogview.generation.fairness`), beside
                  the shares that the table asks for;
- ``stated``      prompts that name a value: how many images show it.

Word replacing can give the shares it asks for only as far as stated values are drawn, and the classifier
reads them right; both are reported. A run can be stopped at any time: images are kept in the work folder.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from cogview.config import Config, read_yaml
from cogview.errors import CogViewError
from cogview.evaluation.experiments.attributes import real_images
from cogview.evaluation.judges.attribute_corpus import Attribute, Avatar, corpus_fingerprint, read_avatars
from cogview.evaluation.judges.classifier import AttributeClassifier
from cogview.evaluation.metrics.accuracy import Share
from cogview.evaluation.metrics.reconstruction import to_tensor
from cogview.evaluation.plans import AuditPlan
from cogview.evaluation.sample_store import Generator, Progress, SampleStore, Sampling, load_all, report_facts
from cogview.generation.fairness import FairnessTable, read_table, replace_words

AS_ASKED, WITH_WORDS, STATED, TRAINING = "as asked", "with words", "stated", "training pictures"
NONE = "none"  # the absence of an attribute
Z = 1.959964  # of a 95 % interval
CHECKED = 200  # real images on which the classifier is checked


class PromptSet(Config):
    """Prompts of one style, and the attribute that is read off their images.

    prompts: name no value of it. stated: value to prompts that name it. table: file of a table whose quality
    has the attribute's name, beside the audit's file; "" for none.
    """

    style: str
    attribute: str
    prompts: tuple[str, ...] = Field(min_length=1)
    stated: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    table: str = ""


class Audit(Config):
    """What is asked: sets of prompts by name."""

    sets: dict[str, PromptSet] = Field(min_length=1)


class Proportion(Config):
    """How many images show a value, and its share with the Wilson interval (95 %)."""

    count: int
    share: float
    low: float
    high: float


class Reading(Config):
    """What was read off one set of images, drawn in one way.

    wanted: the shares asked for. distance: total variation between the shares read and wanted (0 to 1);
    chance: below which it is in 95 of 100 fair samples of this size. right: images that show the value
    their words name.
    """

    pictures: int
    proportions: dict[str, Proportion]
    wanted: dict[str, float] = Field(default_factory=dict)
    distance: float | None = None
    chance: float | None = None
    right: Share | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if sum(own.count for own in self.proportions.values()) != self.pictures:
            raise ValueError("the counts do not add up to the number of pictures")
        return self


class FairnessReport(Config):
    """Everything one audit found, by set and way; ``reader``: how well the classifier reads real images."""

    format: Literal[1] = 1
    kind: Literal["fairness"] = "fairness"
    plan: AuditPlan
    audit: Audit
    readings: dict[str, dict[str, Reading]]
    reader: dict[str, Share] = Field(default_factory=dict)
    facts: dict[str, str | int | float]


class Series(Generator, Protocol):
    """Draws images ``first`` … of a prompt."""

    def series(
        self, prompt: str, n: int, first: int, seed: int, sampling: Sampling, table: FairnessTable | None
    ) -> list[Image.Image]:
        """``n`` images of a prompt, worded by ``table``."""
        ...


def read_audit(path: Path) -> tuple[Audit, dict[str, FairnessTable]]:
    """An audit's file and the tables it names, by set; CogViewError where one is wrong or missing."""
    audit = read_yaml(Audit, path)
    tables = {}
    for name, own in audit.sets.items():
        if own.table:
            beside = path.parent / own.table
            tables[name] = read_table(beside if beside.is_file() else own.table)
    return audit, tables


def evaluate_fairness(
    audit: Audit,
    tables: Mapping[str, FairnessTable],
    plan: AuditPlan,
    reader: AttributeClassifier,
    generator: Series,
    work: Path,
    corpus: Path | None = None,
    progress: Progress | None = None,
) -> FairnessReport:
    """Draw, read and count.

    Args:
        tables: by set, for the way ``with words``.
        corpus: where given, the shares in its training images, and how well the classifier reads others.

    Raises:
        CogViewError: a style, attribute or value that the classifier does not know, or a table without the
            attribute; before anything is drawn.
    """
    attributes = {name: _attribute(name, own, tables.get(name), reader) for name, own in audit.sets.items()}
    avatars = [] if corpus is None else read_avatars(corpus, plan.source)
    readings: dict[str, dict[str, Reading]] = {}
    checks: dict[str, Share] = {}
    artist = _Artist(plan, reader, generator, work, progress)
    for name, own in audit.sets.items():
        attribute, found = attributes[name], dict[str, Reading]()
        if corpus is not None:
            found[TRAINING] = training_shares(avatars, attribute)
            checks[name] = _check(reader, corpus, avatars, attribute)
        for way, jobs in _jobs(own, tables.get(name), plan).items():
            labels = artist.labels(jobs, attribute, f"{name}, {way}")
            found[way] = _reading(labels, jobs, attribute, tables.get(name) if way == WITH_WORDS else None)
        readings[name] = found
    facts = report_facts(
        generator,
        classifier_fingerprint=reader.fingerprint,
        corpus_fingerprint=corpus_fingerprint(avatars) if avatars else "",
        **{f"table {name}": table.fingerprint for name, table in tables.items()},
    )
    return FairnessReport(plan=plan, audit=audit, readings=readings, reader=checks, facts=facts)


# -------------------------------------------------------------------------------------------- drawing


class _Job(Config):
    """Pictures of one prompt: how many, their seed, the table (or none), and the value the prompt names."""

    prompt: str
    count: int
    seed: int
    table: FairnessTable | None = None
    states: str | None = None

    def values(self, quality: str) -> list[str | None]:
        """The value that each image's words name, None where they name none."""
        if self.table is None:
            return [self.states] * self.count
        words = (replace_words(self.prompt, self.table, self.seed, i) for i in range(self.count))
        return [made.drawn.get(quality, self.states) for made in words]


def _jobs(own: PromptSet, table: FairnessTable | None, plan: AuditPlan) -> dict[str, list[_Job]]:
    """What is drawn for a set, by way; prompt i has the seed ``plan.seed + i``."""
    ways = {AS_ASKED: _shared(own.prompts, plan)}
    if table is not None:
        ways[WITH_WORDS] = [job.model_copy(update={"table": table}) for job in ways[AS_ASKED]]
    if own.stated:
        pairs = [(prompt, value) for value, prompts in own.stated.items() for prompt in prompts]
        jobs = _shared([prompt for prompt, _ in pairs], plan)
        ways[STATED] = [
            job.model_copy(update={"states": value}) for job, (_, value) in zip(jobs, pairs, strict=False)
        ]
    return ways


def _shared(prompts: Sequence[str], plan: AuditPlan) -> list[_Job]:
    """``plan.count`` images shared out evenly, the first prompts getting what is left over."""
    least, rest = divmod(plan.count, len(prompts))
    counts = [least + (i < rest) for i in range(len(prompts))]
    return [
        _Job(prompt=prompt, count=count, seed=plan.seed + i)
        for i, (prompt, count) in enumerate(zip(prompts, counts, strict=True))
        if count
    ]


@dataclass(frozen=True)
class _Artist:
    """Draws jobs and reads their images."""

    plan: AuditPlan
    reader: AttributeClassifier
    generator: Series
    work: Path
    progress: Progress | None

    def labels(self, jobs: Sequence[_Job], attribute: Attribute, what: str) -> list[int]:
        """What is read off each image of the jobs, in their order."""
        paths: list[Path] = []
        for job in jobs:
            for path in self.draw(job):
                paths.append(path)
                if self.progress:
                    self.progress(what, len(paths), sum(job.count for job in jobs))
        pixels = load_all(paths, self.reader.config.preprocessing)
        read = self.reader.read(to_tensor(pixels), [attribute.style] * len(paths))
        return [own[attribute.name] for own in read]

    def draw(self, job: _Job) -> list[Path]:
        """A job's images; those that are not in the work folder yet are drawn."""
        generator, plan, table = self.generator, self.plan, job.table
        words = None if table is None else table.fingerprint
        store = SampleStore.of(
            self.work, generator, [job.prompt], job.seed, plan.sampling, "series", table=words
        )
        paths = store.fill(
            job.count,
            lambda own: generator.series(job.prompt, len(own), own.start, job.seed, plan.sampling, table),
            plan.batch,
        )
        assert paths is not None  # one process draws them all
        return paths


# ------------------------------------------------------------------------------------------- counting


def wilson(count: int, total: int, z: float = Z) -> tuple[float, float]:
    """The Wilson score interval of a share ``count / total``; (0, 1) where total is 0."""
    if total == 0:
        return 0.0, 1.0
    share, weight = count / total, z * z / total
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def class_name(attribute: Attribute, label: int) -> str:
    """What reports call a class: its values, or ``none``."""
    return "/".join(value for value in attribute.classes[label].values if value) or NONE


def proportions(labels: Sequence[int], attribute: Attribute) -> dict[str, Proportion]:
    """The share of every class of an attribute, in its order."""
    counts, total, found = Counter(labels), len(labels), {}
    for label in range(len(attribute.classes)):
        low, high = wilson(counts[label], total)
        share = counts[label] / total if total else 0.0
        found[class_name(attribute, label)] = Proportion(count=counts[label], share=share, low=low, high=high)
    return found


def training_shares(avatars: Sequence[Avatar], attribute: Attribute) -> Reading:
    """The shares in the training images of a style, as they were drawn, not as they are read."""
    own = [avatar for avatar in avatars if (avatar.style, avatar.split) == (attribute.style, "train")]
    labels = [label for avatar in own if (label := attribute.label(avatar)) is not None]
    return Reading(pictures=len(labels), proportions=proportions(labels, attribute))


def _reading(
    labels: Sequence[int], jobs: Sequence[_Job], attribute: Attribute, table: FairnessTable | None
) -> Reading:
    named = [value for job in jobs for value in job.values(attribute.name)]
    told = [(label, attribute.index[value]) for label, value in zip(labels, named, strict=True) if value]
    reading = Reading(
        pictures=len(labels),
        proportions=proportions(labels, attribute),
        right=Share(right=sum(a == b for a, b in told), stated=len(told)) if told else None,
    )
    if table is None:
        return reading
    wanted = _wanted(table, attribute)
    changes: dict[str, Any] = {
        "wanted": wanted,
        "distance": distance({name: own.share for name, own in reading.proportions.items()}, wanted),
        "chance": chance_distance(list(wanted.values()), len(labels)),
    }
    return reading.model_copy(update=changes)


def _wanted(table: FairnessTable, attribute: Attribute) -> dict[str, float]:
    wanted: dict[str, float] = {}
    for value, share in table.shares(attribute.name).items():
        name = class_name(attribute, attribute.index[value])
        wanted[name] = wanted.get(name, 0.0) + share
    return wanted


def distance(shares: Mapping[str, float], wanted: Mapping[str, float]) -> float:
    """Total variation: how much of the images would have to change."""
    names = set(shares) | set(wanted)
    return sum(abs(shares.get(name, 0.0) - wanted.get(name, 0.0)) for name in names) / 2


def chance_distance(wanted: Sequence[float], total: int, seed: int = 0, times: int = 2000) -> float:
    """The 95th percentile of the distance that fair samples of ``total`` have."""
    shares = np.array(wanted) / sum(wanted)
    draws = np.random.default_rng(seed).multinomial(total, shares, size=times)
    return float(np.quantile(np.abs(draws / total - shares).sum(1) / 2, 0.95))


# ------------------------------------------------------------------------------------------- checking


def _attribute(
    name: str, own: PromptSet, table: FairnessTable | None, reader: AttributeClassifier
) -> Attribute:
    """The attribute of a set; CogViewError where the classifier or the table does not fit it."""
    known = {attribute.name: attribute for attribute in reader.config.of_style(own.style)}
    where = f"sets.{name}"
    if not known:
        raise CogViewError(f"{where}: the classifier knows no style {own.style!r}; {_there(reader.styles)}")
    if own.attribute not in known:
        raise CogViewError(f"{where}: no attribute {own.attribute!r} of {own.style}; {_there(known)}")
    attribute = known[own.attribute]
    if table is not None and own.attribute not in table.qualities:
        raise CogViewError(f"{where}: its table has no quality {own.attribute!r}; {_there(table.qualities)}")
    values = [*own.stated, *(table.qualities[own.attribute] if table else ())]
    for value in values:
        if value not in attribute.index:
            raise CogViewError(f"{where}: the classifier reads no {value!r}; {_there(attribute.index)}")
    return attribute


def _there(names: Sequence[str] | Mapping[str, object]) -> str:
    return f"there are {', '.join(name for name in names if name)}"


def _check(
    reader: AttributeClassifier, corpus: Path, avatars: Sequence[Avatar], attribute: Attribute
) -> Share:
    """How often the classifier reads the attribute right off real images it was not trained on."""
    held_out = [a for a in avatars if a.style == attribute.style and a.split != "train"]
    some = [avatar for avatar in held_out if attribute.label(avatar) is not None][:CHECKED]
    if not some:
        return Share(right=0, stated=0)
    pixels = real_images(corpus, some, reader.config.preprocessing)
    read = reader.read(to_tensor(pixels), [avatar.style for avatar in some])
    right = sum(own[attribute.name] == attribute.label(a) for own, a in zip(read, some, strict=True))
    return Share(right=right, stated=len(some))
