"""Captioned images whose attributes are known: what a caption states, and what is held out.

A corpus in Parquet gives for each image a style, captions in several languages and ``meta``: a JSON object
of the attributes drawn ({"eyes": "sleepy", "body_color": "blue"}). What a caption says of an attribute is
learned from the training captions: the phrase common to all captions of a value and rare elsewhere. Values
no caption can tell apart ("bangs" and "bangs2" are both "bangs") become one class; values that are rare or
unstated are skipped.
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
    """One image's facts: ``captions`` by language, ``values`` by attribute."""

    key: str
    style: str
    split: str
    captions: Mapping[str, str]
    values: Mapping[str, str]

    @cached_property
    def tokens(self) -> dict[str, str]:
        """The captions as tokens between single spaces, so that a phrase is a substring."""
        return {language: spaced(text) for language, text in self.captions.items()}


class Statement(Config):
    """A class of an attribute: the values that share it and, by language, the phrases that state it.

    The value "" is the attribute's absence: it has no phrases, so it is read but never counted as stated.
    """

    values: tuple[str, ...]
    phrases: dict[str, tuple[str, ...]]

    def stated_in(self, tokens: Mapping[str, str]) -> bool:
        """Whether the captions (see :attr:`Avatar.tokens`) of every language say it."""
        said = [any(phrase in tokens[lang] for phrase in known) for lang, known in self.phrases.items()]
        return bool(said) and all(said)


class Attribute(Config):
    """One thing that captions of a style may state, and its classes."""

    style: str
    name: str
    classes: tuple[Statement, ...] = Field(min_length=2)

    @cached_property
    def index(self) -> dict[str, int]:
        """The class of each value."""
        return {value: i for i, statement in enumerate(self.classes) for value in statement.values}

    def label(self, avatar: Avatar) -> int | None:
        """The class the image shows, or None where it has a value that is not read."""
        return self.index.get(avatar.values.get(self.name, ""))

    def stated(self, avatar: Avatar) -> int | None:
        """The class the avatar's captions state, in every language, or None."""
        label = self.label(avatar)
        return label if label is not None and self.classes[label].stated_in(avatar.tokens) else None


def spaced(text: str) -> str:
    """Lower-case tokens (Chinese by the character) between single spaces, with marks for both ends."""
    return f" ^ {' '.join(TOKEN.findall(text.lower()))} $ "


def read_avatars(
    corpus: Path, source: str | None = "dice", languages: Sequence[str] = ("zh", "en")
) -> list[Avatar]:
    """All rows of ``source`` (None: of any) in a folder of Parquet files, without their images.

    Raises:
        CogViewError: no such folder, no Parquet file, a missing column, no row of that source.
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
        raise CogViewError(f"row {row['key']!r}: its meta column is not a JSON object") from None
    captions = {language: row[language] or "" for language in languages}
    return Avatar(row["key"], row["style"], row["split"], captions, values)


def read_rows(corpus: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The named columns of every row of a corpus, file by file; CogViewError where one is missing."""
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
    wanted = set(keys)
    for row in read_rows(corpus, ("key", "image")):
        if row["key"] in wanted:
            try:
                yield row["key"], square(decode(row["image"] or b"").image, preprocessing)
            except BadImage as error:
                raise CogViewError(f"{corpus}: picture {row['key']!r} is broken: {error}") from None


def corpus_fingerprint(avatars: Sequence[Avatar]) -> str:
    """16 hex digits over keys, splits, captions and attributes, in any order."""
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
    """What the captions of these (training) avatars state, style by style; classes need ``rare`` images."""
    found: list[Attribute] = []
    for style, members in by_style(avatars).items():
        for name in sorted({name for avatar in members for name in avatar.values}):
            attribute = _attribute(style, name, members, rare)
            if attribute is not None:
                found.append(attribute)
    return tuple(found)


def _attribute(style: str, name: str, members: Sequence[Avatar], rare: int) -> Attribute | None:
    values: dict[str, list[Avatar]] = defaultdict(list)
    for avatar in members:
        values[avatar.values.get(name, "")].append(avatar)
    known = [_Value(v, own, members, name) for v, own in sorted(values.items()) if len(own) >= min(rare, 5)]
    groups = [group for group in _merge(known) if sum(len(v.own) for v in group) >= rare]
    told = _told(groups, members, name)
    classes = [
        Statement(values=tuple(v.value for v in group), phrases=_joined(group) if group[0].value else {})
        for group in groups
        if group in told or not group[0].value
    ]
    return Attribute(style=style, name=name, classes=tuple(classes)) if len(classes) > 1 else None


