"""``cogview eval tokenizer``, ``pictures``, ``compare``, ``coco``, ``diversity``, ``upscaling``, ``speed``.

How near are images to real ones, how different from each other, and how fast are they made?
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
def tokenizer(given: inputs.Tokenizer, plan: plans.ReconstructionPlan, report: Sheet) -> None:
    """PSNR, SSIM and LPIPS of reconstructions, and how the codebook is used."""
    from cogview.data.shards import Preprocessing
    from cogview.evaluation.metrics.reconstruction import evaluate_tokenizer, load_images, spread
    from cogview.evaluation.reports import versions
    from cogview.tokenizers.loading import read_image_tokenizer
    from cogview.tokenizers.perceptual import LPIPS

    use_threads(given.place.threads, given.directory)
    device = given.place.chosen_device()
    model = read_image_tokenizer(given.directory).to(device)
    judge = LPIPS.from_file(given.lpips).to(device) if given.lpips else None
    shape = Preprocessing(size=model.image_size, resample=plan.resample)
    pictures = load_images(given.data, plan.split, shape, plan.limit)
    with bars() as progress:
        found, copies = evaluate_tokenizer(model, pictures, judge, progress)
    facts = {"data": given.data.name, "split": plan.split or "", "resample": plan.resample}
    facts |= {"lpips": "vgg16" if judge else "", **versions()}
    if report.sheet:
        rows = spread(pictures.sources, given.shown)
        write_rows(report.sheet, [pictures.pixels[rows], copies[rows]], given.columns)
    report.finish(found.model_copy(update={"facts": {**found.facts, **facts}}), tables.reconstruction)


@grouped(work=Path("runs/pictures"))
def pictures(
    given: inputs.Sets,
    plan: plans.DistributionPlan,
    features: inputs.Features,
    rows: inputs.Rows,
    report: Report,
) -> None:
    """How close generated images are to real ones: FID-k, KID-k, Inception Score, with a manifest.

    KID is unbiased and right for hundreds of images; FID needs thousands. Figures are called after the
    network, Lite0-FID or Inception-FID: compare those of one network with each other.

    cogview eval pictures photos/ out/ --weights lite0.safetensors --blur 0,1,2,4,8
    """
    from cogview.evaluation.metrics.fid import compare_pictures
    from cogview.evaluation.metrics.image_sets import open_set
    from cogview.evaluation.sample_store import parse_rank

    part, extractor, work = parse_rank(given.part, "--part"), features.open(plan.canvas), features.work
    real = open_set(given.reference, rows.split, rows.source, rows.count)
    drawn = open_set(given.drawn, count=rows.count)
    with bars() as progress:
        found = compare_pictures(real, drawn, plan, extractor, work, progress, part, given.any_size)
    if found is None:
        typer.echo(f"part {given.part} is done; run the same without --part when all parts are")
        return
    report.finish(found, lambda own: tables.figures({str(given.drawn): own.figures}))


@grouped()
def compare(given: inputs.Reports) -> None:
    """Compare reports; refused, with the field named, where they were not measured the same way."""
    from cogview.evaluation.metrics.comparison import figures, read_reports

    if len(given.reports) < 2:
        raise CogViewError("one report is nothing to compare; give two or more")
    found = read_reports(given.reports)
    show(*tables.figures({where: figures(report) for where, report in found.items()}))


@grouped(work=Path("runs/coco"), blurs=",".join(f"{blur:g}" for blur in plans.BLURS))
def coco(
    given: inputs.Coco,
    plan: plans.CocoPlan,
    figures: Annotated[plans.DistributionPlan, Fields("blurs", "canvas", "seed", "bootstrap")],
    features: inputs.Features,
    share: inputs.Share,
    report: Report,
) -> None:
    """The papers' evaluation on MS-COCO: FID-k, KID-k, Inception Score and caption loss for its captions.

    cogview eval coco --captions captions_val2014.json --images val2014 --model models/cogview
    --weights inception.safetensors --translate 'python translate.py' --out coco.json

    cogview eval coco --captions captions_val2014.json --images val2014 --pictures DM-GAN=dmgan/
    --pictures CogView=cogview/ --judge models/cogview --weights inception.safetensors --out table.json
    """
    from cogview.evaluation.experiments.coco import evaluate_coco
    from cogview.evaluation.experiments.coco_table import write_selection

    wanted = plans.CocoPlan(**plans.PROTOCOLS[given.protocol] | plan.model_dump(exclude_unset=True))
    measured = figures.model_copy(update={"metrics": ("fid", "kid", "is")})
    if given.listed:
        count = write_selection(wanted, given.files, given.listed)
        return typer.echo(f"{given.listed}: {count} captions")
    if given.pictures:
        return coco_table(given, wanted, measured, features, report)
    if given.model is None:
        raise CogViewError("give a --model to generate with, or systems as --pictures NAME=DIR")
    part, extractor = share.part, features.open(figures.canvas)
    pipeline = inputs.open_model(given.model, given.place)
    with bars() as progress:
        found = evaluate_coco(
            wanted, given.files, pipeline, extractor, features.work, measured, part, progress
        )
    if found is None:
        return typer.echo(share.waiting)
    name = f"{found.facts['model']}, {found.count} captions"
    report.finish(found, lambda own: tables.figures({name: own.figures}))


def coco_table(
    given: inputs.Coco,
    plan: plans.CocoPlan,
    measured: plans.DistributionPlan,
    features: inputs.Features,
    report: Report,
) -> None:
    """The figures of several systems' images under one judge."""
    from cogview.evaluation.experiments.coco_table import evaluate_systems, read_systems

    if given.judge is None or given.model is not None:
        wrong = "--judge is missing" if given.judge is None else "--model generates; leave it out"
        raise CogViewError(f"--pictures: {wrong}: one model judges the images of all systems")
    systems, judge = read_systems(given.pictures), inputs.open_generator(given.judge, given.place)
    extractor, work = features.open(measured.canvas), features.work
    with bars() as progress:
        found = evaluate_systems(plan, given.files, systems, judge, extractor, work, measured, progress)
    report.finish(found, lambda own: tables.figures(own.rows))


