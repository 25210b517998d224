"""Dense and three-region sparse attention (CogView, appendix B): same data, seed and recipe, one plot.

python examples/sparse_attention/run.py --data data/tokens --out runs/sparse_attention

`--data` is what `cogview data build` made. Of the up to 178 tokens of a sequence, a sparse token sees a
window of 4 x 8 and 48 pivots. Stopped runs go on; `--set max_minutes=2` stops each run after two minutes.
Validation losses are causal for both, so the dots compare the weights and the lines the training.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cogview.training.launch import prepare_directory
from cogview.training.metrics_file import MetricsFile
from cogview.training.registry import read_recipe, task_class
from cogview.training.trainer import Trainer

RECIPE = Path(__file__).with_name("recipe.yaml")
ATTENTION = {"dense": "causal", "sparse": "{kind: three_region, window: 8, times: 4, pivots: 48}"}
Points = list[tuple[int, float]]


def train(name: str, data: Path, directory: Path, overrides: list[str]) -> Path:
    """Train one form of attention, or go on with it; returns its metrics file."""
    given = read_recipe(RECIPE, [f"data={data}", f"attention={ATTENTION[name]}", *overrides])
    started = (directory / "recipe.yaml").is_file()
    prepare_directory(given, directory, resume=started)
    Trainer(task_class(given.task)(given), given, directory).fit(resume=started)
    return directory / "metrics.jsonl"


def points(lines: list[dict[str, Any]], kind: str) -> Points:
    """(step, loss) of the lines of a kind."""
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == kind]


def smooth(curve: Points, width: int = 5) -> Points:
    """The mean of each point and those around it, for losses of single steps."""
    sides = range(len(curve))
    near = [curve[max(0, i - width) : i + width + 1] for i in sides]
    return [(curve[i][0], sum(loss for _, loss in near[i]) / len(near[i])) for i in sides]


def plot(runs: dict[str, list[dict[str, Any]]], picture: Path) -> None:
    """Training losses as lines, validation losses as dots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats a token)")
    for number, (name, lines) in enumerate(runs.items()):
        curve, checked = smooth(points(lines, "train")), points(lines, "evaluate")
        axes.plot(*zip(*curve, strict=True), f"C{number}-", label=name, linewidth=1.2)
        if checked:
            axes.plot(*zip(*checked, strict=True), f"C{number}o", label=f"{name}, validation", markersize=4)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)


def compare(runs: dict[str, list[dict[str, Any]]]) -> str:
    """How far the curves lie apart, at the steps that both runs have."""
    curves = {name: dict(smooth(points(lines, "train"))) for name, lines in runs.items()}
    common = sorted(curves["dense"].keys() & curves["sparse"].keys())
    apart = [abs(curves["sparse"][step] / curves["dense"][step] - 1) for step in common]
    last = common[-1]
    ends = f"dense {curves['dense'][last]:.3f}, sparse {curves['sparse'][last]:.3f}"
    return f"step {last}: {ends}; apart by {sum(apart) / len(apart):.1%} on average, {max(apart):.1%} at most"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/sparse_attention"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    given = parser.parse_args()
    runs = {
        name: MetricsFile(train(name, given.data, given.out / name, given.set)).lines() for name in ATTENTION
    }
    plot(runs, given.out / "losses.png")
    print(compare(runs))
    print(given.out / "losses.png")


if __name__ == "__main__":
    main()
