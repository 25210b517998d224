"""How near two sets of images are: FID-k, KID-k and Inception Score, each with a manifest.

CogView (section 4.1) blurs real and drawn images by a Gaussian of radius 0, 1, 2, 4 and 8 before FID, as
DALL-E's authors did: a model of tokens should not be judged by the details its tokenizer cannot draw.
Features come from a pluggable network and the mathematics, in float64, from torchmetrics. A metric's name
says the network: ``Lite0-FID-0`` is not the papers' FID.

Features are kept chunk by chunk in a work folder, so a stopped run goes on, and several processes may each
compute a part of the chunks; the figures do not depend on who computed what.
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
TOGETHER = 4  # images in a forward: what it needs then is kept by the allocator, not mapped again each time
Progress = Callable[[str, int, int], None]


class Extractor(Protocol):
    """A network that describes images. ``fingerprint``: SHA-256 of its weights."""

    name: str
    fingerprint: str
    size: int

    @property
    def model(self) -> nn.Module: ...

    def __call__(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pictures (n, size, size, 3) to features (n, d) and class probabilities (n, c)."""
        ...


class Lite0Extractor:
    """EfficientNet-Lite0 from the file that ``cogview import lite0`` wrote."""

    name, size = "Lite0", SIZE

    def __init__(self, path: str | Path) -> None:
        self.model = Lite0.from_file(path)
        self.fingerprint = hashlib.sha256(Path(path).read_bytes()).hexdigest()

    @torch.inference_mode()
    def __call__(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(self.model.classes.weight.device)
        parts = [self.model(some.float() / 255) for some in torch.split(images, TOGETHER)]
        features, probabilities = zip(*parts, strict=True)
        return torch.cat(features).cpu().numpy(), torch.cat(probabilities).cpu().numpy()


def open_extractor(
    path: Path,
    canvas: int = 256,
    preprocessing: str = "pytorch-fid",
    device: torch.device | str = "cpu",
) -> Extractor:
    """The network in a file that ``cogview import lite0`` or ``cogview import inception`` wrote.

    ``canvas`` and ``preprocessing`` are Inception's, which resizes images itself.

    Raises:
        CogViewError: no such file, or another network's; an unknown preprocessing.
    """
    try:
        with open_tensors(path) as file:
            names = set(file.keys())  # type: ignore[no-untyped-call]
    except CogViewError as error:
        raise CogViewError(f"{error}; `cogview import lite0` makes one") from None
    if "fc.weight" not in names and "Conv2d_1a_3x3.conv.weight" not in names:
        return _on(Lite0Extractor(path), device)
    if preprocessing not in get_args(InceptionInput):
        there = ", ".join(get_args(InceptionInput))
        raise CogViewError(f"--preprocessing {preprocessing}: there are {there}")
    return _on(InceptionExtractor(path, canvas, cast(InceptionInput, preprocessing)), device)


def _on(extractor: Extractor, device: torch.device | str) -> Extractor:
    extractor.model.to(device)
    return extractor


class SetFacts(Config):
    """A set of images: where, how many, the hash of names and contents, the first few sizes ("72 x 72").

    Of drawn images that say so themselves: hash of the sorted prompts, and models, seeds and settings.
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
    """All that a number hangs on besides the images measured: equal manifests make figures comparable."""

    plan: DistributionPlan
    extractor: str
    extractor_fingerprint: str
    reference: SetFacts
    drawn_count: int
    prompts: str | None
    versions: dict[str, str]


class Value(Config):
    """A figure and its 95 % interval (``intervals.py``).

    ``spread``: standard deviation over KID's subsets or the score's splits.
    """

    value: float
    spread: float | None = None
    low: float | None = None
    high: float | None = None

    def within(self, interval: tuple[float, float]) -> Value:
        """The same with an interval."""
        return self.model_copy(update={"low": interval[0], "high": interval[1]})


class DistributionReport(Config):
    """What was found: ``figures`` by name, such as ``Lite0-KID-0``."""

    format: Literal[1] = 1
    kind: Literal["pictures", "coco"] = "pictures"
    manifest: Manifest
    drawn: SetFacts
    figures: dict[str, Value]

    @property
    def count(self) -> int:
        """How many images were judged."""
        return self.drawn.count


@dataclass(frozen=True)
class Described:
    """Features (n, d) and class probabilities (n, c) of a set, float32."""

    features: NDArray[np.float32]
    probabilities: NDArray[np.float32]


def describe(
    pictures: ImageSet,
    extractor: Extractor,
    shape: Shape,
    work: Path,
    progress: Progress | None = None,
    part: tuple[int, int] = (0, 1),
) -> Described | None:
    """Features of a set from the work folder, computed where they are not there yet.

    ``part`` (i, n): compute only chunks i, i + n, i + 2 n …; returns None while chunks of others are missing.
    """
    key = [pictures.fingerprint, extractor.name, extractor.fingerprint, *map(str, vars(shape).values())]
    folder = work / hashlib.sha256("\n".join([*key, str(CHUNK)]).encode()).hexdigest()[:20]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "what.json").write_text(json.dumps(key))
    parts = list(chunks(len(pictures), CHUNK))
    files = [folder / f"{number:06d}.npz" for number in range(len(parts))]
    for number, rows in enumerate(parts):
        if number % part[1] == part[0] and not files[number].is_file():
            features, probabilities = extractor(stacked(pictures, rows, shape))
            _save(files[number], features, probabilities)
        if progress:
            progress(f"blur {shape.blur:g}: {pictures.where}", rows.stop, len(pictures))
    if not all(file.is_file() for file in files):
        return None
    loaded = [_load(file) for file in files]
    features, probabilities = (np.concatenate(arrays) for arrays in zip(*loaded, strict=True))
    return Described(features, probabilities)


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


class _Given(nn.Module):
    """Stands where torchmetrics expects a network: the features are given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, x: Tensor) -> Tensor:
        return x