@grouped(work=Path("runs/pictures"))
def diversity(
    given: inputs.Spread,
    plan: plans.DiversityPlan,
    features: inputs.Features,
    rows: inputs.Rows,
    report: Report,
) -> None:
    """How different images are: of one prompt, of different prompts, and altogether (Vendi score).

    cogview eval diversity out/ --weights lite0.safetensors

    cogview eval diversity corpus --split test_concept --prompts en --weights lite0.safetensors
    """
    from cogview.evaluation.metrics.diversity import column, evaluate_diversity
    from cogview.evaluation.metrics.image_sets import open_set

    extractor, found = features.open(), open_set(given.pictures, rows.split, rows.source, rows.count)
    texts = column(given.pictures, found, given.prompts) if given.prompts else None
    with bars() as progress:
        result = evaluate_diversity(found, extractor, plan, features.work, progress, texts)
    report.finish(result, tables.diversity)


@grouped(model="pictogram")
def upscaling(
    given: inputs.Upscaling,
    plan: plans.UpscalingPlan,
    params: Annotated[SamplingParams, Fields("temperature", "top_k", "top_p", shown="the model's")],
    report: Sheet,
) -> None:
    """LPIPS, SSIM and PSNR of upscaled images to the true large ones, against bicubic and Lanczos.

    Images of twice the model's size are halved and brought back; for a family of CogView2's kind, as many
    times as its direct model enlarges, and from their codes. Rows of the sheet are those of the table, the
    true images first.

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

    judge, pipeline = LPIPS.from_file(given.lpips, given.network), inputs.open_model(given.model, given.place)
    sampling = {name: getattr(params, name) for name in params.model_fields_set}
    with bars() as progress:
        family = pipeline.bundle.config
        if family.stages and (given.order or UPSCALING not in family.roles):
            refuse_for_codes(sampling)
            found, ways, sources = evaluate_two_stage_upscaling(
                pipeline, given.data, judge, plan, given.order or (ORDER,), progress
            )
        else:
            found, ways, sources = evaluate_upscaling(pipeline, given.data, judge, plan, sampling, progress)
    if report.sheet:
        rows = spread(sources, given.shown)
        write_rows(report.sheet, [pictures[rows] for pictures in ways.values()], len(rows))
    report.finish(found.model_copy(update={"facts": {**found.facts, **versions()}}), tables.upscaling)


def refuse_for_codes(sampling: dict[str, float]) -> None:
    """CogViewError for parameters that direct and iterative super-resolution do not have."""
    if sampling:
        raise CogViewError(
            f"--{next(iter(sampling)).replace('_', '-')}: families of CogView2's kind upscale with the "
            "release's parameters; leave it away"
        )


@grouped()
def speed(given: inputs.Timed, plan: plans.SpeedPlan, report: Report) -> None:
    """How fast a model generates on this machine.

    cogview eval speed --model pictogram --batches 1,4,16
    """
    from cogview.evaluation.experiments.speed import measure_speed

    place = given.place
    use_threads(place.threads, ModelBundle.find(given.model).directory)
    with bars() as progress:
        found = measure_speed(given.model, plan, place.precision, progress, place.torch_device())
    report.finish(found, tables.speed)
