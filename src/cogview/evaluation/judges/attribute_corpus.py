"""A corpus of captioned images with known attributes: what captions state, and held-out combinations.

A Parquet corpus has for each image a style, captions in several languages and ``meta``: a JSON object of the
attributes shown ({"eyes": "sleepy", "body_color": "blue"}). The wording of an attribute value is learned from
the training captions: the phrase that all captions of the value share and that is rare elsewhere. Values that
captions cannot distinguish ("bangs" and "bangs2" are both "bangs") become one class; values that are rare or
never stated are skipped.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cogview.config import Config
from cogview.data.images import BadImage, decode, square
from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.vocabulary import HAN

WORD = rf"[^\W{HAN}]+"
TOKEN = re.compile(rf"[{HAN}]|{WORD}(?:-{WORD})*|[^\w\s]")
MARK = re.compile(r"[^\w\s-]")
LONGEST_PHRASE = 8
COLUMNS = ("key", "source", "style", "meta", "split")


@dataclass(frozen=True)
class Avatar:
    """The metadata of one image: ``captions`` by language, ``values`` by attribute."""

    key: str
    style: str
    split: str
    captions: Mapping[str, str]
    values: Mapping[str, str]

    @cached_property
    def tokens(self) -> dict[str, str]:
        """The captions by language as tokens between single spaces, so that a phrase is a substring."""
        return {language: spaced(text) for language, text in self.captions.items()}


class Statement(Config):
    """A class of an attribute: its values and, by language, the phrases that state it.

    The value "" is the attribute's absence: it has no phrases, so it is a class but is never stated.
    """

    values: tuple[str, ...]
    phrases: dict[str, tuple[str, ...]]

    def stated_in(self, tokens: Mapping[str, str]) -> bool:
        """Whether the captions (see :attr:`Avatar.tokens`) of every language state it."""
        stated = [any(phrase in tokens[lang] for phrase in known) for lang, known in self.phrases.items()]
        return bool(stated) and all(stated)


class Attribute(Config):
    """An attribute that captions of a style may state, and its classes."""

    style: str
    name: str
    classes: tuple[Statement, ...] = Field(min_length=2)

    @cached_property
    def index(self) -> dict[str, int]:
        """The class of each value."""
        return {value: i for i, statement in enumerate(self.classes) for value in statement.values}

    def label(self, avatar: Avatar) -> int | None:
        """The class that the image shows; None if its value is in no class."""
        return self.index.get(avatar.values.get(self.name, ""))

    def stated(self, avatar: Avatar) -> int | None:
        """The class that the avatar's captions state in every language, or None."""
        label = self.label(avatar)
        return label if label is not None and self.classes[label].stated_in(avatar.tokens) else None


def spaced(text: str) -> str:
    """Lower-case tokens (Chinese by character) between single spaces, with marks for start and end."""
    return f" ^ {' '.join(TOKEN.findall(text.lower()))} $ "


def read_avatars(
    corpus: Path, source: str | None = "dice", languages: Sequence[str] = ("zh", "en")
) -> list[Avatar]:
    """Read all rows of ``source`` (None: any) in a folder of Parquet files, without their images.

    Raises:
        CogViewError: the folder, a Parquet file in it, a column or a row of that source is missing.
    """
    columns = [*COLUMNS, *languages]
    avatars = [
        _avatar(row, languages)
        for row in read_rows(corpus, columns)
        if source is None or row["source"] == source
    ]
    if not avatars:
        raise CogViewError(f"{corpus}: no row whose source is {source!r}; choose another with --source")
    return avatars


def _avatar(row: Mapping[str, Any], languages: Sequence[str]) -> Avatar:
    try:
        meta = json.loads(row["meta"] or "{}")
        values = {name: value for name, value in meta.items() if isinstance(value, str)}
    except (ValueError, AttributeError):
        raise CogViewError(f"row {row['key']!r}: the meta column is not a JSON object") from None
    captions = {language: row[language] or "" for language in languages}
    return Avatar(row["key"], row["style"], row["split"], captions, values)


