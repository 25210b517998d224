"""``cogview eval tokenizer``, ``pictures``, ``compare``, ``coco``, ``diversity``, ``upscaling``, ``speed``.

These measure how close images are to real ones, how diverse they are, and how fast they are generated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.eval.common import Report, Sheet
from cogview.cli.options import grouped
from cogview.cli.output import bars, show, write_rows
from cogview.config import Fields
from cogview.errors import CogViewError
from cogview.evaluation import inputs, plans
from cogview.evaluation import report_tables as tables
from cogview.pipelines.task_requests import use_threads
from cogview.types import SamplingParams


@grouped()
def tokenizer(args: inputs.Tokenizer, plan: plans.ReconstructionPlan, output: Sheet) -> None:
    """PSNR, SSIM and LPIPS of an image tokenizer's reconstructions, and its codebook usage."""
    from cogview.data.shards import Preprocessing
    from cogview.evaluation.metrics.reconstruction import evaluate_tokenizer, load_images, spread
    from cogview.evaluation.reports import versions
    from cogview.tokenizers.loading import read_image_tokenizer
    from cogview.tokenizers.perceptual import LPIPS

    use_threads(args.place.threads, args.directory)
    device = args.place.chosen_device()
    model = read_image_tokenizer(args.directory).to(device)
    judge = LPIPS.from_file(args.lpips).to(device) if args.lpips else None
    shape = Preprocessing(size=model.image_size, resample=plan.resample)
    images = load_images(args.data, plan.split, shape, plan.limit)
    with bars() as progress:
        report, reconstructions = evaluate_tokenizer(model, images, judge, progress)
    facts = {"data": args.data.name, "split": plan.split or "", "resample": plan.resample}
    facts |= {"lpips": "vgg16" if judge else "", **versions()}
    if output.sheet:
        rows = spread(images.sources, args.shown)
        write_rows(output.sheet, [images.pixels[rows], reconstructions[rows]], args.columns)
    output.finish(report.model_copy(update={"facts": {**report.facts, **facts}}), tables.reconstruction)


@grouped(work=Path("runs/pictures"))
def pictures(
    args: inputs.Sets, plan: plans.DistributionPlan, features: inputs.Features, rows: inputs.Rows, out: Report
) -> None:
    """How close generated images are to real ones: FID-k, KID-k, Inception Score, with a manifest.

    KID is unbiased and suits hundreds of images; FID needs thousands. Metrics are named after the network,
    Lite0-FID or Inception-FID: only compare values of the same network.

    cogview eval pictures photos/ out/ --weights lite0.safetensors --blur 0,1,2,4,8
    """
    from cogview.evaluation.metrics.fid import compare_pictures
    from cogview.evaluation.metrics.image_sets import open_set
    from cogview.evaluation.sample_store import parse_rank

    part, extractor, work = parse_rank(args.part, "--part"), features.open(plan.canvas), features.work
    real = open_set(args.reference, rows.split, rows.source, rows.count)
    generated = open_set(args.drawn, count=rows.count)
    with bars() as progress:
        report = compare_pictures(real, generated, plan, extractor, work, progress, part, args.any_size)
    if report is None:
        typer.echo(f"part {args.part} is done; when all parts are, run the same command without --part")
        return
    out.finish(report, lambda report: tables.figures({str(args.drawn): report.figures}))


@grouped()
def compare(args: inputs.Reports) -> None:
    """Compare reports; they must have been measured the same way, or the first differing field is named."""
    from cogview.evaluation.metrics.comparison import figures, read_reports

    if len(args.reports) < 2:
        raise CogViewError("give two or more reports to compare")
    reports = read_reports(args.reports)
    show(*tables.figures({path: figures(report) for path, report in reports.items()}))


@grouped(work=Path("runs/coco"), blurs=",".join(f"{blur:g}" for blur in plans.BLURS))
def coco(
    args: inputs.Coco,
    plan: plans.CocoPlan,
    figures: Annotated[plans.DistributionPlan, Fields("blurs", "canvas", "seed", "bootstrap")],
    features: inputs.Features,
    share: inputs.Share,
    output: Report,
) -> None:
    """The papers' evaluation on MS-COCO: FID-k, KID-k, Inception Score and caption loss, for COCO's captions.

    cogview eval coco --captions captions_val2014.json --images val2014 --model models/cogview
    --weights inception.safetensors --translate 'python translate.py' --out coco.json

    cogview eval coco --captions captions_val2014.json --images val2014 --pictures DM-GAN=dmgan/
    --pictures CogView=cogview/ --judge models/cogview --weights inception.safetensors --out table.json
    """
    from cogview.evaluation.experiments.coco import evaluate_coco
    from cogview.evaluation.experiments.coco_table import write_selection

    coco_plan = plans.CocoPlan(**plans.PROTOCOLS[args.protocol] | plan.model_dump(exclude_unset=True))
    measured = figures.model_copy(update={"metrics": ("fid", "kid", "is")})
    if args.listed:
        count = write_selection(coco_plan, args.files, args.listed)
        return typer.echo(f"{args.listed}: {count} captions")
    if args.pictures:
        return coco_table(args, coco_plan, measured, features, output)
    if args.model is None:
        raise CogViewError("give a --model to generate with, or systems as --pictures NAME=DIR")
    part, extractor = share.part, features.open(figures.canvas)
    pipeline = inputs.open_model(args.model, args.place)
    with bars() as progress:
        report = evaluate_coco(
            coco_plan, args.files, pipeline, extractor, features.work, measured, part, progress
        )
    if report is None:
        return typer.echo(share.waiting)
    name = f"{report.facts['model']}, {report.count} captions"
    output.finish(report, lambda report: tables.figures({name: report.figures}))