def _metric(name: str, width: int, **settings: Any) -> Any:
    """A metric of torchmetrics over given features, in float64."""
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
        warnings.simplefilter("ignore")  # that features are kept: they are few, and were given
        metric = kinds[name](feature=_Given(width), **settings)
    metric.set_dtype(torch.float64)
    return metric


def fid(real: NDArray[Any], drawn: NDArray[Any]) -> float:
    """Fréchet distance of two sets of features (n, d), in float64 (Heusel et al., 2017)."""
    metric = _metric("fid", real.shape[1])
    metric.update(_double(real), real=True)
    metric.update(_double(drawn), real=False)
    return float(metric.compute())


def kid(real: NDArray[Any], drawn: NDArray[Any], plan: DistributionPlan) -> Value:
    """Unbiased squared MMD, cubic kernel: mean and deviation over subsets (Binkowski et al., 2018)."""
    size = min(plan.subset_size, len(real), len(drawn))
    subsets = 1 if size == len(real) == len(drawn) else plan.subsets  # all would be the whole sets
    metric = _metric("kid", real.shape[1], subsets=subsets, subset_size=size)
    metric.update(_double(real), real=True)
    metric.update(_double(drawn), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        mean, deviation = metric.compute()
    return Value(value=float(mean), spread=float(deviation))


def inception_score(probabilities: NDArray[Any], plan: DistributionPlan) -> Value:
    """exp of the mean divergence of an image's classes from all images' (Salimans et al., 2016)."""
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
    drawn: ImageSet,
    plan: DistributionPlan,
    extractor: Extractor,
    work: Path,
    progress: Progress | None = None,
    part: tuple[int, int] = (0, 1),
    any_size: bool = False,
) -> DistributionReport | None:
    """All figures of a plan; None where other parts are still to be computed (:func:`describe`).

    Raises:
        CogViewError: fewer than two images on a side, a broken one, or, unless ``any_size``, drawn images
            of several sizes, which one model does not draw.
    """
    for pictures in (reference, drawn):
        if len(pictures) < 2:
            raise CogViewError(f"{pictures.where}: {len(pictures)} picture; a distribution needs 2 or more")
    if len(found := drawn.sizes) > 1 and not any_size:
        raise CogViewError(
            f"{drawn.where}: pictures of several sizes ({found[0]}, {found[1]}), which no one model draws; "
            "take the others out, or allow it with --any-size"
        )
    described = {}
    for blur in plan.blurs:
        shape = Shape(plan.canvas, extractor.size, blur, plan.resample)
        described[blur] = [describe(s, extractor, shape, work, progress, part) for s in (reference, drawn)]
    figures: dict[str, Value] = {}
    for blur, (real, other) in described.items():
        if real is None or other is None:
            return None
        figures |= _figures(real, other, plan, extractor.name, f"{blur:g}")
    facts = set_facts(drawn)
    manifest = Manifest(
        plan=plan,
        extractor=extractor.name,
        extractor_fingerprint=extractor.fingerprint,
        reference=set_facts(reference),
        drawn_count=facts.count,
        prompts=facts.prompts,
        versions=versions() | _own_version(),
    )
    return DistributionReport(manifest=manifest, drawn=facts, figures=figures)


def _figures(
    real: Described, drawn: Described, plan: DistributionPlan, name: str, blur: str
) -> dict[str, Value]:
    found = {}
    if "fid" in plan.metrics:
        found[f"{name}-FID-{blur}"] = _fid_value(real.features, drawn.features, plan)
    if "kid" in plan.metrics:
        found[f"{name}-KID-{blur}"] = _kid_value(real.features, drawn.features, plan)
    if "is" in plan.metrics and blur == "0":
        found[f"{name}-IS"] = _score_value(drawn.probabilities, plan)
        found[f"{name}-IS of the reference"] = _score_value(real.probabilities, plan)
    return found


def _fid_value(real: NDArray[Any], drawn: NDArray[Any], plan: DistributionPlan) -> Value:
    value = Value(value=fid(real, drawn))
    if not plan.bootstrap:
        return value
    return value.within(intervals.frechet_interval(real, drawn, value.value, plan.bootstrap, plan.seed))


def _kid_value(real: NDArray[Any], drawn: NDArray[Any], plan: DistributionPlan) -> Value:
    value = kid(real, drawn, plan)
    if not plan.bootstrap:
        return value
    return value.within(intervals.mmd_interval(real, drawn, value.value, plan.bootstrap, plan.seed))


def _score_value(probabilities: NDArray[Any], plan: DistributionPlan) -> Value:
    value = inception_score(probabilities, plan)
    if not plan.bootstrap:
        return value
    return value.within(intervals.inception_interval(probabilities, value.value, plan.bootstrap, plan.seed))


def _own_version() -> dict[str, str]:
    import torchmetrics

    return {"torchmetrics": str(torchmetrics.__version__)}


def set_facts(pictures: ImageSet) -> SetFacts:
    """A set's facts, with what drawn images carry inside them."""
    made = pictures.provenances()
    prompts = hashlib.sha256("\n".join(sorted(p.prompt for p in made)).encode()).hexdigest()
    return SetFacts(
        where=pictures.where,
        count=len(pictures),
        fingerprint=pictures.fingerprint,
        sizes=pictures.sizes[:8],
        prompts=prompts if made else None,
        models=tuple(sorted({f"{p.model} {p.model_hash}" for p in made})),
        seeds=tuple(sorted({p.seed for p in made}))[:16],
        settings=tuple(sorted({json.dumps(p.settings, sort_keys=True) for p in made}))[:16],
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
