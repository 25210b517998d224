"""``cogview sweep``: many runs of one recipe, and a table of their results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cogview.cli.options import JSON, SET, grouped
from cogview.cli.output import print_json, show
from cogview.config import Config, Existing, option

if TYPE_CHECKING:
    from rich.table import Table

    from cogview.training.trials import Result


class Trials(Config):
    """The fields to vary, and the metric to compare."""

    recipe: Existing = option(..., "The YAML recipe.", argument=True, metavar="RECIPE")
    over: tuple[str, ...] = option(
        ...,
        "A field to vary: comma-separated values (every combination is run) or, with --search, a range "
        "LOW..HIGH. May be repeated.",
        metavar="FIELD=A,B,…",
        repeated=True,
    )
    out: Path | None = option(None, "The folder of the sweep.", shown="sweeps/RECIPE")
    overrides: tuple[str, ...] = SET
    search: int | None = option(
        None, "Number of trials for Optuna to choose, instead of running every combination.", ge=1
    )
    metric: str = option("loss", "The evaluation metric to compare.")
    largest: bool = option(False, "The largest value of the metric is best, not the smallest.")
    seed: int = option(0, "Seed of the search.", ge=0)
    table: bool = option(False, "Only show the table of results.")
    as_json: bool = JSON


@grouped()
def sweep(trials: Trials) -> None:
    """Train a recipe with many settings, one after the other; start it on several machines to share the work.

    cogview sweep recipes/transformer.yaml --over lr=1e-3,3e-4 --over model.layers=4,8 --set steps=500

    cogview sweep recipes/transformer.yaml --over lr=1e-4..1e-2 --over optimizer.kind=adamw,muon --search 20

    A stopped sweep continues when it is run again; machines that share the folder share the trials.
    """
    from rich.console import Console

    from cogview.training.trials import Sweep

    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    job = Sweep(
        trials.recipe,
        trials.overrides,
        trials.over,
        trials.out or Path("sweeps") / trials.recipe.stem,
        metric=trials.metric,
        largest=trials.largest,
        say=say,
    )
    complete = trials.table or (job.search(trials.search, trials.seed) if trials.search else job.run())
    results = job.results()
    if trials.as_json:
        print_json([result.model_dump(mode="json") for result in results])
    else:
        show(table_of(results, trials.metric))
    if not complete:
        say("stopped; the same command continues")


def table_of(results: list[Result], metric: str) -> Table:
    """The results, best first."""
    from rich.table import Table

    fields = list(dict.fromkeys(text.partition("=")[0] for result in results for text in result.overrides))
    table = Table(metric, "step", "seconds", *fields)
    for result in results:
        values = dict(text.split("=", 1) for text in result.overrides)
        metric_text = f"{result.value:.5g}" if result.value is not None else result.error or "none"
        cells = (values.get(field, "") for field in fields)
        table.add_row(metric_text, str(result.step), f"{result.seconds:.0f}", *cells)
    return table
