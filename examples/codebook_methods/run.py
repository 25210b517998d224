"""Figure 2 of CogView: four ways to train the codebook, same network, data and seed, one plot.

python examples/codebook_methods/run.py --data work/images --out runs/codebook_methods

`--data` is a picture cache (`cogview data cache PICTURES work/images --size 72`). Stopped runs go on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cogview.tokenizers.quantizers import METHODS
from cogview.training.launch import prepare_directory
from cogview.training.metrics_file import MetricsFile
from cogview.training.registry import read_recipe, task_class
from cogview.training.trainer import Trainer

RECIPE = Path(__file__).with_name("recipe.yaml")


def train(method: str, data: Path, directory: Path, overrides: list[str]) -> Path:
    """Train (or finish) one method; returns its metrics file."""
    given = read_recipe(RECIPE, [f"data={data}", f"model.method={method}", *overrides])
    started = (directory / "recipe.yaml").is_file()
    prepare_directory(given, directory, resume=started)
    Trainer(task_class(given.task)(given), given, directory).fit(resume=started)
    return directory / "metrics.jsonl"


def plot(curves: dict[str, list[tuple[int, float]]], picture: Path) -> None:
    """One line a method: mean squared error of pixels in [0, 1] over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="L2 loss", yscale="log")
    for method, points in curves.items():
        axes.plot(*zip(*points, strict=True), label=method.replace("_", " "), linewidth=1.2)
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    figure.savefig(picture, dpi=120)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/codebook_methods"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    given = parser.parse_args()
    curves, table = {}, []
    for method in METHODS:
        lines = MetricsFile(train(method, given.data, given.out / method, given.set)).lines()
        curves[method] = [(line["step"], line["l2"]) for line in lines if line["kind"] == "train"]
        last = [line for line in lines if line["kind"] == "evaluate"][-1]
        table.append(f"{method:15} PSNR {last['psnr']:.2f} dB, codes used {last['usage']:.1%}")
    plot(curves, given.out / "figure2.png")
    print("\n".join([*table, str(given.out / "figure2.png")]))


if __name__ == "__main__":
    main()
