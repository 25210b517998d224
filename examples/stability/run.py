"""Figure 4 of the CogView paper: which of four transformers survives a large learning rate in fp16.

    python examples/stability/run.py --out runs/stability
    python examples/stability/run.py --out runs/stability --hidden 1024 --device cuda      # the paper's size
    python examples/stability/run.py --agreement --lr 1e-3 --layers 4 --batch 16 --steps 500   # against fp32

Section 2.4: "deep transformers (64 layers, 1024 hidden size), large learning rates (0.1 or 0.01), small batch
size (4) can simulate the value explosion in training". Four variants, one seed, the same batches:

========================  ==================================================================
``pre-LN``                neither technique
``PB-relax``              equation 4 in the attention, LayerNorm of x / max(x)
``Sandwich-LN``           a LayerNorm at the end of every branch
``both``                  both
========================  ==================================================================

The arithmetic is ``cogview train``'s ``precision: fp16-o2``, real fp16 on any device: weights, activations,
attention scores and gradients are half precision tensors, so what exceeds 65,504 becomes infinite. The
optimizer keeps fp32 copies, and the loss is scaled dynamically: an update whose gradient overflows is left
out and halves the scale. A variant has ended when its forward pass overflows for ``--patience`` batches in a
row, at weights that no skipped update changes. Written: a JSON file a variant, ``stability.json`` with what
the figure shows, and ``stability.png``; variants that are there already are kept, so four processes may each
train one (``--only``).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cogview.analysis.stability import layer_ranges
from cogview.training.metrics_file import Window
from cogview.training.optim import AdamWConfig, PhaseOptimizer
from cogview.training.parallel import Parallel
from cogview.training.parallel.ranks import Ranks
from cogview.training.parallel.strategy import ParallelStrategy
from cogview.training.phase import Phase
from cogview.training.precision import LossScaler
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer

VARIANTS: dict[str, dict[str, Any]] = {
    "pre-LN": {"norm": "pre", "norm_relax": "none", "attention_relax": None},
    "PB-relax": {"norm": "pre", "norm_relax": "token", "attention_relax": 32.0},
    "Sandwich-LN": {"norm": "sandwich", "norm_relax": "none", "attention_relax": None},
    "both": {"norm": "sandwich", "norm_relax": "token", "attention_relax": 32.0},
}
COLOURS = {"pre-LN": "C3", "PB-relax": "C1", "Sandwich-LN": "C0", "both": "C2"}
LARGEST = 65504.0


@dataclass
class Curve:
    """What became of one variant; sizes are the largest of all layers, at the steps in ``measured``."""

    losses: list[float | None] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    skipped: int = 0
    measured: list[int] = field(default_factory=list)
    stream: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    overflow: str = ""
    ended: int | None = None
    seconds: float = 0.0


def make_phase(model: Transformer, given: argparse.Namespace) -> Phase:
    """The trainer's update of a model: in fp16-o2 it is halved, with fp32 masters and a loss scaler."""
    config, half = AdamWConfig(lr=given.lr, weight_decay=given.decay), given.precision == "fp16-o2"
    parameters = (model.half() if half else model).named_parameters()
    optimizer = PhaseOptimizer(parameters, config, set(), masters=half)
    return Phase("model", "", optimizer, LossScaler() if half else None)


