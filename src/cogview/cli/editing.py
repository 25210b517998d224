"""``cogview eval editing``: whether edits change what they are asked to, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cogview.cli.arguments import existing, model_name
from cogview.cli.precision import PrecisionOption

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from cogview.evaluation.experiments.editing import EditingPlan, EditingReport
    from cogview.pipelines.model import Pipeline

SHOWN = 20


class FamilyEditor:
    """A family of CogView2's kind as an ``Editor`` of ``evaluation/experiments/editing.py``."""

    def __init__(self, family: Pipeline) -> None:
        from cogview.evaluation.experiments.image_generator import fingerprint

        self.family = family
        self.name = family.bundle.config.name
        self.precision = family.components.precision
        self.fingerprint = fingerprint(family.model_hash, family.components.precision)

    def edit(
        self, picture: Image.Image, prompt: str, mask: NDArray[np.bool_], seed: int, plan: EditingPlan
    ) -> Image.Image:
        """The picture with what is masked drawn anew."""
        from cogview.types import SamplingParams

        found = self.family.edit(
            picture,
            prompt,
            mask=mask,
            seed=seed,
            order=plan.order,
            best_of=plan.best_of,
            params=SamplingParams.given(**plan.sampling),
        )
        return found[0].image


def editing(
    tasks: Annotated[
        Path,
        typer.Argument(
            callback=existing, metavar="TASKS", help="A folder with edits.jsonl, as edits.py writes it."
        ),
    ],
    classifier: Annotated[
        Path,
        typer.Option("--classifier", callback=existing, help="What `cogview eval train-classifier` wrote."),
    ],
    model: Annotated[
        str, typer.Option("--model", callback=model_name, help="A model's name or directory.")
    ] = "pictogram-2",
    n: Annotated[int | None, typer.Option("--n", "-n", min=1, help="The first n tasks.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides what is drawn.")] = 0,
    language: Annotated[
        list[str] | None, typer.Option(help="Of the sentences; may be repeated, they take turns. [zh, en]")
    ] = None,
    order: Annotated[
        Literal["together", "one_by_one"], typer.Option(help="As of cogview edit.")
    ] = "together",
    best_of: Annotated[int, typer.Option(min=1, metavar="K", help="As of cogview edit.")] = 1,
    temperature: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Default: the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    emphasis: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    precision: PrecisionOption = "fp32",
    work: Annotated[Path, typer.Option("--work", help="Where pictures are kept, for stopped runs.")] = Path(
        "runs/editing"
    ),
    out: Annotated[Path | None, typer.Option("--out", help="Write the report as JSON.")] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write originals, masks, edits and answers (PNG).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Edit held-out pictures and read off what changed: the attribute asked for, the others, the pixels.

    Example:

      cogview eval editing edits --model pictogram-2 --classifier classifier --sheet edits.png
    """
    from cogview.cli.evaluate import write_sheet
    from cogview.cli.progress import bars
    from cogview.evaluation.experiments.editing import EditingPlan, evaluate_editing
    from cogview.evaluation.judges.classifier import AttributeReader
    from cogview.evaluation.reports import write_report
    from cogview.pipelines.model import Pipeline

    given = {"temperature": temperature, "top_k": top_k, "guidance": guidance, "emphasis": emphasis}
    sampling = {name: float(value) for name, value in given.items() if value is not None}
    plan = EditingPlan(
        count=n,
        seed=seed,
        languages=tuple(language or ("zh", "en")),
        order=order,
        best_of=best_of,
        sampling=sampling,
    )
    reader = AttributeReader.from_directory(classifier)
    family = Pipeline.from_pretrained(model, precision=precision)
    family.inpainting  # noqa: B018  (refused at once, naming the families that can)
    with bars() as progress:
        report, sets = evaluate_editing(plan, tasks, reader, FamilyEditor(family), work, progress)
    if out:
        write_report(report, out)
    if sheet:
        write_sheet(sheet, [pictures[:SHOWN] for pictures in sets.values()], SHOWN)
    typer.echo(report.model_dump_json(indent=2)) if as_json else _print(report)


def _print(report: EditingReport) -> None:
    from rich.console import Console
    from rich.table import Table

    count = report.untouched.stated
    table = Table(title=f"{report.facts['model']}: {count} edits", title_justify="left")
    for column in ("pictures", "changed", "others kept"):
        table.add_column(column, justify="left" if column == "pictures" else "right")
    for name, outcome in report.outcomes.items():
        table.add_row(name, f"{100 * outcome.changed.value:.1f} %", f"{100 * outcome.kept.value:.1f} %")
    console = Console()
    console.print(table)
    for name, share in report.outcomes["edited"].by_group.items():
        console.print(f"{name}: {share.right} of {share.stated} changed", highlight=False)
    console.print(
        f"outside the mask untouched: {report.untouched.right} of {count}; "
        f"{report.skipped} tasks left out (the classifier cannot read the change)",
        highlight=False,
    )
