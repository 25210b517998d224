"""Writes family directories: assembled in a temporary directory, checked, then renamed over the old one."""

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
    """Create a family directory: copy each part (name in the family: source), then write ``family.json``.

    The new directory is assembled beside ``directory`` and replaces it after all files have been checked.
    """
    with new_family(directory, config) as temporary:
        for name, source in parts.items():
            if source.is_dir():
                (temporary / name).mkdir()
                for file in LORA if name in config.adapters.values() else MODEL:
                    shutil.copyfile(source / file, temporary / name / file)
            else:
                shutil.copyfile(source, temporary / name)
    return ModelBundle(directory)


def check_place(directory: str | Path) -> None:
    """Raise CogViewError if ``directory`` exists and is neither empty nor a family."""
    path = Path(directory)
    if (path / FILE).is_file():
        return
    if path.is_dir():
        entry = next(path.iterdir(), None)
        if entry is not None:
            raise CogViewError(
                f"{directory} is not empty and not a model family (it holds {entry.name}); "
                "choose another directory"
            )
    elif path.exists():
        raise CogViewError(f"{directory} exists and is not a directory; choose another one")


@contextmanager
def new_family(directory: str | Path, config: FamilyConfig) -> Iterator[Path]:
    """A context with an empty directory for the parts of a family.

    On exit ``family.json`` is added, everything is checked, and the directory replaces the family in
    ``directory``, if there is one; after an error the old family stays. Files of the old directory that do
    not belong to the family are kept. Raises CogViewError if ``directory`` holds anything but a family.
    """
    check_place(directory)
    final = Path(directory).resolve()
    temporary = spare_name(final)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        (temporary / FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        family = ModelBundle(temporary)
        family.text_tokenizer(), family.image_tokenizer()
        for role in config.roles:
            family.check(role)
        check_place(directory)
        if final.is_dir():
            _keep_others(final, temporary)  # before the rename, so that a kill after it loses nothing
        for old in replace_directory(temporary, final):
            _keep_others(old, final)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_family(directory: Path, *more: str) -> None:
    """Remove a family and the entries ``more``; other files in its directory are kept."""
    for name in {*_parts(directory), *more}:
        remove_entry(directory / name)
    with suppress(OSError):  # the directory is not empty
        directory.rmdir()


def _parts(directory: Path) -> set[str]:
    """The names of a family's files and directories, including its card."""
    try:
        config = read_json(FamilyConfig, directory / FILE)
    except CogViewError:  # damaged or of another version: its other files are unknown
        return {FILE, CARD}
    directories = [role.directory for role in config.roles.values()] + list(config.adapters.values())
    return {FILE, CARD, config.image_tokenizer, config.text_tokenizer, config.clusters or FILE, *directories}


def _keep_others(old: Path, new: Path) -> None:
    """Add the files of ``old`` that do not belong to its family to ``new``, as hard links if possible."""
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
    """Hard-link a file, or copy it if the file system does not support hard links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):  # the latter on Windows, for follow_symlinks
        shutil.copy2(source, target, follow_symlinks=False)
