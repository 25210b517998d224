"""The fairness audit of CogView's appendix D: proportions of attribute values for open prompts.

Images are generated for every set of prompts, a classifier reads one attribute of each, and the proportions
of its values are reported with Wilson intervals, under up to three conditions:

- ``as asked``    the prompts name no value: the model's preferences (figure 15);
- ``with words``  the same prompts with word replacing by a table (:mod:`cogview.generation.fairness`),
                  compared with the table's target shares;
- ``stated``      prompts that name a value: how many images show it.

Word replacing can reach its target shares only as far as stated values are generated and the classifier reads
them correctly; both are reported. A run can be interrupted at any time: images are stored in the work folder.
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
    """Prompts of one style, and the attribute that is read from their images.

    prompts: prompts that name no value; stated: value to prompts that name it; table: file of a table that
    has the attribute as a quality, relative to the audit's file; "" for none.
    """

    style: str
    attribute: str
    prompts: tuple[str, ...] = Field(min_length=1)
    stated: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    table: str = ""


class Audit(Config):
    """Sets of prompts by name."""

    sets: dict[str, PromptSet] = Field(min_length=1)


class Proportion(Config):
    """The number of images that show a value, and its share with the 95 % Wilson interval."""

    count: int
    share: float
    low: float
    high: float


class Reading(Config):
    """The figures of one set of images under one condition.

    wanted: the target shares; distance: total variation between the shares read and the target (0 to 1);
    chance: the 95th percentile of that distance for samples of this size from the target; right: images that
    show the value that their prompts name.
    """

    pictures: int
    proportions: dict[str, Proportion]
    wanted: dict[str, float] = Field(default_factory=dict)
    distance: float | None = None
    chance: float | None = None
    right: Share | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if sum(proportion.count for proportion in self.proportions.values()) != self.pictures:
            raise ValueError("the counts do not add up to the number of images")
        return self


class FairnessReport(Config):
    """The results of an audit, by set and condition; ``reader``: the classifier's accuracy on real images."""

    format: Literal[1] = 1
    kind: Literal["fairness"] = "fairness"
    plan: AuditPlan
    audit: Audit
    readings: dict[str, dict[str, Reading]]
    reader: dict[str, Share] = Field(default_factory=dict)
    facts: dict[str, str | int | float]


class Series(Generator, Protocol):
    """Generates a range of the images of a prompt."""

    def series(
        self, prompt: str, n: int, first: int, seed: int, sampling: Sampling, table: FairnessTable | None
    ) -> list[Image.Image]:
        """``n`` images of a prompt from index ``first`` on, with words replaced by ``table``."""
        ...


def read_audit(path: Path) -> tuple[Audit, dict[str, FairnessTable]]:
    """Read an audit's file and its tables, by set; CogViewError if one is wrong or missing."""
    audit = read_yaml(Audit, path)
    tables = {}
    for name, prompt_set in audit.sets.items():
        if prompt_set.table:
            beside = path.parent / prompt_set.table
            tables[name] = read_table(beside if beside.is_file() else prompt_set.table)
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
    """Generate, classify and count.

    Args:
        tables: by set, for the condition ``with words``.
        corpus: if given, also report the shares in its training images and the classifier's accuracy on
            others.

    Raises:
        CogViewError: the classifier does not know a style, attribute or value, or a table lacks the
            attribute; before anything is generated.
    """
    attributes = {name: _attribute(name, s, tables.get(name), reader) for name, s in audit.sets.items()}
    avatars = [] if corpus is None else read_avatars(corpus, plan.source)
    readings: dict[str, dict[str, Reading]] = {}
    checks: dict[str, Share] = {}
    runner = _Runner(plan, reader, generator, work, progress)
    for name, prompt_set in audit.sets.items():
        attribute, by_condition = attributes[name], dict[str, Reading]()
        if corpus is not None:
            by_condition[TRAINING] = training_shares(avatars, attribute)
            checks[name] = _check(reader, corpus, avatars, attribute)
        for condition, jobs in _jobs(prompt_set, tables.get(name), plan).items():
            labels = runner.labels(jobs, attribute, f"{name}, {condition}")
            table = tables.get(name) if condition == WITH_WORDS else None
            by_condition[condition] = _reading(labels, jobs, attribute, table)
        readings[name] = by_condition
    facts = report_facts(
        generator,
        classifier_fingerprint=reader.fingerprint,
        corpus_fingerprint=corpus_fingerprint(avatars) if avatars else "",
        **{f"table {name}": table.fingerprint for name, table in tables.items()},
    )
    return FairnessReport(plan=plan, audit=audit, readings=readings, reader=checks, facts=facts)


