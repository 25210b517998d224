"""The prompts of ``eval scenes`` and ``eval things``, which ship with the package.

``scenes.jsonl`` has one scene per line, in both languages, from combinations that no training image shows.
``things.jsonl`` has one everyday thing per line, with the names that people type for it.
``examples/pictogram/prompts.py`` writes both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.evaluation.metrics.scene_rules import ScenePrompt

T = TypeVar("T", bound=Config)
SCENES, THINGS = (Path(__file__).with_name(f"{name}.jsonl") for name in ("scenes", "things"))


class ThingNames(Config):
    """The names that people type for one thing, the usual name first."""

    thing: str
    en: tuple[str, ...] = Field(min_length=1)
    zh: tuple[str, ...] = Field(min_length=1)

    def prompts(self, language: Literal["en", "zh"]) -> tuple[str, ...]:
        """The names in one language."""
        return self.en if language == "en" else self.zh


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CogViewError(f"{path}: cannot be read: {error}") from None
    return ((number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def _read(path: Path, kind: type[T]) -> tuple[T, ...]:
    rows = []
    for number, line in _lines(path):
        try:
            rows.append(kind.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise CogViewError(f"{path}:{number}: {field or 'line'}: {first['msg']}") from None
    return tuple(rows)


def scene_prompts(path: Path = SCENES) -> tuple[ScenePrompt, ...]:
    """Read the prompts of a file of scenes.

    Raises:
        CogViewError: the file cannot be read, or a line is not a :class:`ScenePrompt`.
    """
    return _read(path, ScenePrompt)


def thing_names(path: Path = THINGS) -> tuple[ThingNames, ...]:
    """Read the things of a file and their names.

    Raises:
        CogViewError: the file cannot be read, or a line is not a :class:`ThingNames`.
    """
    return _read(path, ThingNames)