def coco_table(
    args: inputs.Coco,
    plan: plans.CocoPlan,
    measured: plans.DistributionPlan,
    features: inputs.Features,
    output: Report,
) -> None:
    """Evaluate the images of several systems with one caption model."""
    from cogview.evaluation.experiments.coco_table import evaluate_systems, read_systems

    if args.judge is None or args.model is not None:
        wrong = "--judge is missing" if args.judge is None else "--model generates; leave it out"
        raise CogViewError(f"--pictures: {wrong}: one model judges the images of all systems")
    systems, judge = read_systems(args.pictures), inputs.open_generator(args.judge, args.place)
    extractor, work = features.open(measured.canvas), features.work
    with bars() as progress:
        report = evaluate_systems(plan, args.files, systems, judge, extractor, work, measured, progress)
    output.finish(report, lambda report: tables.figures(report.rows))


@grouped(work=Path("runs/pictures"))
def diversity(
    args: inputs.Spread, plan: plans.DiversityPlan, features: inputs.Features, rows: inputs.Rows, out: Report
) -> None:
    """How diverse images are: of one prompt, of different prompts, and all together (Vendi score).

    cogview eval diversity out/ --weights lite0.safetensors

    cogview eval diversity corpus --split test_concept --prompts en --weights lite0.safetensors
    """
    from cogview.evaluation.metrics.diversity import column, evaluate_diversity
    from cogview.evaluation.metrics.image_sets import open_set

    extractor, images = features.open(), open_set(args.pictures, rows.split, rows.source, rows.count)
    texts = column(args.pictures, images, args.prompts) if args.prompts else None
    with bars() as progress:
        report = evaluate_diversity(images, extractor, plan, features.work, progress, texts)
    out.finish(report, tables.diversity)


@grouped(model="pictogram")
def upscaling(
    args: inputs.Upscaling,
    plan: plans.UpscalingPlan,
    params: Annotated[SamplingParams, Fields("temperature", "top_k", "top_p", shown="the model's")],
    output: Sheet,
) -> None:
    """LPIPS, SSIM and PSNR of upscaled images against the true large ones, compared with bicubic and Lanczos.

    Images of twice the model's size are reduced to half and upscaled again. For a family of CogView2's kind,
    the factor is that of its direct model, and it upscales from image codes. Rows of the sheet are those of
    the table, the true images first.

    Examples:

      cogview eval upscaling --data corpus/ --lpips vgg16.safetensors -n 200 --out sr.json --sheet sr.png

      cogview eval upscaling --model pictogram-2 --data corpus216/ --lpips vgg16.safetensors -n 50
    """
    from cogview.checkpoints.bundle import UPSCALING
    from cogview.evaluation.experiments.two_stage_upscaling import evaluate_two_stage_upscaling
    from cogview.evaluation.experiments.windowed_upscaling import evaluate_upscaling
    from cogview.evaluation.metrics.reconstruction import spread
    from cogview.evaluation.reports import versions
    from cogview.pipelines.super_resolution import ORDER
    from cogview.tokenizers.perceptual import LPIPS

    judge, pipeline = LPIPS.from_file(args.lpips, args.network), inputs.open_model(args.model, args.place)
    sampling = {name: getattr(params, name) for name in params.model_fields_set}
    with bars() as progress:
        family = pipeline.bundle.config
        if family.stages and (args.order or UPSCALING not in family.roles):
            refuse_sampling(sampling)
            report, sets, sources = evaluate_two_stage_upscaling(
                pipeline, args.data, judge, plan, args.order or (ORDER,), progress
            )
        else:
            report, sets, sources = evaluate_upscaling(pipeline, args.data, judge, plan, sampling, progress)
    if output.sheet:
        rows = spread(sources, args.shown)
        write_rows(output.sheet, [images[rows] for images in sets.values()], len(rows))
    output.finish(report.model_copy(update={"facts": {**report.facts, **versions()}}), tables.upscaling)


def refuse_sampling(sampling: dict[str, float]) -> None:
    """Raises CogViewError if there are parameters, which direct and iterative super-resolution lack."""
    if sampling:
        raise CogViewError(
            f"--{next(iter(sampling)).replace('_', '-')}: families of CogView2's kind upscale with the "
            "release's parameters; leave it out"
        )


@grouped()
def speed(args: inputs.Timed, plan: plans.SpeedPlan, output: Report) -> None:
    """How fast a model generates on this machine.

    cogview eval speed --model pictogram --batches 1,4,16
    """
    from cogview.evaluation.experiments.speed import measure_speed

    place = args.place
    use_threads(place.threads, ModelBundle.find(args.model).directory)
    with bars() as progress:
        report = measure_speed(args.model, plan, place.precision, progress, place.torch_device())
    output.finish(report, tables.speed)
