"""``cogview assemble``: one's own runs as a family directory that ``cogview generate`` draws with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogview.cli.arguments import existing, model_name
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.training.assemble import FamilySettings


def assemble(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The family's directory to write.", show_default=False)
    ],
    base: Annotated[
        Path | None, typer.Option("--base", metavar="RUN", help="The run that trained the model that draws.")
    ] = None,
    role: Annotated[
        list[str] | None, typer.Option("--role", metavar="ROLE=RUN", help="A model for a role (caption=…).")
    ] = None,
    image_tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--image-tokenizer", callback=existing, metavar="RUN", help="The image tokenizer's run."
        ),
    ] = None,
    text_tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--text-tokenizer", callback=existing, metavar="FILE", help="The text tokenizer (.model)."
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", callback=model_name, metavar="FAMILY", help="Take what is not given from this family."
        ),
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Store weights that a role has in common with base once.")
    ] = False,
    beside: Annotated[
        str | None,
        typer.Option(
            "--tokenizers-of", metavar="FAMILY", help="Use the tokenizers of a family beside OUT, uncopied."
        ),
    ] = None,
    clusters: Annotated[
        int, typer.Option(help="Make so many clusters of image codes, for cluster sampling.", min=0)
    ] = 0,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings", callback=existing, metavar="YAML", help="Styles, templates and sampling defaults."
        ),
    ] = None,
    style: Annotated[
        list[str] | None,
        typer.Option("--style", metavar="NAME.LANG=WORDS", help="A style's words: flat.zh=扁平."),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option("--template", metavar="LANG=TEXT", help='A caption with a style: "en={caption} …".'),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option("--lora", metavar="NAME=RUN", help="An adapter to keep beside the model, by name."),
    ] = None,
    small: Annotated[
        list[str] | None,
        typer.Option("--small", metavar="ROLE", help="Store this role as int8 rows, half the size."),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling default.", min=0)] = None,
    top_k: Annotated[int | None, typer.Option(help="Sampling default.", min=0)] = None,
    top_p: Annotated[float | None, typer.Option(help="Sampling default.", min=0, max=1)] = None,
    guidance: Annotated[float | None, typer.Option(help="Sampling default.", min=0)] = None,
    card: Annotated[
        Path | None,
        typer.Option("--card", callback=existing, help="The model card (default: the one already in OUT)."),
    ] = None,
) -> None:
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
    from cogview.training import assemble as room

    runs = _pairs("--role", role or []) | ({"base": str(base)} if base else {})
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    opened = ModelBundle.find(start) if start else None
    wanted = _settings(settings, style or [], template or [], given, opened)
    family = room.assemble(
        out,
        {name: Path(path) for name, path in runs.items()},
        image_tokenizer,
        text_tokenizer,
        start=opened,
        settings=wanted,
        adapters={name: Path(path) for name, path in _pairs("--lora", lora or []).items()},
        small=small or [],
        card=card,
        beside=ModelBundle.find(beside) if beside else None,
        clusters=clusters,
        share=share,
    )
    roles = ", ".join(family.config.roles)
    typer.echo(f"{family.directory}: {family.config.name} {family.hash[:12]} ({roles})")


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    """``NAME=VALUE`` texts as a mapping."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise CogViewError(f"{option} {text}: write NAME=VALUE")
        found[name] = value
    return found


def _settings(
    path: Path | None,
    style: list[str],
    template: list[str],
    given: dict[str, float | None],
    start: object,
) -> FamilySettings:
    """The settings file with the options laid over it."""
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.config import read_yaml, validate
    from cogview.training.assemble import FamilySettings
    from cogview.types import SamplingParams

    found = read_yaml(FamilySettings, path) if path else FamilySettings()
    styles = {name: dict(words) for name, words in found.styles.items()}
    for name, words in _pairs("--style", style).items():
        key, dot, language = name.partition(".")
        if not (key and dot and language):
            raise CogViewError(f"--style {name}={words}: write NAME.LANGUAGE=WORDS, such as flat.zh=扁平")
        styles.setdefault(key, {})[language] = words
    before = start.config.defaults if isinstance(start, ModelBundle) else SamplingParams()
    chosen = {name: value for name, value in given.items() if value is not None}
    defaults = found.defaults
    if chosen:
        defaults = validate(SamplingParams, (defaults or before).model_dump() | chosen, "sampling defaults")
    templates = {**found.templates, **_pairs("--template", template)}
    return FamilySettings(styles=styles, templates=templates, defaults=defaults)
