"""Draw which rooms of the package import which, from today's code: ``python tools/import_map.py [OUT.svg]``.

Rooms stand in the layers of the import contract (``pyproject.toml``), the highest first; an arrow's width is
the number of files that import the other room. Single files, which all rooms import (errors, configuration,
reading of foreign files), are left out. Arrows go down only: ``lint-imports`` checks the contract.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

import matplotlib
from counts import imports, module, sources

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "images" / "imports.svg"
WIDTH, HEIGHT = 10.0, 6.5  # inches
SHIFTS = (
    -0.12,
    0.0,
    0.12,
)  # of rooms that have a layer for themselves, so that arrows do not hide each other


def layers(root: Path = ROOT) -> list[list[str]]:
    """The packages in each layer of the contract, the highest first."""
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    [contract] = [one for one in settings["contracts"] if one["type"] == "layers"]
    rows = [re.findall(r"\w+", layer) for layer in contract["layers"]]
    packages = [[room for room in row if (root / "src/cogview" / room).is_dir()] for row in rows]
    return [row for row in packages if row]


def arrows(root: Path = ROOT) -> Counter[tuple[str, str]]:
    """(importing room, imported room) to the number of files; a single file is a room of its own."""
    trees = sources(root)
    known = {module(path) for path in trees}
    found: Counter[tuple[str, str]] = Counter()
    for path, tree in trees.items():
        own = path.parts[0].removesuffix(".py")
        others = {name.split(".")[1] for name in imports(path, tree, known) if "." in name}
        found.update((own, other) for other in others - {own})
    return found


def draw(out: Path) -> None:
    """Write the drawing."""
    matplotlib.rcParams["svg.hashsalt"] = "cogview"  # equal code, equal file
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    rows, counts = layers(), arrows()
    figure = pyplot.figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    places = {
        room: (
            (number + 1) / (len(row) + 1) + SHIFTS[line % 3] * (len(row) == 1),
            1 - (line + 0.5) / len(rows),
        )
        for line, row in enumerate(rows)
        for number, room in enumerate(row)
    }
    for (first, second), count in sorted(counts.items()):
        if first in places and second in places:
            style = {"arrowstyle": "-|>", "lw": 0.4 + count / 12, "color": "#7a8ca3", "alpha": 0.55}
            axes.annotate(
                "", places[second], places[first], arrowprops=style | {"shrinkA": 12, "shrinkB": 12}
            )
    box = {"boxstyle": "round,pad=0.4", "fc": "#eef3f8", "ec": "#44607f"}
    for room, place in places.items():
        axes.text(*place, room, ha="center", va="center", fontsize=10, bbox=box)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
