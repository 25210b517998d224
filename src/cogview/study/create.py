"""Creates a study from one folder of images per model and a file of captions.

Images are checked and rewritten as PNG files with random names, without metadata and of one size, so that
neither name, metadata nor size reveals the model.
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
LONGEST = 1000  # maximum length of a caption, in characters
MAX_LINES = 64 << 20  # maximum size of a text file of captions, in bytes


@dataclass(frozen=True)
class Caption:
    """A caption by language. key: the image's file name without suffix, or None."""

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
    """Create the study's folder ``out``.

    Args:
        models: name to folder of images, one per caption.
        captions: a table with a ``key`` column (the images' names) and ``en``, ``zh`` or ``caption``; or a
            text file with one caption per line. Lines are matched by the prompt in the metadata of images
            that this package generated, or, if a folder's images have none, by the order of file names.
        ab: two of the models that share one slot.
        captions_per_rater: default all.
        size: resize every image to this side in pixels (centre crop, Lanczos); None: sizes must be equal.
        seed: of orders and halves.

    Raises:
        CogViewError: groups are unequal, images are broken or of mixed sizes, captions are missing, or
            ``out`` exists.
    """
    if out.exists():
        raise CogViewError(f"{out}: already exists; choose another folder, answers are never overwritten")
    if len(models) < 2:
        raise CogViewError("a study compares at least two models; repeat --model NAME=FOLDER")
    groups = read_captions(captions)
    images = {name: match(name, folder, groups, captions) for name, folder in models.items()}
    shape = _common_size(images, size)
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
    _write(out, study, images, size)
    return study


class NewStudy(Config):
    """The options of ``cogview study create``."""

    out: Path = option(..., "The study's new folder.", argument=True, metavar="OUT")
    model: tuple[str, ...] = option(
        ...,
        "A model's images, one per caption; repeat for each model.",
        metavar="NAME=FOLDER",
        repeated=True,
    )
    captions: Existing = option(
        ...,
        "A table (CSV, TSV, JSONL) with columns key and en, zh or caption; or a text file, one per line.",
    )
    title: str = option("", "Title of the pages.")
    ab: str | None = option(
        None,
        "Two models that share one slot: each rater sees one of them for half of the captions.",
        metavar="FIRST,SECOND",
    )
    captions_per_rater: int | None = option(None, "Number of captions per rater.", shown="all", ge=1)
    size: int | None = option(None, "Resize all images to this side in pixels.", ge=16, le=4096)
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
        """Create the study."""
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
    """Read the captions of a table or text file; CogViewError if one is missing, empty or repeated."""
    if not is_regular(path):
        raise CogViewError(f"{path}: no such file; give a table of captions, or a text file, one per line")
    if path.suffix.lower() in TABLES:
        captions = [_caption(row, problem, f"{path}, row {n}") for n, (row, problem) in _numbered(path)]
    else:
        captions = [Caption(None, {"": line}) for line in _lines(path)]
    if not captions:
        raise CogViewError(f"{path}: contains no captions")
    for what, counts in (
        ("key", Counter(caption.key for caption in captions if caption.key)),
        ("caption", Counter(caption.texts[""] for caption in captions if caption.key is None)),
    ):
        repeated = [text for text, count in counts.items() if count > 1]
        if repeated:
            raise CogViewError(f"{path}: the {what} {repeated[0]!r} occurs twice")
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
        raise CogViewError(f"{place}: a caption of {len(text):,} characters is too long (at most {LONGEST})")


def _caption(row: Mapping[str, Any], problem: str, place: str) -> Caption:
    if problem:
        raise CogViewError(f"{place}: {problem}")
    keys = [str(row[name]).strip() for name in KEYS if row.get(name) not in (None, "")]
    if not keys:
        raise CogViewError(f"{place}: no key; name the images of the caption in a column `key`")
    texts = {LANGUAGES[name]: str(row[name]).strip() for name in LANGUAGES if row.get(name) not in (None, "")}
    if not texts:
        raise CogViewError(f"{place}: no caption; write it into a column `en`, `zh` or `caption`")
    for text in texts.values():
        _check_text(text, place)
    return Caption(keys[0], texts)