def read_rows(corpus: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The given columns of every row of a corpus, file by file; CogViewError if one is missing."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise CogViewError(
            "reading Parquet needs pyarrow; install it with: pip install 'cogview[data]'"
        ) from None
    files = sorted(corpus.glob("*.parquet")) if corpus.is_dir() else [corpus] if corpus.is_file() else []
    if not files:
        raise CogViewError(f"{corpus}: no Parquet file here; give the folder the corpus builder wrote")
    for path in files:
        try:
            with parquet.ParquetFile(path) as table:
                missing = [name for name in columns if name not in table.schema_arrow.names]
                if missing:
                    raise CogViewError(f"{path}: no column {missing[0]!r}; is this the right corpus?")
                for batch in table.iter_batches(batch_size=256, columns=list(columns)):
                    yield from batch.to_pylist()
        except (OSError, ValueError) as error:
            if isinstance(error, CogViewError):
                raise
            raise CogViewError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None


def read_images(
    corpus: Path, keys: Iterable[str], preprocessing: Preprocessing
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The images (size, size, 3) of ``keys``, in the order of the files, with their keys."""
    selected = set(keys)
    for row in read_rows(corpus, ("key", "image")):
        if row["key"] in selected:
            try:
                yield row["key"], square(decode(row["image"] or b"").image, preprocessing)
            except BadImage as error:
                raise CogViewError(f"{corpus}: image {row['key']!r} is broken: {error}") from None


def corpus_fingerprint(avatars: Sequence[Avatar]) -> str:
    """16 hex digits over keys, splits, captions and attributes, whatever the order of the rows."""
    rows = sorted(
        json.dumps([a.key, a.split, dict(a.captions), dict(a.values)], sort_keys=True) for a in avatars
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def by_style(avatars: Iterable[Avatar]) -> dict[str, list[Avatar]]:
    """The avatars of each style, styles and avatars in alphabetical order."""
    groups: dict[str, list[Avatar]] = defaultdict(list)
    for avatar in sorted(avatars, key=lambda a: (a.style, a.key)):
        groups[avatar.style].append(avatar)
    return dict(groups)


def find_attributes(avatars: Sequence[Avatar], rare: int = 20) -> tuple[Attribute, ...]:
    """The attributes that the captions of (training) avatars state; classes need ``rare`` images."""
    attributes: list[Attribute] = []
    for style, members in by_style(avatars).items():
        for name in sorted({name for avatar in members for name in avatar.values}):
            attribute = _attribute(style, name, members, rare)
            if attribute is not None:
                attributes.append(attribute)
    return tuple(attributes)


def _attribute(style: str, name: str, members: Sequence[Avatar], rare: int) -> Attribute | None:
    values: dict[str, list[Avatar]] = defaultdict(list)
    for avatar in members:
        values[avatar.values.get(name, "")].append(avatar)
    known = [
        _Value(value, having, members, name)
        for value, having in sorted(values.items())
        if len(having) >= min(rare, 5)
    ]
    groups = [group for group in _merge(known) if sum(len(v.avatars) for v in group) >= rare]
    stated = _stated(groups, members, name)
    classes = [
        Statement(values=tuple(v.value for v in group), phrases=_phrases(group) if group[0].value else {})
        for group in groups
        if group in stated or not group[0].value
    ]
    return Attribute(style=style, name=name, classes=tuple(classes)) if len(classes) > 1 else None


class _Value:
    """A value and, by language, the phrases common to all its captions; ``best`` is the most specific one."""

    def __init__(self, value: str, avatars: Sequence[Avatar], members: Sequence[Avatar], name: str) -> None:
        self.value, self.avatars = value, avatars
        others = _sample([avatar for avatar in members if avatar.values.get(name, "") != value])
        self.common = {language: _common(avatars, language) for language in avatars[0].captions}
        self.best = {language: _rarest(p, others, language) for language, p in self.common.items()}

    def same_phrase(self, other: _Value) -> bool:
        """Whether both values have the same phrase in some language."""
        return any(
            self.best[lang] in other.common[lang] and other.best[lang] in self.common[lang]
            for lang in self.best
        )


def _common(avatars: Sequence[Avatar], language: str) -> list[str]:
    """The phrases (up to LONGEST_PHRASE tokens) that all captions share, short ones first."""
    first = avatars[0].tokens[language].split()
    spans = [(n, i) for n in range(1, LONGEST_PHRASE + 1) for i in range(len(first) - n + 1)]
    phrases = list(dict.fromkeys(f" {' '.join(first[i : i + n])} " for n, i in spans))
    for avatar in avatars[1:]:
        phrases = [phrase for phrase in phrases if phrase in avatar.tokens[language]]
    return phrases


def _rarest(phrases: Sequence[str], others: Sequence[Avatar], language: str) -> str:
    """The phrase that fewest other captions have; among equally rare ones, the shortest without marks.

    A longer phrase may hold words that merely co-occur with the value in training, and fail on held-out data.
    """
    hits = {phrase: sum(phrase in avatar.tokens[language] for avatar in others) for phrase in phrases}
    rare = [phrase for phrase in phrases if hits[phrase] <= min(hits.values()) + len(others) / 50]
    return min(rare, key=lambda phrase: (bool(MARK.search(phrase)), len(phrase)))


def _sample(avatars: Sequence[Avatar], limit: int = 500) -> Sequence[Avatar]:
    """At most ``limit`` of the avatars, evenly spaced."""
    return avatars[:: -(-len(avatars) // limit) or 1]


_Group = list[_Value]


def _merge(values: Sequence[_Value]) -> list[_Group]:
    groups: list[_Group] = []
    for value in values:
        same = [group for group in groups if any(value.same_phrase(other) for other in group)]
        groups = [group for group in groups if group not in same]
        groups.append([v for group in same for v in group] + [value])
    return sorted(
        (sorted(group, key=lambda v: v.value) for group in groups), key=lambda group: group[0].value
    )


def _phrases(group: _Group) -> dict[str, tuple[str, ...]]:
    return {lang: tuple(dict.fromkeys(v.best[lang] for v in group)) for lang in group[0].best}


def _stated(groups: Sequence[_Group], members: Sequence[Avatar], name: str) -> list[_Group]:
    """The groups that captions state: their phrases are specific, at least among the groups that remain.

    Absence ("") can be stated directly ("without a sun"), but not by elimination: a caption that leaves
    something out does not state its absence.
    """
    direct = [group for group in groups if _specific(group, members, name, [])]
    rest = [group for group in groups if group not in direct and group[0].value]
    return direct + [group for group in rest if _specific(group, members, name, direct)]


def _specific(group: _Group, members: Sequence[Avatar], name: str, excluded: Sequence[_Group]) -> bool:
    """Whether at most a quarter of the other captions, without ``excluded`` groups, have the group's phrases.

    Phrases that over three quarters of all other captions have are never specific.
    """
    values, excluded_values = {v.value for v in group}, {v.value for g in excluded for v in g}
    others = [avatar for avatar in members if avatar.values.get(name, "") not in values]
    remaining = [avatar for avatar in others if avatar.values.get(name, "") not in excluded_values]
    for language, phrases in _phrases(group).items():
        if _share(phrases, others, language) > 3 / 4 or _share(phrases, remaining, language) > 1 / 4:
            return False
    return True


def _share(phrases: Sequence[str], avatars: Sequence[Avatar], language: str) -> float:
    sample = _sample(avatars)
    return sum(any(p in avatar.tokens[language] for p in phrases) for avatar in sample) / max(1, len(sample))


def statements(avatar: Avatar, attributes: Iterable[Attribute]) -> dict[str, int]:
    """The classes that the avatar's captions state, by attribute of its style."""
    labels = {a.name: a.stated(avatar) for a in attributes if a.style == avatar.style}
    return {name: label for name, label in labels.items() if label is not None}


def caption_languages(attributes: Iterable[Attribute], languages: Sequence[str]) -> tuple[str, ...]:
    """``languages`` and all languages in which attributes are stated; :func:`select` needs their captions."""
    stated = (
        name for attribute in attributes for statement in attribute.classes for name in statement.phrases
    )
    return tuple(dict.fromkeys((*languages, *stated)))


def _pairs(stated: Mapping[str, int]) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    return combinations(sorted(stated.items()), 2)


class Selection(Config):
    """Held-out combinations to generate: their keys in order, and the pairs of values unseen in training."""

    seed: int
    split: str
    keys: tuple[str, ...]
    unseen: dict[str, tuple[str, ...]]


def select(
    avatars: Sequence[Avatar],
    attributes: Sequence[Attribute],
    count: int,
    seed: int = 0,
    split: str = "test_comp",
) -> Selection:
    """Select ``count`` avatars of ``split``, balanced over the styles, whose combination is truly held out.

    Each has a pair of stated attributes that no image of split "train" has together, and captions that
    differ from all training captions and from each other.

    Raises:
        CogViewError: there are fewer than ``count``.
    """
    training = TrainingCombinations(avatars, attributes)
    pools: dict[str, list[Avatar]] = {}
    for style, members in by_style(a for a in avatars if a.split == split).items():
        random.Random(f"{seed} {style}").shuffle(members)
        pools[style] = _distinct(avatar for avatar in members if training.unseen(avatar))
    if count > (available := sum(map(len, pools.values()))):
        raise CogViewError(f"split {split!r} has {available} held-out combinations, not {count}; lower --n")
    shares = _shares({style: len(pool) for style, pool in pools.items()}, count)
    selected = [avatar for style, pool in pools.items() for avatar in pool[: shares[style]]]
    unseen = {avatar.key: tuple(training.unseen(avatar)) for avatar in selected}
    return Selection(seed=seed, split=split, keys=tuple(unseen), unseen=unseen)


class SelectionPlan(Protocol):
    """The part of a plan that determines which avatars are selected."""

    @property
    def count(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def split(self) -> str: ...


def held_out(
    avatars: Sequence[Avatar], attributes: Sequence[Attribute], plan: SelectionPlan
) -> tuple[Selection, list[Avatar]]:
    """The selection of a plan (see :func:`select`), and its avatars in that order."""
    selection = select(avatars, attributes, plan.count, plan.seed, plan.split)
    by_key = {avatar.key: avatar for avatar in avatars}
    return selection, [by_key[key] for key in selection.keys]


class TrainingCombinations:
    """The captions of the training split, and the pairs of attribute values that its images show together."""

    def __init__(self, avatars: Iterable[Avatar], attributes: Sequence[Attribute]) -> None:
        self.attributes = attributes
        self.captions: set[str] = set()
        self.pairs: set[tuple[object, ...]] = set()
        for avatar in avatars:
            if avatar.split == "train":
                self.captions.update(avatar.captions.values())
                self.pairs.update((avatar.style, *pair) for pair in _pairs(self._labels(avatar)))

    def _labels(self, avatar: Avatar) -> dict[str, int]:
        labels = {a.name: a.label(avatar) for a in self.attributes if a.style == avatar.style}
        return {name: label for name, label in labels.items() if label is not None}

    def unseen(self, avatar: Avatar) -> list[str]:
        """The stated pairs ("eyes=sleepy + pot=bowl") not in training; none if a caption is in training."""
        if self.captions.intersection(avatar.captions.values()):
            return []
        stated = statements(avatar, self.attributes)
        unseen = [pair for pair in _pairs(stated) if (avatar.style, *pair) not in self.pairs]
        return [
            " + ".join(f"{name}={avatar.values.get(name, 'none')}" for name, _ in pair) for pair in unseen
        ]


def _distinct(avatars: Iterable[Avatar]) -> list[Avatar]:
    """The avatars that share no caption with an earlier one."""
    kept: list[Avatar] = []
    known: set[str] = set()
    for avatar in avatars:
        if not known.intersection(avatar.captions.values()):
            kept.append(avatar)
            known.update(avatar.captions.values())
    return kept


def _shares(available: Mapping[str, int], count: int) -> Counter[str]:
    """Divide ``count`` evenly over the styles, with at most ``available`` for each."""
    shares: Counter[str] = Counter()
    while sum(shares.values()) < count:
        for style in available:
            if shares[style] < available[style] and sum(shares.values()) < count:
                shares[style] += 1
    return shares
