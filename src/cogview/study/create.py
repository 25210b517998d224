"""A study from folders of images, one a model, and a file of captions: checked, made anonymous, copied.

Images are rewritten as plain PNG files under random names: neither name nor metadata tells a rater which
model drew them, and all are of one size, since a model would be known by its size too.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cogview.checkpoints.provenance import Provenance, read
from cogview.config import MAX_BYTES, Config, Existing, option, parse_pairs, validate
from cogview.data.images import BadImage, centre_crop, decode, resize_shorter
from cogview.data.sources.rows import read_rows
from cogview.errors import CogViewError
from cogview.files import is_regular, read_text
from cogview.study.records import FILE, PICTURES, Study
from cogview.study.store import Store

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
TABLES = {".csv", ".tsv", ".json", ".jsonl", ".ndjson"}
KEYS = ("key", "id", "name")
LANGUAGES = {"caption": "", "text": "", "en": "en", "zh": "zh"}
LONGEST = 1000  # characters of a caption that a page can show
MAX_LINES = 64 << 20  # bytes of a text of captions


@dataclass(frozen=True)
class Caption:
    """A caption by language. key: the image's file name without its ending; None: not given."""

    key: str | None
    texts: Mapping[str, str]


def create_study(
    out: Path,
    models: Mapping[str, Path],
    captions: Path,
    *,
    title: str = "",
    ab: Sequence[str] | None = None,
    captions_per_rater: int | None = None,
    size: int | None = None,
    seed: int = 0,
) -> Study:
    """Make the study's folder ``out``.

    Args:
        models: name to folder of images, one a caption.
        captions: a table with a ``key`` column (the images' names) and ``en``, ``zh`` or ``caption``; or a
            text file of one caption a line. Lines are matched by the prompt that images of this package
            carry, or, where a folder's images carry none, by the order of their names.
        ab: two of the models that share one place.
        captions_per_rater: default all.
        size: make every image this many pixels a side (centre cut, Lanczos); None: they must be equal.
        seed: decides orders and halves.

    Raises:
        CogViewError: groups are unequal, images broken or of mixed sizes, captions missing, ``out`` exists.
    """
    if out.exists():
        raise CogViewError(f"{out}: is there already; choose another folder, answers are never overwritten")
    if len(models) < 2:
        raise CogViewError("a study compares at least two models; give --model NAME=FOLDER again")
    groups = read_captions(captions)
    found = {name: match(name, folder, groups, captions) for name, folder in models.items()}
    shape = _common_size(found, size)
    pictures = [{name: f"{secrets.token_hex(12)}.png" for name in models} for _ in groups]
    study = validate(
        Study,
        {
            "id": secrets.token_hex(16),
            "title": title,
            "seed": seed,
            "models": tuple(models),
            "ab": tuple(ab) if ab else None,
            "captions_per_rater": captions_per_rater or len(groups),
            "size": shape,
            "groups": [
                {"key": caption.key or f"{n:04d}", "captions": caption.texts, "pictures": pictures[n - 1]}
                for n, caption in enumerate(groups, 1)
            ],
        },
        "study",
    )
    _write(out, study, found, size)
    return study


class NewStudy(Config):
    """What a study is made of (``cogview study create``)."""

    out: Path = option(..., "The study's new folder.", argument=True, metavar="OUT")
    model: tuple[str, ...] = option(
        ...,
        "A model's images, one for each caption; repeat it for each model.",
        metavar="NAME=FOLDER",
        repeated=True,
    )
    captions: Existing = option(
        ...,
        "A table (CSV, TSV, JSONL) with columns key and en, zh or caption; or a text of one a line.",
    )
    title: str = option("", "Title of the pages.")
    ab: str | None = option(
        None,
        "Two models that share one place: each rater sees one of them for half of the captions.",
        metavar="FIRST,SECOND",
    )
    captions_per_rater: int | None = option(None, "Captions that a rater judges.", shown="all", ge=1)
    size: int | None = option(None, "Make all pictures this many pixels a side.", ge=16, le=4096)
    seed: int = option(0, "Seed of the orders and halves.", ge=0)

    def pair(self) -> list[str] | None:
        """The two models of ``ab``."""
        if self.ab is None:
            return None
        names = [name.strip() for name in self.ab.split(",") if name.strip()]
        if len(names) != 2 or self.ab.count(",") != 1:
            raise CogViewError(f"--ab {self.ab}: give the names of two models, FIRST,SECOND")
        return names

    def create(self) -> Study:
        """Make the study."""
        return create_study(
            self.out,
            {name: Path(folder) for name, folder in parse_pairs("--model", self.model).items()},
            self.captions,
            title=self.title,
            ab=self.pair(),
            captions_per_rater=self.captions_per_rater,
            size=self.size,
            seed=self.seed,
        )


# ---------------------------------------------------------------------------------------------- captions


def read_captions(path: Path) -> list[Caption]:
    """The captions of a table or of a text file; CogViewError where one is missing, empty or there twice."""
    if not is_regular(path):
        raise CogViewError(f"{path}: no such file; give a table of captions, or a text of one a line")
    if path.suffix.lower() in TABLES:
        captions = [_caption(row, problem, f"{path}, row {n}") for n, (row, problem) in _numbered(path)]
    else:
        captions = [Caption(None, {"": line}) for line in _lines(path)]
    if not captions:
        raise CogViewError(f"{path}: holds no caption")
    for what, counts in (
        ("key", Counter(caption.key for caption in captions if caption.key)),
        ("caption", Counter(caption.texts[""] for caption in captions if caption.key is None)),
    ):
        twice = [text for text, count in counts.items() if count > 1]
        if twice:
            raise CogViewError(f"{path}: the {what} {twice[0]!r} stands there twice")
    return captions


