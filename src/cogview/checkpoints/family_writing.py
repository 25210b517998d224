"""Writing a family directory: assembled beside its place, checked whole, then exchanged for what is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cogview.checkpoints.bundle import CARD, FILE, LORA, MODEL, FamilyConfig, ModelBundle
from cogview.config import read_json
from cogview.errors import CogViewError
from cogview.files import remove_entry, replace_directory, spare_name


def write_family(config: FamilyConfig, directory: str | Path, parts: dict[str, Path]) -> ModelBundle:
    """Make a family directory: copy each part (name in the family: source), then write ``family.json``.

    The new directory is assembled beside ``directory`` and takes its place when it has been read back whole.
    """
    with new_family(directory, config) as fresh:
        for name, source in parts.items():
            if source.is_dir():
                (fresh / name).mkdir()
                for file in LORA if name in config.adapters.values() else MODEL:
                    shutil.copyfile(source / file, fresh / name / file)
            else:
                shutil.copyfile(source, fresh / name)
    return ModelBundle(directory)


def check_place(directory: str | Path) -> None:
    """CogViewError where a family cannot take the place of what is there, as that is none."""
    place = Path(directory)
    if (place / FILE).is_file():
        return
    if place.is_dir():
        taken = next(place.iterdir(), None)
        if taken is not None:
            raise CogViewError(
                f"{directory} is not empty and no model family (it holds {taken.name}); choose another place"
            )
    elif place.exists():
        raise CogViewError(f"{directory} is there and no directory; choose another one")


@contextmanager
def new_family(directory: str | Path, config: FamilyConfig) -> Iterator[Path]:
    """An empty directory to put a family's parts into.

    At the end ``family.json`` is added, everything is checked, and the directory takes the place of the
    family in ``directory``, if there is one; until then, or where something goes wrong, that stays. Files
    of the old directory that are no part of the family are kept. CogViewError where ``directory`` holds
    something else.
    """
    check_place(directory)
    final = Path(directory).resolve()
    fresh = spare_name(final)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        (fresh / FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        family = ModelBundle(fresh)
        family.text_tokenizer(), family.image_tokenizer()
        for role in config.roles:
            family.check(role)
        check_place(directory)
        if final.is_dir():
            _keep_others(final, fresh)  # before the exchange, so that a kill after it loses sight of nothing
        for old in replace_directory(fresh, final):
            _keep_others(old, final)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def remove_family(directory: Path, *more: str) -> None:
    """Remove a family and the entries ``more``; whatever else lies in its directory stays there."""
    for name in {*_parts(directory), *more}:
        remove_entry(directory / name)
    with suppress(OSError):  # it is not empty
        directory.rmdir()


def _parts(directory: Path) -> set[str]:
    """The names of what belongs to a family, its card among them."""
    try:
        config = read_json(FamilyConfig, directory / FILE)
    except CogViewError:  # another version's, or damaged: what belongs to it cannot be told
        return {FILE, CARD}
    places = [role.directory for role in config.roles.values()] + list(config.adapters.values())
    return {FILE, CARD, config.image_tokenizer, config.text_tokenizer, config.clusters or FILE, *places}


def _keep_others(old: Path, new: Path) -> None:
    """Have in ``new`` as well what is no part of the family in ``old``, by hard links where there are any."""
    parts = _parts(old)
    for path in old.iterdir():
        if path.name in parts or os.path.lexists(new / path.name):
            continue
        with suppress(FileNotFoundError):  # another process has moved it
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, new / path.name, symlinks=True, copy_function=_link)
            else:
                _link(path, new / path.name)


def _link(source: str | Path, target: str | Path) -> None:
    """The same file under another name; a copy where the file system has no hard links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):  # the latter on Windows, for follow_symlinks
        shutil.copy2(source, target, follow_symlinks=False)
