"""``cogview assemble``: one's own runs as a family directory that ``cogview generate`` draws with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogview.cli.options import NONE_GIVEN, Fields, MaybeExisting, MaybeModelName, grouped
from cogview.cli.output import parse_pairs
from cogview.config import Config, option
from cogview.errors import CogViewError
from cogview.types import SamplingParams

if TYPE_CHECKING:
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.training.assembly import FamilySettings

Defaults = Annotated[
    SamplingParams,
    Fields("temperature", "top_k", "top_p", "guidance_scale", shown="the family's, when generating"),
]


class Parts(Config):
    """What the family is made of."""

    out: Path = option(..., "The family's directory to write.", argument=True, metavar="OUT")
    base: Path | None = option(None, "The run that trained the model that draws.", metavar="RUN")
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
    share: bool = option(False, "Store weights that a role has in common with base once.")
    small: tuple[str, ...] = option(
        (), "Store this role, or image_tokenizer, as int8 rows, half the size.", metavar="ROLE", repeated=True
    )
    clusters: int = option(0, "Number of clusters of image codes to make, for cluster sampling.", ge=0)


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
    defaults: Defaults = NONE_GIVEN

    def family(self, start: ModelBundle | None) -> FamilySettings:
        """The settings file with the options laid over it."""
        from cogview.config import read_yaml, validate
        from cogview.training.assembly import FamilySettings

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
        return found.model_copy(update={"styles": styles, "templates": templates, "defaults": defaults})


@grouped()
def assemble(parts: Parts, looks: Looks) -> None:
    """Put trained parts together as a family.

    A run is named by its directory (runs/mine) or by the model in it (runs/mine/model). Tokenizers other than
    those a model was trained with are refused. A run of an adapter as --base is added to the weights of the
    family in --from; as --lora it stays apart, for cogview generate --lora NAME.

    cogview assemble models/mine --base runs/mine --image-tokenizer runs/tokenizer --text-tokenizer text.model

    cogview assemble models/large --base runs/coglm --role direct=runs/direct --role iterative=runs/iterative
    --tokenizers-of models/mine --clusters 500

    cogview assemble models/ink --from pictogram --base runs/ink --style ink.en=ink --style ink.zh=水墨
    """
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.training import assembly as room

    roles = parse_pairs("--role", parts.role) | ({"base": str(parts.base)} if parts.base else {})
    start = ModelBundle.find(parts.start) if parts.start else None
    family = room.assemble(
        parts.out,
        {name: Path(path) for name, path in roles.items()},
        parts.image_tokenizer,
        parts.text_tokenizer,
        start=start,
        settings=looks.family(start),
        adapters={name: Path(path) for name, path in parse_pairs("--lora", parts.lora).items()},
        small=parts.small,
        card=looks.card,
        beside=ModelBundle.find(parts.beside) if parts.beside else None,
        clusters=parts.clusters,
        share=parts.share,
    )
    names = ", ".join(family.config.roles)
    typer.echo(f"{family.directory}: {family.config.name} {family.hash[:12]} ({names})")
