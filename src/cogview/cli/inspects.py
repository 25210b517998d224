"""``cogview inspect``: what goes on inside a model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

inspects = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Look inside a model: what its attention heads look at."
)


@inspects.callback()
def _group() -> None:
    """Nothing is changed in the model."""


@inspects.command()
def attention(
    prompt: Annotated[str, typer.Argument(help="What to draw and look at.", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="A model's name or directory.")] = "pictogram",
    word: Annotated[
        list[str] | None,
        typer.Option(help="A part of the prompt whose heads are looked for; may be given again."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the picture.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")] = Path("attention"),
) -> None:
    """Maps of every head, the heads that find a word, positional biases, score scales: one HTML page.

    cogview inspect attention "a blue monster with round eyes, red background" --word "round eyes" -o look/
    """
    from cogview.analysis.attention_report import analyse, write
    from cogview.pipeline import CogView

    report = analyse(CogView.from_pretrained(model), prompt, word or (), seed)
    page = write(report, out)
    counts = Counter(verdict.bias for verdict in report.verdicts)
    typer.echo(f"{page}: {report.layers} layers; heads: " + ", ".join(f"{n} {b}" for b, n in counts.items()))