# ------------------------------------------------------------------------------------------ generation


class _Job(Config):
    """Images of one prompt: count, seed, table for word replacing if any, and the value the prompt names."""

    prompt: str
    count: int
    seed: int
    table: FairnessTable | None = None
    states: str | None = None

    def values(self, quality: str) -> list[str | None]:
        """The value that each image's prompt names, None if it names none."""
        if self.table is None:
            return [self.states] * self.count
        replaced = (replace_words(self.prompt, self.table, self.seed, i) for i in range(self.count))
        return [worded.drawn.get(quality, self.states) for worded in replaced]


def _jobs(prompt_set: PromptSet, table: FairnessTable | None, plan: AuditPlan) -> dict[str, list[_Job]]:
    """The jobs of a prompt set, by condition; prompt i has the seed ``plan.seed + i``."""
    conditions = {AS_ASKED: _divided(prompt_set.prompts, plan)}
    if table is not None:
        conditions[WITH_WORDS] = [job.model_copy(update={"table": table}) for job in conditions[AS_ASKED]]
    if prompt_set.stated:
        pairs = [(prompt, value) for value, prompts in prompt_set.stated.items() for prompt in prompts]
        jobs = _divided([prompt for prompt, _ in pairs], plan)
        conditions[STATED] = [
            job.model_copy(update={"states": value}) for job, (_, value) in zip(jobs, pairs, strict=False)
        ]
    return conditions


def _divided(prompts: Sequence[str], plan: AuditPlan) -> list[_Job]:
    """``plan.count`` images divided evenly among the prompts; the first ones get the remainder."""
    least, rest = divmod(plan.count, len(prompts))
    counts = [least + (i < rest) for i in range(len(prompts))]
    return [
        _Job(prompt=prompt, count=count, seed=plan.seed + i)
        for i, (prompt, count) in enumerate(zip(prompts, counts, strict=True))
        if count
    ]


@dataclass(frozen=True)
class _Runner:
    """Generates the images of jobs and classifies them."""

    plan: AuditPlan
    reader: AttributeClassifier
    generator: Series
    work: Path
    progress: Progress | None

    def labels(self, jobs: Sequence[_Job], attribute: Attribute, what: str) -> list[int]:
        """The class read from each image of the jobs, in their order."""
        paths: list[Path] = []
        for job in jobs:
            for path in self.generate(job):
                paths.append(path)
                if self.progress:
                    self.progress(what, len(paths), sum(job.count for job in jobs))
        pixels = load_all(paths, self.reader.config.preprocessing)
        read = self.reader.read(to_tensor(pixels), [attribute.style] * len(paths))
        return [answers[attribute.name] for answers in read]

    def generate(self, job: _Job) -> list[Path]:
        """A job's image files; those that are not in the work folder yet are generated."""
        generator, plan, table = self.generator, self.plan, job.table
        words = None if table is None else table.fingerprint
        store = SampleStore.of(
            self.work, generator, [job.prompt], job.seed, plan.sampling, "series", table=words
        )
        paths = store.fill(
            job.count,
            lambda rows: generator.series(job.prompt, len(rows), rows.start, job.seed, plan.sampling, table),
            plan.batch,
        )
        assert paths is not None  # there is only one rank
        return paths


# ------------------------------------------------------------------------------------------- counting


def wilson(count: int, total: int, z: float = Z) -> tuple[float, float]:
    """The Wilson score interval of a share ``count / total``; (0, 1) if total is 0."""
    if total == 0:
        return 0.0, 1.0
    share, weight = count / total, z * z / total
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def class_name(attribute: Attribute, label: int) -> str:
    """The name of a class in reports: its values, or ``none``."""
    return "/".join(value for value in attribute.classes[label].values if value) or NONE


def proportions(labels: Sequence[int], attribute: Attribute) -> dict[str, Proportion]:
    """The share of every class of an attribute, in its order."""
    counts, total, by_name = Counter(labels), len(labels), {}
    for label in range(len(attribute.classes)):
        low, high = wilson(counts[label], total)
        share = counts[label] / total if total else 0.0
        by_name[class_name(attribute, label)] = Proportion(
            count=counts[label], share=share, low=low, high=high
        )
    return by_name