class _Value:
    """A value and, by language, the phrases common to all its captions; ``best`` is the most telling one."""

    def __init__(self, value: str, own: Sequence[Avatar], members: Sequence[Avatar], name: str) -> None:
        self.value, self.own = value, own
        others = _spread([avatar for avatar in members if avatar.values.get(name, "") != value])
        self.common = {language: _common(own, language) for language in own[0].captions}
        self.best = {language: _rarest(p, others, language) for language, p in self.common.items()}

    def same_words(self, other: _Value) -> bool:
        """Whether some language has one wording for both values."""
        return any(
            self.best[lang] in other.common[lang] and other.best[lang] in self.common[lang]
            for lang in self.best
        )


def _common(avatars: Sequence[Avatar], language: str) -> list[str]:
    """The phrases (up to LONGEST_PHRASE tokens) in all captions, short ones first."""
    first = avatars[0].tokens[language].split()
    spans = [(n, i) for n in range(1, LONGEST_PHRASE + 1) for i in range(len(first) - n + 1)]
    found = list(dict.fromkeys(f" {' '.join(first[i : i + n])} " for n, i in spans))
    for avatar in avatars[1:]:
        found = [phrase for phrase in found if phrase in avatar.tokens[language]]
    return found


def _rarest(phrases: Sequence[str], others: Sequence[Avatar], language: str) -> str:
    """A phrase few other captions have: of those near the fewest, the shortest inside a clause.

    A longer one may hold words that merely go with the value in training, and fail on what is held out.
    """
    hits = {phrase: sum(phrase in avatar.tokens[language] for avatar in others) for phrase in phrases}
    near = [phrase for phrase in phrases if hits[phrase] <= min(hits.values()) + len(others) / 50]
    return min(near, key=lambda phrase: (bool(MARK.search(phrase)), len(phrase)))


