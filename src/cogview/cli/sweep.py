"""``cogview sweep``: many runs of one recipe, and a table of what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogview.cli.arguments import existing

if TYPE_CHECKING:
    from cogview.training.sweep import Result


def sweep(
    recipe: Annotated[Path, typer.Argument(callback=existing, help="The YAML recipe.", show_default=False)],
    over: Annotated[
        list[str],
        typer.Option(
            "--over",
            metavar="FIELD=A,B,…",
            help="What to vary: values between commas (every combination is run) or, with --search, a range "
            "LOW..HIGH. May be given again.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder of the sweep (default: sweeps/RECIPE).")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field for all trials."),
    ] = None,
    search: Annotated[
        int | None,
        typer.Option(min=1, help="Let Optuna choose so many trials instead of running every combination."),
    ] = None,
    metric: Annotated[str, typer.Option(help="What counts: a metric of the evaluations.")] = "loss",
    largest: Annotated[bool, typer.Option("--largest", help="The largest is best, not the least.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    table: Annotated[bool, typer.Option("--table", help="Run nothing, show what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train a recipe with many settings, one after the other; the same command on other machines helps.

    cogview sweep recipes/transformer.yaml --over lr=1e-3,3e-4 --over model.layers=4,8 --set steps=500

    cogview sweep recipes/transformer.yaml --over lr=1e-4..1e-2 --over optimizer.kind=adamw,muon --search 20

    Stopped or killed, it goes on when run again; machines that share the folder share the trials.
    """
    import json

    from rich.console import Console

    from cogview.training.sweep import Sweep

    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    directory = out or Path("sweeps") / recipe.stem
    job = Sweep(recipe, overrides or [], over, directory, metric=metric, largest=largest, say=say)
    ended = table or (job.search(search, seed) if search else job.run())
    results = job.results()
    if as_json:
        typer.echo(json.dumps([result.model_dump(mode="json") for result in results], indent=1))
    else:
        _show(results, metric)
    if not ended:
        say("stopped; the same command goes on")


def _show(results: list[Result], metric: str) -> None:
    """The table, best first."""
    from rich.console import Console
    from rich.table import Table

    fields = list(dict.fromkeys(text.partition("=")[0] for result in results for text in result.overrides))
    table = Table(metric, "step", "seconds", *fields)
    for result in results:
        given = dict(text.split("=", 1) for text in result.overrides)
        value = f"{result.value:.5g}" if result.value is not None else result.error or "none"
        table.add_row(value, str(result.step), f"{result.seconds:.0f}", *(given.get(f, "") for f in fields))
    Console().print(table)
