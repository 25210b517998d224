"""Distances between two sets of images: FID-k, KID-k and Inception Score, each with a manifest.

CogView (section 4.1) blurs real and generated images with a Gaussian of radius 0, 1, 2, 4 and 8 before FID,
as DALL-E's authors did: a token model should not be judged by details that its tokenizer cannot represent.
Features come from a pluggable network; torchmetrics computes the metrics, in float64. A metric's name
includes the network: ``Lite0-FID-0`` is not the papers' FID.

Features are stored in chunks in a work folder, so that an interrupted run resumes and several processes can
divide the chunks between them, with the same figures.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.evaluation.metrics import intervals
from cogview.evaluation.metrics.image_sets import ImageSet, Shape, chunks, stacked
from cogview.evaluation.metrics.inception import InceptionExtractor
from cogview.evaluation.metrics.lite0 import SIZE, Lite0
from cogview.evaluation.plans import DistributionPlan, InceptionInput
from cogview.evaluation.reports import versions
from cogview.files import replacing
from cogview.tensors import open_tensors

CHUNK = 64
TOGETHER = 4  # images per forward pass: its memory is then reused by the allocator instead of mapped again
Progress = Callable[[str, int, int], None]


class Extractor(Protocol):
    """A network that extracts features from images. ``fingerprint``: SHA-256 of its weights."""

    name: str
    fingerprint: str
    size: int

    @property
    def model(self) -> nn.Module: ...

    def __call__(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Images (n, size, size, 3) to features (n, d) and class probabilities (n, c)."""
        ...


class Lite0Extractor:
    """EfficientNet-Lite0 from the file that ``cogview import lite0`` wrote."""

    name, size = "Lite0", SIZE

    def __init__(self, path: str | Path) -> None:
        self.model = Lite0.from_file(path)
        self.fingerprint = hashlib.sha256(Path(path).read_bytes()).hexdigest()

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.model.classes.weight.device)
        parts = [self.model(batch.float() / 255) for batch in torch.split(inputs, TOGETHER)]
        features, probabilities = zip(*parts, strict=True)
        return torch.cat(features).cpu().numpy(), torch.cat(probabilities).cpu().numpy()


def open_extractor(
    path: Path,
    canvas: int = 256,
    preprocessing: str = "pytorch-fid",
    device: torch.device | str = "cpu",
) -> Extractor:
    """Load the network from a file that ``cogview import lite0`` or ``cogview import inception`` wrote.

    ``canvas`` and ``preprocessing`` apply to Inception only, which resizes images itself.

    Raises:
        CogViewError: the file is missing or of another network, or the preprocessing is unknown.
    """
    try:
        with open_tensors(path) as file:
            names = set(file.keys())  # type: ignore[no-untyped-call]
    except CogViewError as error:
        raise CogViewError(f"{error}; `cogview import lite0` makes one") from None
    if "fc.weight" not in names and "Conv2d_1a_3x3.conv.weight" not in names:
        return _on(Lite0Extractor(path), device)
    if preprocessing not in get_args(InceptionInput):
        known = ", ".join(get_args(InceptionInput))
        raise CogViewError(f"--preprocessing {preprocessing}: there are {known}")
    return _on(InceptionExtractor(path, canvas, cast(InceptionInput, preprocessing)), device)


def _on(extractor: Extractor, device: torch.device | str) -> Extractor:
    extractor.model.to(device)
    return extractor


class SetFacts(Config):
    """A set of images: source, count, fingerprint of names and contents, first sizes (such as "72 x 72").

    For generated images with metadata also the hash of the sorted prompts, and models, seeds and settings.
    """

    where: str
    count: int
    fingerprint: str
    sizes: tuple[str, ...] = ()
    prompts: str | None = None
    models: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    settings: tuple[str, ...] = ()


class Manifest(Config):
    """Everything that determines a metric apart from the images: equal manifests make figures comparable."""

    plan: DistributionPlan
    extractor: str
    extractor_fingerprint: str
    reference: SetFacts
    drawn_count: int
    prompts: str | None
    versions: dict[str, str]


class Value(Config):
    """A metric and its 95 % interval (``intervals.py``).

    ``spread``: standard deviation over KID's subsets or the Inception Score's splits.
    """

    value: float
    spread: float | None = None
    low: float | None = None
    high: float | None = None

    def within(self, interval: tuple[float, float]) -> Value:
        """A copy with an interval."""
        return self.model_copy(update={"low": interval[0], "high": interval[1]})