def batch_at(step: int, given: argparse.Namespace) -> Tensor:
    """(batch, length + 1) int64: random tokens that repeat with a period, which is what can be learnt."""
    generator = torch.Generator().manual_seed(given.seed * 1_000_003 + step)
    pattern = torch.randint(given.vocabulary, (given.batch, given.period), generator=generator)
    repeats = -(-(given.length + 1) // given.period)
    return pattern.repeat(1, repeats)[:, : given.length + 1].to(given.device)


def train(name: str, given: argparse.Namespace) -> Curve:
    """Train one variant to ``--steps`` or until it has ended."""
    torch.manual_seed(given.seed)
    config = TransformerConfig(
        layers=given.layers, hidden=given.hidden, heads=given.heads, vocab_size=given.vocabulary,
        max_positions=given.length, numerics="written", **VARIANTS[name],
    )  # fmt: skip
    model = Transformer(config).to(given.device)
    phase, strategy = make_phase(model, given), ParallelStrategy(Ranks(), Parallel())
    curve, lost, began = Curve(), 0, time.process_time()
    for step in range(given.steps):
        ids = batch_at(step, given)
        if step % given.every == 0:
            _measure(model, ids[:1, :-1], step, curve)
        hidden = model(ids[:, :-1], torch.arange(given.length, device=given.device))
        loss = F.cross_entropy(model.logits(hidden).float().flatten(0, 1), ids[:, 1:].flatten())
        finite = bool(loss.isfinite())
        curve.losses.append(loss.item() if finite else None)
        phase.optimizer.zero_grad()
        strategy.backward(loss, phase.scale)
        curve.skipped += not phase.update(strategy, 1.0, Window())
        curve.scales.append(phase.scale)
        lost = 0 if finite else lost + 1
        if lost >= given.patience:
            curve.ended = step - given.patience + 1
            curve.overflow = _where(model, ids[:1, :-1])
            break
    curve.seconds = round(time.process_time() - began, 1)
    return curve


def _measure(model: Transformer, ids: Tensor, step: int, curve: Curve) -> None:
    positions = torch.arange(ids.shape[1], device=ids.device)
    ranges = layer_ranges(model, ids, positions)
    curve.measured.append(step)
    curve.stream.append(max(_finite(r.stream) for r in ranges))
    curve.scores.append(max(_finite(r.scores) for r in ranges))


def _where(model: Transformer, ids: Tensor) -> str:
    """The first place in the forward pass that is not finite."""
    for r in layer_ranges(model, ids, torch.arange(ids.shape[1], device=ids.device)):
        if not r.scores < LARGEST:
            return f"attention scores, layer {r.layer}"
        for name in ("attention", "wide", "feed_forward", "stream"):
            if not math.isfinite(getattr(r, name)):
                return f"{name.replace('_', '-')} of layer {r.layer}"
    return "the output"


def _finite(size: float) -> float:
    return size if math.isfinite(size) else math.inf


def plot(curves: dict[str, Curve], given: argparse.Namespace, picture: Path) -> None:
    """The main branch, the attention scores and the loss over the steps; a cross where a variant ended."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, title in zip(
        panels, ("main branch: largest |x|", "attention: largest |score|", "loss"), strict=True
    ):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
    for axes in panels[:2]:
        axes.set_yscale("log")
        axes.axhline(LARGEST, color="black", linestyle=":", linewidth=1, label="fp16's largest")
    for name, curve in curves.items():
        kept = [
            (a, min(b, 1e8), min(c, 1e8))
            for a, b, c in zip(curve.measured, curve.stream, curve.scores, strict=True)
        ]
        steps, stream, scores = zip(*kept, strict=True)
        losses = [(step, loss) for step, loss in enumerate(curve.losses) if loss is not None]
        for axes, points in zip(panels, (zip(steps, stream), zip(steps, scores), losses), strict=True):  # noqa: B905
            drawn = list(points)
            axes.plot(*zip(*drawn, strict=True), color=COLOURS[name], label=name, linewidth=1.3)
            if curve.ended is not None:
                axes.plot(*drawn[-1], "x", color=COLOURS[name], markersize=8, markeredgewidth=2)
    panels[0].legend(fontsize=8)
    figure.suptitle(
        f"{given.layers} layers, hidden {given.hidden}, batch {given.batch}, rate {given.lr:g}, fp16",
        fontsize=10,
    )
    figure.savefig(picture, dpi=110)


def summary(curves: dict[str, Curve], given: argparse.Namespace) -> dict[str, Any]:
    """What the figure shows, in a few numbers a variant; sizes beyond fp16's largest are None."""
    found: dict[str, Any] = {"settings": settings_of(given), "torch": torch.__version__, "variants": {}}
    for name, curve in curves.items():
        good = [loss for loss in curve.losses if loss is not None]
        found["variants"][name] = {
            "ended": curve.ended,
            "overflow": curve.overflow,
            "first_loss": good[0],
            "last_loss": sum(good[-10:]) / len(good[-10:]),
            "left_out": curve.skipped,
            "loss_scale": curve.scales[-1],
            "stream": max(curve.stream) if max(curve.stream) < LARGEST else None,
            "scores": max(curve.scores) if math.isfinite(max(curve.scores)) else None,
            "seconds": curve.seconds,
        }
    return found


def told(name: str, curve: Curve, given: argparse.Namespace) -> str:
    """One line about a variant."""
    good = [loss for loss in curve.losses if loss is not None]
    last = sum(good[-10:]) / max(1, len(good[-10:]))
    end = (
        f"trained on to step {given.steps}"
        if curve.ended is None
        else f"ended at step {curve.ended}: {curve.overflow}"
    )
    return (
        f"{name:12} {end}; loss {good[0]:.2f} to {last:.2f}; {curve.skipped} skipped updates, "
        f"loss scale {curve.scales[-1]:g}; largest |x| {max(curve.stream):.3g}, score "
        f"{max(curve.scores):.3g}; {curve.seconds:.0f} s"
    )


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/stability"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "fp16-o2"), default="fp16-o2")
    parser.add_argument("--agreement", action="store_true", help="only: 'both' in fp32 and in fp16-o2")
    parser.add_argument("--only", choices=list(VARIANTS), help="one variant")
    sizes = {"layers": 64, "hidden": 64, "heads": 1, "length": 24, "batch": 4, "steps": 120, "period": 4}
    sizes |= {"vocabulary": 64, "every": 5, "patience": 10, "seed": 0}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--lr", type=float, default=0.1, help="default 0.1, the larger one of the paper")
    parser.add_argument("--decay", type=float, default=0.0, help="weight decay, default 0")
    return parser.parse_args(words)


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """What decides a curve."""
    return {key: value for key, value in vars(given).items() if key not in ("out", "only", "agreement")}


def finished(given: argparse.Namespace) -> dict[str, Curve]:
    """The variants that are there already, with these settings."""
    found: dict[str, Curve] = {}
    for name in VARIANTS:
        path = given.out / f"{name}.json"
        held = json.loads(path.read_text()) if path.is_file() else {}
        if held.get("settings") == settings_of(given):
            found[name] = Curve(**held["curve"])
    return found


def agreement(given: argparse.Namespace) -> dict[str, Any]:
    """The mean loss of the last tenth of the steps in fp32 and in fp16-o2, and how far they are apart."""
    found: dict[str, Any] = {"settings": settings_of(given), "torch": torch.__version__}
    for given.precision in ("fp32", "fp16-o2"):
        curve = train("both", given)
        last = [loss for loss in curve.losses[-max(1, given.steps // 10) :] if loss is not None]
        found[given.precision] = {"loss": sum(last) / len(last), "skipped": curve.skipped}
        found[given.precision]["seconds"] = curve.seconds
    found["apart"] = abs(found["fp16-o2"]["loss"] / found["fp32"]["loss"] - 1)
    return found


def main() -> None:
    given = parse()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.agreement:
        found = agreement(given)
        (given.out / "agreement.json").write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found))
        return
    for name in [given.only] if given.only else VARIANTS:
        curve = finished(given).get(name)
        if curve is None:
            curve = train(name, given)
            found = {"settings": settings_of(given), "torch": torch.__version__, "curve": asdict(curve)}
            (given.out / f"{name}.json").write_text(json.dumps(found) + "\n")
        print(told(name, curve, given), flush=True)
    curves = finished(given)
    (given.out / "stability.json").write_text(json.dumps(summary(curves, given), indent=2) + "\n")
    plot(curves, given, given.out / "stability.png")
    print(given.out / "stability.png")


if __name__ == "__main__":
    main()
