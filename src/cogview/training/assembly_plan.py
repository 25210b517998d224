"""The options of ``cogview assemble``: the parts of a family, its styles and its sampling defaults.

This module does not import PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from cogview.checkpoints.bundle import MaybeModelName, ModelBundle
from cogview.config import Config, Fields, MaybeExisting, option, parse_pairs, read_yaml, validate
from cogview.errors import CogViewError
from cogview.types import SamplingParams

Defaults = Annotated[
    SamplingParams,
    Fields("temperature", "top_k", "top_p", "guidance_scale", shown="the family's, when generating"),
]


class FamilySettings(Config):
    """The settings of a family besides its models, a YAML file for ``--settings`` (fields as in family.json).

    ``also``: alternative names of the family. ``words``: the table of known words near an unknown one
    (:mod:`cogview.checkpoints.prompt_help`); a relative path starts at the YAML file's folder.
    """

    styles: dict[str, dict[str, str]] = Field(default_factory=dict)
    templates: dict[str, str] = Field(default_factory=dict)
    defaults: SamplingParams | None = None
    direct: SamplingParams | None = None
    iterative: SamplingParams | None = None
    editing: SamplingParams | None = None
    words: Path | None = None
    also: tuple[str, ...] = ()


class Looks(Config):
    """Styles, templates, sampling defaults and card."""

    settings: MaybeExisting = option(None, "Styles, templates and sampling defaults.", metavar="YAML")
    style: tuple[str, ...] = option(
        (), "The words of a style: flat.zh=扁平.", metavar="NAME.LANG=WORDS", repeated=True
    )
    template: tuple[str, ...] = option(
        (), 'How style and caption combine: "en={caption} …".', metavar="LANG=TEXT", repeated=True
    )
    card: MaybeExisting = option(None, "The model card.", shown="the one already in OUT")
    defaults: Defaults = SamplingParams()

    def family(self, start: ModelBundle | None) -> FamilySettings:
        """The settings file with the options applied."""
        settings = read_yaml(FamilySettings, self.settings) if self.settings else FamilySettings()
        styles = {name: dict(words) for name, words in settings.styles.items()}
        for name, words in parse_pairs("--style", self.style).items():
            key, dot, language = name.partition(".")
            if not (key and dot and language):
                raise CogViewError(f"--style {name}={words}: write NAME.LANGUAGE=WORDS, such as flat.zh=扁平")
            styles.setdefault(key, {})[language] = words
        defaults, given = settings.defaults, self.defaults.model_fields_set
        if given:
            before = defaults or (start.config.defaults if start else SamplingParams())
            changes = {name: getattr(self.defaults, name) for name in given}
            fields = {name: getattr(before, name) for name in SamplingParams.model_fields}
            defaults = validate(SamplingParams, fields | changes, "sampling defaults")
        templates = {**settings.templates, **parse_pairs("--template", self.template)}
        table = settings.words and self.settings and self.settings.parent / settings.words
        changed = {"styles": styles, "templates": templates, "defaults": defaults, "words": table}
        return settings.model_copy(update=changed)


class Parts(Config):
    """The parts of the family."""

    out: Path = option(..., "The family's directory to write.", argument=True, metavar="OUT")
    base: Path | None = option(None, "The run that trained the text-to-image model.", metavar="RUN")
    role: tuple[str, ...] = option((), "A model for a role (caption=…).", metavar="ROLE=RUN", repeated=True)
    lora: tuple[str, ...] = option(
        (), "An adapter to keep beside the model, by name.", metavar="NAME=RUN", repeated=True
    )
    image_tokenizer: MaybeExisting = option(None, "The image tokenizer's run.", metavar="RUN")
    text_tokenizer: MaybeExisting = option(None, "The text tokenizer (.model).", metavar="FILE")
    start: MaybeModelName = option(
        None, "Take all parts that are not given from this family.", "--from", metavar="FAMILY"
    )
    beside: str | None = option(
        None,
        "Use the tokenizers of a family beside OUT without copying them.",
        "--tokenizers-of",
        metavar="FAMILY",
    )
    share: bool = option(False, "Store weights that a role shares with base, or with the CogLM, only once.")
    small: tuple[str, ...] = option(
        (), "Store this role, or image_tokenizer, as int8 rows, half the size.", metavar="ROLE", repeated=True
    )
    clusters: int = option(0, "Number of clusters of image codes, for cluster sampling.", ge=0)