class DistributionReport(Config):
    """The results: ``figures`` by name, such as ``Lite0-KID-0``."""

    format: Literal[1] = 1
    kind: Literal["pictures", "coco"] = "pictures"
    manifest: Manifest
    drawn: SetFacts
    figures: dict[str, Value]

    @property
    def count(self) -> int:
        """The number of images under evaluation."""
        return self.drawn.count


@dataclass(frozen=True)
class SetFeatures:
    """Features (n, d) and class probabilities (n, c) of a set, float32."""

    features: NDArray[np.float32]
    probabilities: NDArray[np.float32]


def describe(
    images: ImageSet,
    extractor: Extractor,
    shape: Shape,
    work: Path,
    progress: Progress | None = None,
    part: tuple[int, int] = (0, 1),
) -> SetFeatures | None:
    """The features of a set; chunks that are not in the work folder yet are computed.

    ``part`` (i, n): compute only chunks i, i + n, i + 2 n …; returns None while chunks of other parts are
    missing.
    """
    key = [images.fingerprint, extractor.name, extractor.fingerprint, *map(str, vars(shape).values())]
    folder = work / hashlib.sha256("\n".join([*key, str(CHUNK)]).encode()).hexdigest()[:20]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "what.json").write_text(json.dumps(key))
    ranges = list(chunks(len(images), CHUNK))
    files = [folder / f"{number:06d}.npz" for number in range(len(ranges))]
    for number, rows in enumerate(ranges):
        if number % part[1] == part[0] and not files[number].is_file():
            features, probabilities = extractor(stacked(images, rows, shape))
            _save(files[number], features, probabilities)
        if progress:
            progress(f"blur {shape.blur:g}: {images.where}", rows.stop, len(images))
    if not all(file.is_file() for file in files):
        return None
    loaded = [_load(file) for file in files]
    features, probabilities = (np.concatenate(arrays) for arrays in zip(*loaded, strict=True))
    return SetFeatures(features, probabilities)


def _save(file: Path, features: NDArray[np.float32], probabilities: NDArray[np.float32]) -> None:
    with replacing(file) as part, part.open("wb") as opened:
        np.savez(opened, features=features, probabilities=probabilities)


def _load(file: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays["features"], arrays["probabilities"]
    except (OSError, ValueError, KeyError) as error:
        raise CogViewError(f"{file}: damaged ({error}); delete it and run again") from None


# ---------------------------------------------------------------------------------------------- figures


class _Precomputed(nn.Module):
    """Takes the place of torchmetrics' network: its input is the features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, x: Tensor) -> Tensor:
        return x


def _metric(name: str, width: int, **settings: Any) -> Any:
    """A metric of torchmetrics over precomputed features, in float64."""
    try:
        from torchmetrics.image import fid, inception, kid
    except ImportError:
        raise CogViewError(
            "FID, KID and IS need torchmetrics; install it with: pip install 'cogview[eval]'"
        ) from None
    kinds = {
        "fid": fid.FrechetInceptionDistance,
        "kid": kid.KernelInceptionDistance,
        "is": inception.InceptionScore,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the memory for stored features, which are few
        metric = kinds[name](feature=_Precomputed(width), **settings)
    metric.set_dtype(torch.float64)
    return metric


def fid(real: NDArray[Any], generated: NDArray[Any]) -> float:
    """Fréchet distance of two sets of features (n, d), in float64 (Heusel et al., 2017)."""
    metric = _metric("fid", real.shape[1])
    metric.update(_double(real), real=True)
    metric.update(_double(generated), real=False)
    return float(metric.compute())


def kid(real: NDArray[Any], generated: NDArray[Any], plan: DistributionPlan) -> Value:
    """Unbiased squared MMD, cubic kernel: mean and deviation over subsets (Binkowski et al., 2018)."""
    size = min(plan.subset_size, len(real), len(generated))
    full = size == len(real) == len(generated)  # every subset would be the full sets
    subsets = 1 if full else plan.subsets
    metric = _metric("kid", real.shape[1], subsets=subsets, subset_size=size)
    metric.update(_double(real), real=True)
    metric.update(_double(generated), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        mean, deviation = metric.compute()
    return Value(value=float(mean), spread=float(deviation))


def inception_score(probabilities: NDArray[Any], plan: DistributionPlan) -> Value:
    """exp of the mean KL divergence of an image's classes from the marginal (Salimans et al., 2016)."""
    splits = min(plan.splits, len(probabilities))
    metric = _metric("is", probabilities.shape[1], splits=splits)
    metric.update(_double(probabilities).clamp_min(1e-30).log())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        mean, deviation = metric.compute()
    return Value(value=float(mean), spread=float(deviation) if splits > 1 else None)


def _double(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float64))