def _spread(avatars: Sequence[Avatar], most: int = 500) -> Sequence[Avatar]:
    """At most ``most`` of them, evenly spaced."""
    return avatars[:: -(-len(avatars) // most) or 1]


_Group = list[_Value]


def _merge(values: Sequence[_Value]) -> list[_Group]:
    groups: list[_Group] = []
    for value in values:
        same = [group for group in groups if any(value.same_words(other) for other in group)]
        groups = [group for group in groups if group not in same]
        groups.append([v for group in same for v in group] + [value])
    return sorted(
        (sorted(group, key=lambda v: v.value) for group in groups), key=lambda group: group[0].value
    )


def _joined(group: _Group) -> dict[str, tuple[str, ...]]:
    return {lang: tuple(dict.fromkeys(v.best[lang] for v in group)) for lang in group[0].best}


def _told(groups: Sequence[_Group], members: Sequence[Avatar], name: str) -> list[_Group]:
    """The groups whose phrases tell them from the rest: first directly, then by elimination of those told.

    Absence ("") can be told ("without a sun") but not by elimination: that would be what a caption leaves
    out.
    """
    direct = [group for group in groups if _telling(group, members, name, [])]
    rest = [group for group in groups if group not in direct and group[0].value]
    return direct + [group for group in rest if _telling(group, members, name, direct)]


def _telling(group: _Group, members: Sequence[Avatar], name: str, told: Sequence[_Group]) -> bool:
    """Whether at most a quarter of the other captions, ``told`` ones aside, have the group's phrases.

    Phrases that three quarters of all other captions have say nothing, whoever is set aside.
    """
    own, aside = ({v.value for v in group}, {v.value for g in told for v in g})
    others = [avatar for avatar in members if avatar.values.get(name, "") not in own]
    left = [avatar for avatar in others if avatar.values.get(name, "") not in aside]
    for language, phrases in _joined(group).items():
        if _share(phrases, others, language) > 3 / 4 or _share(phrases, left, language) > 1 / 4:
            return False
    return True


def _share(phrases: Sequence[str], avatars: Sequence[Avatar], language: str) -> float:
    some = _spread(avatars)
    return sum(any(p in avatar.tokens[language] for p in phrases) for avatar in some) / max(1, len(some))


def statements(avatar: Avatar, attributes: Iterable[Attribute]) -> dict[str, int]:
    """What the avatar's captions state: attribute to class, of its style's ``attributes``."""
    labels = {a.name: a.stated(avatar) for a in attributes if a.style == avatar.style}
    return {name: label for name, label in labels.items() if label is not None}


def caption_languages(attributes: Iterable[Attribute], languages: Sequence[str]) -> tuple[str, ...]:
    """``languages``, and all in which the attributes are stated: what :func:`select` asks of captions."""
    told = (name for attribute in attributes for one in attribute.classes for name in one.phrases)
    return tuple(dict.fromkeys((*languages, *told)))


def _pairs(stated: Mapping[str, int]) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    return combinations(sorted(stated.items()), 2)


class Selection(Config):
    """The held-out combinations to draw: keys in order, and what each states that no training image has."""

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
    """Choose ``count`` avatars of ``split``, balanced over the styles, whose combination is truly held out.

    Each has a pair of stated attributes that no image of split "train" has together, and captions that
    differ from all training captions and from each other.

    Raises:
        CogViewError: there are fewer than ``count``.
    """
    seen = TrainingCombinations(avatars, attributes)
    pools: dict[str, list[Avatar]] = {}
    for style, members in by_style(a for a in avatars if a.split == split).items():
        random.Random(f"{seed} {style}").shuffle(members)
        pools[style] = _distinct(avatar for avatar in members if seen.new(avatar))
    if count > (available := sum(map(len, pools.values()))):
        raise CogViewError(f"split {split!r} has {available} held-out combinations, not {count}; lower --n")
    shares = _shares({style: len(pool) for style, pool in pools.items()}, count)
    chosen = [avatar for style, pool in pools.items() for avatar in pool[: shares[style]]]
    unseen = {avatar.key: tuple(seen.new(avatar)) for avatar in chosen}
    return Selection(seed=seed, split=split, keys=tuple(unseen), unseen=unseen)


class SelectionPlan(Protocol):
    """A plan that says which avatars are chosen."""

    @property
    def count(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def split(self) -> str: ...


def held_out(
    avatars: Sequence[Avatar], attributes: Sequence[Attribute], plan: SelectionPlan
) -> tuple[Selection, list[Avatar]]:
    """The :func:`select` ion of a plan, and its avatars in that order."""
    selection = select(avatars, attributes, plan.count, plan.seed, plan.split)
    known = {avatar.key: avatar for avatar in avatars}
    return selection, [known[key] for key in selection.keys]


class TrainingCombinations:
    """What the training part has: its captions and the pairs of statements made together."""

    def __init__(self, avatars: Iterable[Avatar], attributes: Sequence[Attribute]) -> None:
        self.attributes = attributes
        self.captions: set[str] = set()
        self.pairs: set[tuple[object, ...]] = set()
        for avatar in avatars:
            if avatar.split == "train":
                self.captions.update(avatar.captions.values())
                self.pairs.update((avatar.style, *pair) for pair in _pairs(self._drawn(avatar)))

    def _drawn(self, avatar: Avatar) -> dict[str, int]:
        own = [a for a in self.attributes if a.style == avatar.style]
        labels = {a.name: a.label(avatar) for a in own}
        return {name: label for name, label in labels.items() if label is not None}

    def new(self, avatar: Avatar) -> list[str]:
        """Its stated pairs ("eyes=sleepy + pot=bowl") that training has not; none if a caption is known."""
        if self.captions.intersection(avatar.captions.values()):
            return []
        stated = statements(avatar, self.attributes)
        new = [pair for pair in _pairs(stated) if (avatar.style, *pair) not in self.pairs]
        return [" + ".join(f"{name}={avatar.values.get(name, 'none')}" for name, _ in pair) for pair in new]


def _distinct(avatars: Iterable[Avatar]) -> list[Avatar]:
    """Those that share no caption with an earlier one."""
    kept: list[Avatar] = []
    known: set[str] = set()
    for avatar in avatars:
        if not known.intersection(avatar.captions.values()):
            kept.append(avatar)
            known.update(avatar.captions.values())
    return kept


def _shares(available: Mapping[str, int], count: int) -> Counter[str]:
    """Equal shares that add up to ``count``, none over what is available."""
    shares: Counter[str] = Counter()
    while sum(shares.values()) < count:
        for style in available:
            if shares[style] < available[style] and sum(shares.values()) < count:
                shares[style] += 1
    return shares
