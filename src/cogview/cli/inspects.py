"""``cogview inspect``: what goes on inside a model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import typer

from cogview.checkpoints.bundle import ModelName
from cogview.cli.options import JSON, grouped
from cogview.cli.output import print_json, show
from cogview.config import Config, option
from cogview.evaluation.inputs import open_model
from cogview.pipelines.task_requests import Place

inspects = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Look inside a model: attention heads, value ranges."
)


@inspects.callback()
def _group() -> None:
    """Nothing is changed in the model."""


class Looked(Config):
    """The model that is inspected."""

    model: ModelName = option("pictogram", "A model's name or directory.", "--model", "-m")
    seed: int = option(0, "Seed of the images.", ge=0)
    place: Place = Place()


class Attention(Looked):
    """Whose attention is shown, and where."""

    prompt: str = option(..., "What to generate and inspect.", argument=True, metavar="PROMPT")
    word: tuple[str, ...] = option(
        (), "A part of the prompt whose heads are searched for; may be repeated.", repeated=True
    )
    out: Path = option(Path("attention"), "The folder to write.", "--out", "-o")


@inspects.command()
@grouped()
def attention(given: Attention) -> None:
    """Attention maps of every head, the heads that attend to a word, positional biases, score scales: one
    HTML page.

    cogview inspect attention "a blue monster with round eyes, red background" --word "round eyes" -o look/
    """
    from cogview.analysis.attention_report import analyse, write

    report = analyse(open_model(given.model, given.place), given.prompt, given.word, given.seed)
    page = write(report, given.out)
    counts = Counter(verdict.bias for verdict in report.verdicts)
    typer.echo(f"{page}: {report.layers} layers; heads: " + ", ".join(f"{n} {b}" for b, n in counts.items()))


class Ranges(Looked):
    """Which values are measured."""

    role: str = option("base", "Which of its transformers.")
    prompt: tuple[str, ...] = option((), "What is generated and read; may be repeated.", repeated=True)
    as_json: bool = JSON


@inspects.command()
@grouped()
def stability(given: Ranges) -> None:
    """Value ranges layer by layer, and how many doublings are left before fp16 overflows.

    Images are generated for the prompts and read once more with their text; the largest sizes of the residual
    stream, the branches and the attention scores are shown (CogView, section 2.4).

    cogview inspect stability --model pictogram

    cogview inspect stability --model pictogram-2 --role direct
    """
    from cogview.analysis.reading import reading
    from cogview.analysis.stability import layer_ranges

    family, role = open_model(given.model, given.place), given.role
    transformer = family.bundle.transformer(role)
    texts = list(given.prompt) or ["a blue monster with round eyes, red background"]
    pictures = family.generate(texts, seed=given.seed, first_stage_only=family.bundle.config.two_stage)
    read = [reading(family, role, picture) for picture in pictures]
    ranges = [layer_ranges(transformer, r.ids[None], r.positions, r.visibility) for r in read]
    worst = [max(layer, key=lambda r: r.largest) for layer in zip(*ranges, strict=True)]
    if given.as_json:
        print_json([{**vars(r), "headroom": r.headroom} for r in worst])
        return
    from rich.table import Table

    names = ("stream", "attention", "feed_forward", "wide", "scores")
    table = Table("layer", *(name.replace("_", " ") for name in names), "headroom")
    for r in worst:
        cells = [f"{getattr(r, name):.4g}" for name in names]
        table.add_row(str(r.layer), *cells, f"2^{r.headroom:.1f}")
    show(table)