# ----------------------------------------------------------------------------------------------- report


def compare_pictures(
    reference: ImageSet,
    generated: ImageSet,
    plan: DistributionPlan,
    extractor: Extractor,
    work: Path,
    progress: Progress | None = None,
    part: tuple[int, int] = (0, 1),
    any_size: bool = False,
) -> DistributionReport | None:
    """Compute all metrics of a plan; None while other parts are missing (see :func:`describe`).

    Raises:
        CogViewError: a set has fewer than two images or a broken one, or, unless ``any_size``, the generated
            images have several sizes, so that they are not of one model.
    """
    for images in (reference, generated):
        if len(images) < 2:
            raise CogViewError(f"{images.where}: {len(images)} image; a distribution needs 2 or more")
    if len(sizes := generated.sizes) > 1 and not any_size:
        raise CogViewError(
            f"{generated.where}: images of several sizes ({sizes[0]}, {sizes[1]}), so not of one model; "
            "remove the others, or allow it with --any-size"
        )
    extracted = {}
    for blur in plan.blurs:
        shape = Shape(plan.canvas, extractor.size, blur, plan.resample)
        extracted[blur] = [
            describe(s, extractor, shape, work, progress, part) for s in (reference, generated)
        ]
    figures: dict[str, Value] = {}
    for blur, (real, other) in extracted.items():
        if real is None or other is None:
            return None
        figures |= _figures(real, other, plan, extractor.name, f"{blur:g}")
    facts = set_facts(generated)
    manifest = Manifest(
        plan=plan,
        extractor=extractor.name,
        extractor_fingerprint=extractor.fingerprint,
        reference=set_facts(reference),
        drawn_count=facts.count,
        prompts=facts.prompts,
        versions=versions() | _torchmetrics_version(),
    )
    return DistributionReport(manifest=manifest, drawn=facts, figures=figures)


def _figures(
    real: SetFeatures, generated: SetFeatures, plan: DistributionPlan, name: str, blur: str
) -> dict[str, Value]:
    figures = {}
    if "fid" in plan.metrics:
        figures[f"{name}-FID-{blur}"] = _fid_value(real.features, generated.features, plan)
    if "kid" in plan.metrics:
        figures[f"{name}-KID-{blur}"] = _kid_value(real.features, generated.features, plan)
    if "is" in plan.metrics and blur == "0":
        figures[f"{name}-IS"] = _score_value(generated.probabilities, plan)
        figures[f"{name}-IS of the reference"] = _score_value(real.probabilities, plan)
    return figures


def _fid_value(real: NDArray[Any], generated: NDArray[Any], plan: DistributionPlan) -> Value:
    value = Value(value=fid(real, generated))
    if not plan.bootstrap:
        return value
    return value.within(intervals.frechet_interval(real, generated, value.value, plan.bootstrap, plan.seed))


def _kid_value(real: NDArray[Any], generated: NDArray[Any], plan: DistributionPlan) -> Value:
    value = kid(real, generated, plan)
    if not plan.bootstrap:
        return value
    return value.within(intervals.mmd_interval(real, generated, value.value, plan.bootstrap, plan.seed))


def _score_value(probabilities: NDArray[Any], plan: DistributionPlan) -> Value:
    value = inception_score(probabilities, plan)
    if not plan.bootstrap:
        return value
    return value.within(intervals.inception_interval(probabilities, value.value, plan.bootstrap, plan.seed))


def _torchmetrics_version() -> dict[str, str]:
    import torchmetrics

    return {"torchmetrics": str(torchmetrics.__version__)}


def set_facts(images: ImageSet) -> SetFacts:
    """The facts of a set, including the metadata of generated images."""
    provenances = images.provenances()
    prompts = hashlib.sha256("\n".join(sorted(p.prompt for p in provenances)).encode()).hexdigest()
    return SetFacts(
        where=images.where,
        count=len(images),
        fingerprint=images.fingerprint,
        sizes=images.sizes[:8],
        prompts=prompts if provenances else None,
        models=tuple(sorted({f"{p.model} {p.model_hash}" for p in provenances})),
        seeds=tuple(sorted({p.seed for p in provenances}))[:16],
        settings=tuple(sorted({json.dumps(p.settings, sort_keys=True) for p in provenances}))[:16],
    )


__all__ = [
    "DistributionPlan",
    "DistributionReport",
    "Extractor",
    "Lite0Extractor",
    "Manifest",
    "SetFacts",
    "Value",
    "compare_pictures",
    "describe",
    "fid",
    "inception_score",
    "kid",
    "open_extractor",
    "set_facts",
]