def training_shares(avatars: Sequence[Avatar], attribute: Attribute) -> Reading:
    """The shares in the training images of a style, by their true attributes, not by the classifier."""
    members = [avatar for avatar in avatars if (avatar.style, avatar.split) == (attribute.style, "train")]
    labels = [label for avatar in members if (label := attribute.label(avatar)) is not None]
    return Reading(pictures=len(labels), proportions=proportions(labels, attribute))


def _reading(
    labels: Sequence[int], jobs: Sequence[_Job], attribute: Attribute, table: FairnessTable | None
) -> Reading:
    named = [value for job in jobs for value in job.values(attribute.name)]
    pairs = [(label, attribute.index[value]) for label, value in zip(labels, named, strict=True) if value]
    reading = Reading(
        pictures=len(labels),
        proportions=proportions(labels, attribute),
        right=Share(right=sum(a == b for a, b in pairs), stated=len(pairs)) if pairs else None,
    )
    if table is None:
        return reading
    target = _target(table, attribute)
    changes: dict[str, Any] = {
        "wanted": target,
        "distance": distance({name: p.share for name, p in reading.proportions.items()}, target),
        "chance": chance_distance(list(target.values()), len(labels)),
    }
    return reading.model_copy(update=changes)


def _target(table: FairnessTable, attribute: Attribute) -> dict[str, float]:
    """The target shares of a table, by the names of the attribute's classes."""
    target: dict[str, float] = {}
    for value, share in table.shares(attribute.name).items():
        name = class_name(attribute, attribute.index[value])
        target[name] = target.get(name, 0.0) + share
    return target


def distance(shares: Mapping[str, float], target: Mapping[str, float]) -> float:
    """Total variation distance: the share of the images that would have to change."""
    names = set(shares) | set(target)
    return sum(abs(shares.get(name, 0.0) - target.get(name, 0.0)) for name in names) / 2


def chance_distance(target: Sequence[float], total: int, seed: int = 0, times: int = 2000) -> float:
    """The 95th percentile of the distance of samples of size ``total`` from the target."""
    shares = np.array(target) / sum(target)
    counts = np.random.default_rng(seed).multinomial(total, shares, size=times)
    return float(np.quantile(np.abs(counts / total - shares).sum(1) / 2, 0.95))


# ------------------------------------------------------------------------------------------- checking


def _attribute(
    name: str, prompt_set: PromptSet, table: FairnessTable | None, reader: AttributeClassifier
) -> Attribute:
    """The attribute of a prompt set; CogViewError if the classifier or the table does not fit it."""
    style, quality = prompt_set.style, prompt_set.attribute
    known = {attribute.name: attribute for attribute in reader.config.of_style(style)}
    where = f"sets.{name}"
    if not known:
        raise CogViewError(f"{where}: the classifier knows no style {style!r}; {_known(reader.styles)}")
    if quality not in known:
        raise CogViewError(f"{where}: no attribute {quality!r} of {style}; {_known(known)}")
    attribute = known[quality]
    if table is not None and quality not in table.qualities:
        raise CogViewError(f"{where}: its table has no quality {quality!r}; {_known(table.qualities)}")
    values = [*prompt_set.stated, *(table.qualities[quality] if table else ())]
    for value in values:
        if value not in attribute.index:
            raise CogViewError(f"{where}: the classifier reads no {value!r}; {_known(attribute.index)}")
    return attribute


def _known(names: Sequence[str] | Mapping[str, object]) -> str:
    return f"there are {', '.join(name for name in names if name)}"


def _check(
    reader: AttributeClassifier, corpus: Path, avatars: Sequence[Avatar], attribute: Attribute
) -> Share:
    """The classifier's accuracy for the attribute on real images that it was not trained on."""
    held_out = [a for a in avatars if a.style == attribute.style and a.split != "train"]
    sample = [avatar for avatar in held_out if attribute.label(avatar) is not None][:CHECKED]
    if not sample:
        return Share(right=0, stated=0)
    pixels = real_images(corpus, sample, reader.config.preprocessing)
    read = reader.read(to_tensor(pixels), [avatar.style for avatar in sample])
    right = sum(
        answers[attribute.name] == attribute.label(a) for answers, a in zip(read, sample, strict=True)
    )
    return Share(right=right, stated=len(sample))