# ---------------------------------------------------------------------------------------------- images


def match(name: str, folder: Path, captions: Sequence[Caption], where: Path) -> list[Path]:
    """The image of every caption in a model's folder, in the order of the captions."""
    if not folder.is_dir():
        raise CogViewError(f"{name}: {folder}: no such folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if captions[0].key is not None:
        return _by_key(name, folder, files, [caption.key or "" for caption in captions])
    provenances = [read(path) for path in files]
    if files and all(provenances):
        known = [provenance for provenance in provenances if provenance]
        return _by_prompt(name, folder, files, known, [caption.texts[""] for caption in captions])
    if len(files) != len(captions):
        raise CogViewError(
            f"unequal groups: {name} has {len(files)} images in {folder}, "
            f"there are {len(captions)} captions in {where}"
        )
    return files


def _by_key(name: str, folder: Path, files: Sequence[Path], keys: Sequence[str]) -> list[Path]:
    by_key: dict[str, list[Path]] = {}
    for path in files:
        by_key.setdefault(path.stem, []).append(path)
    return _one_each(name, folder, by_key, keys, "named")


def _by_prompt(
    name: str, folder: Path, files: Sequence[Path], provenances: Sequence[Provenance], prompts: Sequence[str]
) -> list[Path]:
    by_prompt: dict[str, list[Path]] = {}
    for path, provenance in zip(files, provenances, strict=True):
        by_prompt.setdefault(provenance.prompt.strip(), []).append(path)
    return _one_each(name, folder, by_prompt, prompts, "generated for")


def _one_each(
    name: str, folder: Path, images: Mapping[str, list[Path]], keys: Sequence[str], relation: str
) -> list[Path]:
    """The one image of each key or prompt; other images are ignored."""
    missing = [key for key in keys if key not in images]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CogViewError(f"unequal groups: {name} has no image {relation} {missing[0]!r}{more} in {folder}")
    for key in keys:
        if len(images[key]) > 1:
            both = " and ".join(path.name for path in images[key][:2])
            raise CogViewError(
                f"unequal groups: {name} has several images {relation} {key!r} in {folder}: {both}"
            )
    return [images[key][0] for key in keys]


def _load(path: Path, size: int | None) -> Image.Image:
    try:
        image = decode(path).image
    except BadImage as error:
        raise CogViewError(f"{path}: cannot be shown, {error}") from None
    if size:
        image = centre_crop(resize_shorter(image, size, Image.Resampling.LANCZOS), size)
    return image


def _common_size(images: Mapping[str, Sequence[Path]], size: int | None) -> tuple[int, int]:
    """(width, height) of all images, which are all decoded as a check."""
    first: tuple[Path, tuple[int, int]] | None = None
    for path in (path for paths in images.values() for path in paths):
        shape = _load(path, size).size
        first = first or (path, shape)
        if shape != first[1]:
            raise CogViewError(
                "images of mixed sizes would reveal their models: "
                f"{first[0]} is {first[1][0]} x {first[1][1]}, {path} is {shape[0]} x {shape[1]}; give --size"
            )
    assert first
    return first[1]


def _write(out: Path, study: Study, images: Mapping[str, Sequence[Path]], size: int | None) -> None:
    """Write the folder atomically, through a temporary name."""
    text = study.model_dump_json(indent=1)
    if len(text.encode()) > MAX_BYTES:
        raise CogViewError(f"{len(study.groups):,} captions are too many for one study")
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        (part / PICTURES).mkdir(parents=True)
        for number, group in enumerate(study.groups):
            for model, name in group.pictures.items():
                _load(images[model][number], size).save(part / PICTURES / name, "PNG")
        (part / FILE).write_text(json.dumps(json.loads(text), ensure_ascii=False, indent=1), encoding="utf-8")
        (part / FILE).chmod(0o600)  # it reveals which model generated which image
        Store.create(part, study)
        os.rename(part, out)
    except OSError as error:
        raise CogViewError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
