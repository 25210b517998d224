"""``cogview inspect``: what goes on inside a model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from cogview.cli.arguments import model_name

inspects = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Look inside a model: what its attention heads look at."
)


@inspects.callback()
def _group() -> None:
    """Nothing is changed in the model."""


@inspects.command()
def attention(
    prompt: Annotated[str, typer.Argument(help="What to draw and look at.", show_default=False)],
    model: Annotated[
        str, typer.Option("--model", "-m", callback=model_name, help="A model's name or directory.")
    ] = "pictogram",
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
    from cogview import from_pretrained as load
    from cogview.analysis.attention_report import analyse, write

    report = analyse(load(model), prompt, word or (), seed)
    page = write(report, out)
    counts = Counter(verdict.bias for verdict in report.verdicts)
    typer.echo(f"{page}: {report.layers} layers; heads: " + ", ".join(f"{n} {b}" for b, n in counts.items()))


@inspects.command()
def stability(
    model: Annotated[
        str, typer.Option("--model", "-m", callback=model_name, help="A model's name or directory.")
    ] = "pictogram",
    role: Annotated[
        str, typer.Option(help="Which of its transformers; each reads what it is asked with.")
    ] = "base",
    prompt: Annotated[
        list[str] | None, typer.Option(help="What is drawn and read; may be given again.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the pictures.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Value ranges layer by layer, and how many doublings are left before fp16 overflows.

    Pictures are drawn for the prompts and read once more with their text; the largest sizes of the residual
    stream, the branches and the attention scores are shown (CogView, section 2.4).

    cogview inspect stability --model pictogram

    cogview inspect stability --model pictogram-2 --role direct
    """
    import json

    from cogview import from_pretrained as load
    from cogview.analysis.reading import reading
    from cogview.analysis.stability import layer_ranges

    family = load(model)
    transformer = family.bundle.transformer(role)
    texts = prompt or ["a blue monster with round eyes, red background"]
    pictures = family.generate(texts, seed=seed, first_stage_only=family.two_stage)
    read = [reading(family, role, picture) for picture in pictures]
    ranges = [layer_ranges(transformer, r.ids[None], r.positions, r.visibility) for r in read]
    worst = [max(layer, key=lambda r: r.largest) for layer in zip(*ranges, strict=True)]
    if as_json:
        typer.echo(json.dumps([{**vars(r), "headroom": r.headroom} for r in worst], indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    names = ("stream", "attention", "feed_forward", "wide", "scores")
    table = Table("layer", *(name.replace("_", " ") for name in names), "headroom")
    for r in worst:
        cells = [f"{getattr(r, name):.4g}" for name in names]
        table.add_row(str(r.layer), *cells, f"2^{r.headroom:.1f}")
    Console().print(table)
