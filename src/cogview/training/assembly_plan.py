"""What ``cogview assemble`` is asked for: the parts of a family, and its styles and sampling defaults.

Nothing here imports PyTorch.
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
    """What a family has beside its models; as a YAML file for ``--settings`` (fields as in family.json).

    ``also``: other names that the family is found by. ``words``: the table of what near a word the model
    knows (:mod:`cogview.checkpoints.prompt_help`); a relative path starts at the YAML file's folder.
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
        (), "A style's words: flat.zh=扁平.", metavar="NAME.LANG=WORDS", repeated=True
    )
    template: tuple[str, ...] = option(
        (), 'A caption with a style: "en={caption} …".', metavar="LANG=TEXT", repeated=True
    )
    card: MaybeExisting = option(None, "The model card.", shown="the one already in OUT")
    defaults: Defaults = SamplingParams()

    def family(self, start: ModelBundle | None) -> FamilySettings:
        """The settings file with the options laid over it."""
        found = read_yaml(FamilySettings, self.settings) if self.settings else FamilySettings()
        styles = {name: dict(words) for name, words in found.styles.items()}
        for name, words in parse_pairs("--style", self.style).items():
            key, dot, language = name.partition(".")
            if not (key and dot and language):
                raise CogViewError(f"--style {name}={words}: write NAME.LANGUAGE=WORDS, such as flat.zh=扁平")
            styles.setdefault(key, {})[language] = words
        defaults, given = found.defaults, self.defaults.model_fields_set
        if given:
            before = defaults or (start.config.defaults if start else SamplingParams())
            chosen = {name: getattr(self.defaults, name) for name in given}
            fields = {name: getattr(before, name) for name in SamplingParams.model_fields}
            defaults = validate(SamplingParams, fields | chosen, "sampling defaults")
        templates = {**found.templates, **parse_pairs("--template", self.template)}
        table = found.words and self.settings and self.settings.parent / found.words
        changed = {"styles": styles, "templates": templates, "defaults": defaults, "words": table}
        return found.model_copy(update=changed)


class Parts(Config):
    """What the family is made of."""

    out: Path = option(..., "The family's directory to write.", argument=True, metavar="OUT")
    base: Path | None = option(None, "The run that trained the model that generates.", metavar="RUN")
    role: tuple[str, ...] = option((), "A model for a role (caption=…).", metavar="ROLE=RUN", repeated=True)
    lora: tuple[str, ...] = option(
        (), "An adapter to keep beside the model, by name.", metavar="NAME=RUN", repeated=True
    )
    image_tokenizer: MaybeExisting = option(None, "The image tokenizer's run.", metavar="RUN")
    text_tokenizer: MaybeExisting = option(None, "The text tokenizer (.model).", metavar="FILE")
    start: MaybeModelName = option(
        None, "Take what is not given from this family.", "--from", metavar="FAMILY"
    )
    beside: str | None = option(
        None,
        "Use the tokenizers of a family beside OUT, uncopied.",
        "--tokenizers-of",
        metavar="FAMILY",
    )
    share: bool = option(False, "Store weights that a role has in common with base, or with the CogLM, once.")
    small: tuple[str, ...] = option(
        (), "Store this role, or image_tokenizer, as int8 rows, half the size.", metavar="ROLE", repeated=True
    )
    clusters: int = option(0, "Number of clusters of image codes to make, for cluster sampling.", ge=0)
