"""``cogview eval coco``: the papers' evaluation on MS-COCO, with the user's copy of it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cogview.cli.arguments import existing, model_name
from cogview.cli.precision import PrecisionOption


class Protocol(StrEnum):
    """Whose settings are the defaults."""

    COGVIEW = "cogview"
    COGVIEW2 = "cogview2"


def coco(
    captions: Annotated[
        Path,
        typer.Option("--captions", callback=existing, help="captions_val2014.json, or a file in its format."),
    ],
    images: Annotated[Path, typer.Option("--images", callback=existing, help="The folder of its pictures.")],
    model: Annotated[str, typer.Option("--model", callback=model_name, help="A model's name or directory.")],
    weights: Annotated[
        Path,
        typer.Option(
            "--weights", callback=existing, help="What `cogview import inception` (or `lite0`) wrote."
        ),
    ],
    protocol: Annotated[
        Protocol, typer.Option(help="cogview: best of 60, contrast 1.5. cogview2: best of 16, one a picture.")
    ] = Protocol.COGVIEW,
    n: Annotated[int, typer.Option("--n", "-n", min=2, help="How many captions.")] = 30_000,
    best_of: Annotated[
        int | None,
        typer.Option(min=1, help="Candidates, ranked by caption loss.", show_default="the protocol's"),
    ] = None,
    contrast: Annotated[
        float | None, typer.Option(help="Of the chosen pictures.", show_default="the protocol's")
    ] = None,
    translate: Annotated[
        str,
        typer.Option(
            help="A command that reads captions and writes translations, line by line.", show_default=False
        ),
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Chooses the captions and the pictures.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Default: the model's own.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    blur: Annotated[str, typer.Option(help="Radii of the blur of both sides, with commas.")] = "0,1,2,4,8",
    canvas: Annotated[int, typer.Option(min=16, help="Pixels a side at which both are compared.")] = 256,
    preprocessing: Annotated[
        str, typer.Option(help="How Inception's input is resized: pytorch-fid or tensorflow.")
    ] = "pytorch-fid",
    bootstrap: Annotated[int, typer.Option(min=0, help="Resampled sets for the 95 % intervals.")] = 100,
    precision: PrecisionOption = "fp32",
    rank: Annotated[
        str, typer.Option(help="I/N: draw the I-th of N shares only; the last one reports.", metavar="I/N")
    ] = "1/1",
    work: Annotated[Path, typer.Option("--work", help="Where pictures are kept, for stopped runs.")] = Path(
        "runs/coco"
    ),
    out: Annotated[Path | None, typer.Option(help="Write figures and manifest as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON instead of a table.")] = False,
) -> None:
    """The papers' evaluation on MS-COCO: FID-k, KID-k, Inception Score and caption loss for its captions.

    cogview eval coco --captions captions_val2014.json --images val2014 --model models/cogview
    --weights inception.safetensors --translate 'python translate.py' --out coco.json
    """
    from cogview import from_pretrained as load
    from cogview.cli.distributions import listed, show
    from cogview.cli.progress import bars
    from cogview.config import validate
    from cogview.evaluation.experiments.coco import PROTOCOLS, CocoPlan, evaluate_coco
    from cogview.evaluation.metrics.distributions import DistributionPlan, open_extractor
    from cogview.evaluation.reports import write_report
    from cogview.evaluation.sample_store import rank_of

    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    own: dict[str, Any] = {"best_of": best_of, "contrast": contrast}
    settings = PROTOCOLS[protocol] | {name: value for name, value in own.items() if value is not None}
    settings |= {"count": n, "seed": seed, "translate": translate}
    settings["sampling"] = {name: value for name, value in sampling.items() if value is not None}
    plan, share = validate(CocoPlan, settings, "eval coco"), rank_of(rank)
    given = {"metrics": ("fid", "kid", "is"), "blurs": listed(blur), "canvas": canvas}
    figures = validate(DistributionPlan, {**given, "seed": seed, "bootstrap": bootstrap}, "eval coco")
    extractor = open_extractor(weights, canvas, preprocessing)
    family = load(model, precision=precision)
    with bars() as progress:
        report = evaluate_coco(plan, captions, images, family, extractor, work, figures, share, progress)
    if report is None:
        typer.echo(f"share {rank} is drawn; the same command reports when all shares are")
        return
    if out:
        write_report(report, out)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        show({f"{report.facts['model']}, {report.count} captions": report.figures})