def _numbered(path: Path) -> list[tuple[int, tuple[dict[str, Any], str]]]:
    return list(enumerate(read_rows(path), 1))


def _lines(path: Path) -> list[str]:
    lines = read_text(path, MAX_LINES, "utf-8-sig").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        _check_text(line, f"{path}, line {number}")
    return [line.strip() for line in lines]


def _check_text(text: str, place: str) -> None:
    if not text.strip():
        raise CogViewError(f"{place}: the caption is empty")
    if len(text) > LONGEST:
        raise CogViewError(
            f"{place}: {len(text):,} characters are too long for a caption (at most {LONGEST})"
        )


def _caption(row: Mapping[str, Any], problem: str, place: str) -> Caption:
    if problem:
        raise CogViewError(f"{place}: {problem}")
    keys = [str(row[name]).strip() for name in KEYS if row.get(name) not in (None, "")]
    if not keys:
        raise CogViewError(f"{place}: no key; a column `key` says what the pictures of a caption are named")
    texts = {LANGUAGES[name]: str(row[name]).strip() for name in LANGUAGES if row.get(name) not in (None, "")}
    if not texts:
        raise CogViewError(f"{place}: no caption; write it into a column `en`, `zh` or `caption`")
    for text in texts.values():
        _check_text(text, place)
    return Caption(keys[0], texts)


# ---------------------------------------------------------------------------------------------- images


def match(name: str, folder: Path, captions: Sequence[Caption], where: Path) -> list[Path]:
    """The image of every caption in a model's folder, in the captions' order."""
    if not folder.is_dir():
        raise CogViewError(f"{name}: {folder}: no such folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if captions[0].key is not None:
        return _by_key(name, folder, files, [caption.key or "" for caption in captions])
    made_for = [read(path) for path in files]
    if files and all(made_for):
        facts = [fact for fact in made_for if fact]
        return _by_prompt(name, folder, files, facts, [caption.texts[""] for caption in captions])
    if len(files) != len(captions):
        raise CogViewError(
            f"unequal groups: {name} has {len(files)} pictures in {folder}, "
            f"there are {len(captions)} captions in {where}"
        )
    return files


def _by_key(name: str, folder: Path, files: Sequence[Path], keys: Sequence[str]) -> list[Path]:
    places: dict[str, list[Path]] = {}
    for path in files:
        places.setdefault(path.stem, []).append(path)
    return _one_each(name, folder, places, keys, "named")


def _by_prompt(
    name: str, folder: Path, files: Sequence[Path], facts: Sequence[Provenance], prompts: Sequence[str]
) -> list[Path]:
    places: dict[str, list[Path]] = {}
    for path, fact in zip(files, facts, strict=True):
        places.setdefault(fact.prompt.strip(), []).append(path)
    return _one_each(name, folder, places, prompts, "drawn for")


def _one_each(
    name: str, folder: Path, places: Mapping[str, list[Path]], wanted: Sequence[str], how: str
) -> list[Path]:
    """The one image of each key or prompt; images of no caption are left out."""
    missing = [key for key in wanted if key not in places]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CogViewError(f"unequal groups: {name} has no picture {how} {missing[0]!r}{more} in {folder}")
    for key in wanted:
        if len(places[key]) > 1:
            both = " and ".join(path.name for path in places[key][:2])
            raise CogViewError(
                f"unequal groups: {name} has several pictures {how} {key!r} in {folder}: {both}"
            )
    return [places[key][0] for key in wanted]


def _picture(path: Path, size: int | None) -> Image.Image:
    try:
        image = decode(path).image
    except BadImage as error:
        raise CogViewError(f"{path}: cannot be shown, {error}") from None
    if size:
        image = centre_crop(resize_shorter(image, size, Image.Resampling.LANCZOS), size)
    return image


def _common_size(found: Mapping[str, Sequence[Path]], size: int | None) -> tuple[int, int]:
    """(width, height) of all images, every one of which is decoded here."""
    first: tuple[Path, tuple[int, int]] | None = None
    for path in (path for paths in found.values() for path in paths):
        shape = _picture(path, size).size
        first = first or (path, shape)
        if shape != first[1]:
            raise CogViewError(
                "pictures of mixed sizes would give their models away: "
                f"{first[0]} is {first[1][0]} x {first[1][1]}, {path} is {shape[0]} x {shape[1]}; give --size"
            )
    assert first
    return first[1]


def _write(out: Path, study: Study, found: Mapping[str, Sequence[Path]], size: int | None) -> None:
    """The folder, under another name until it is whole."""
    text = study.model_dump_json(indent=1)
    if len(text.encode()) > MAX_BYTES:
        raise CogViewError(f"{len(study.groups):,} captions are too many for one study")
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        (part / PICTURES).mkdir(parents=True)
        for number, group in enumerate(study.groups):
            for model, name in group.pictures.items():
                _picture(found[model][number], size).save(part / PICTURES / name, "PNG")
        (part / FILE).write_text(json.dumps(json.loads(text), ensure_ascii=False, indent=1), encoding="utf-8")
        (part / FILE).chmod(0o600)  # it says which model made which image
        Store.create(part, study)
        os.rename(part, out)
    except OSError as error:
        raise CogViewError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
