"""``cogview inspect``: attention maps and value ranges of a model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import typer

from cogview.checkpoints.bundle import ModelName
from cogview.cli.options import JSON, grouped
from cogview.cli.output import print_json, show
from cogview.config import Config, option
from cogview.evaluation.inputs import open_model
from cogview.pipelines.task_requests import ComputeOptions

inspects = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Look inside a model: attention heads, value ranges."
)


@inspects.callback()
def _group() -> None:
    """Inspect a model without changing it."""


class Inspection(Config):
    """The model to inspect."""

    model: ModelName = option("pictogram", "A model's name or directory.", "--model", "-m")
    seed: int = option(0, "Seed of the generated images.", ge=0)
    place: ComputeOptions = ComputeOptions()


class Attention(Inspection):
    """The prompt and words to inspect, and where the report is written."""

    prompt: str = option(..., "Prompt of the image to inspect.", argument=True, metavar="PROMPT")
    word: tuple[str, ...] = option(
        (), "A part of the prompt; heads that attend to it are listed. May be repeated.", repeated=True
    )
    out: Path = option(Path("attention"), "The folder for the report.", "--out", "-o")


@inspects.command()
@grouped()
def attention(args: Attention) -> None:
    """Write an HTML page: attention maps of every head, the heads that attend to a word, positional biases,
    scales of attention scores.

    cogview inspect attention "a blue monster with round eyes, red background" --word "round eyes" -o look/
    """
    from cogview.analysis.attention_report import analyse, write

    report = analyse(open_model(args.model, args.place), args.prompt, args.word, args.seed)
    page = write(report, args.out)
    counts = Counter(verdict.bias for verdict in report.verdicts)
    typer.echo(f"{page}: {report.layers} layers; heads: " + ", ".join(f"{n} {b}" for b, n in counts.items()))


class Ranges(Inspection):
    """The transformer and prompts to measure."""

    role: str = option("base", "Role of the transformer to measure.")
    prompt: tuple[str, ...] = option((), "Prompt of an image to generate; may be repeated.", repeated=True)
    as_json: bool = JSON


@inspects.command()
@grouped()
def stability(args: Ranges) -> None:
    """Show the value range of every layer, and how many doublings are left before fp16 overflows.

    Images are generated for the prompts, then processed together with their text in one forward pass; the
    largest magnitudes of the residual stream, the branches and the attention scores are shown (CogView,
    section 2.4).

    cogview inspect stability --model pictogram

    cogview inspect stability --model pictogram-2 --role direct
    """
    from cogview.analysis.reading import reading
    from cogview.analysis.stability import layer_ranges

    family, role = open_model(args.model, args.place), args.role
    transformer = family.bundle.transformer(role)
    texts = list(args.prompt) or ["a blue monster with round eyes, red background"]
    images = family.generate(texts, seed=args.seed, first_stage_only=family.bundle.config.two_stage)
    sequences = [reading(family, role, image) for image in images]
    ranges = [layer_ranges(transformer, s.ids[None], s.positions, s.visibility) for s in sequences]
    worst = [max(layer, key=lambda r: r.largest) for layer in zip(*ranges, strict=True)]
    if args.as_json:
        print_json([{**vars(r), "headroom": r.headroom} for r in worst])
        return
    from rich.table import Table

    names = ("stream", "attention", "feed_forward", "wide", "scores")
    table = Table("layer", *(name.replace("_", " ") for name in names), "headroom")
    for r in worst:
        cells = [f"{getattr(r, name):.4g}" for name in names]
        table.add_row(str(r.layer), *cells, f"2^{r.headroom:.1f}")
    show(table)
