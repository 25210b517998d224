"""How much memory it takes to import a checkpoint of CogView's widths, and whether it comes back to the bit.

    python benchmarks/import_memory.py --layers 2
    python benchmarks/import_memory.py --layers 2 --model-parallel 2 --layout sat

Makes a checkpoint with random weights in the released layout: hidden 2560, 40 heads, 58,240 rows, 1,089
positions, every tensor a view of one flat half-precision buffer; only the depth is reduced. Then imports it,
exports the result, and imports that. Each step is a process of its own, whose peak is what the kernel counts
for it: PyTorch itself and the mapped file included, and once more without what PyTorch alone takes.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STEPS = ("nothing", "make", "import", "export", "import again")


def make(place: Path, layers: int, tiny: bool) -> None:
    """The checkpoint, an image tokenizer as released, a text tokenizer with the released number of pieces."""
    sys.path.insert(0, str(HERE.parent / "examples"))
    from synthetic_release import write_release

    hidden, codes, pieces = (128, 64, 100) if tiny else (2560, 8192, 50_000)
    write_release(place, layers, hidden, codes, pieces, ("cogview-base",))


def cli(*words: object) -> None:
    from cogview.cli.app import main

    if main([str(word) for word in words]):
        raise SystemExit(f"failed: cogview {' '.join(map(str, words))}")


def run_step(step: str, place: Path, options: argparse.Namespace) -> None:
    """One step, in a process of its own; prints its peak in bytes and its seconds."""
    import torch  # noqa: F401 - what every step begins with

    started = time.monotonic()
    files = ("--image-tokenizer", place / "vqvae_hard_biggerset_011.pt")
    files += ("--text", place / "cog-pretrain.model")
    if step == "make":
        make(place, options.layers, options.tiny)
    elif step == "import":
        cli("import", "cogview", "--base", place / "cogview-base", *files, "-o", place / "first/family")
    elif step == "export":
        layout = ("--layout", options.layout, "--model-parallel", options.model_parallel)
        cli("export", "cogview", place / "first/family", *layout, "-o", place / "exported")
    elif step == "import again":
        cli("import", "cogview", "--base", place / "exported", *files, "-o", place / "second/family")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"peak": peak, "seconds": round(time.monotonic() - started, 1)}))


def measure(step: str, place: Path, options: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, __file__, *sys.argv[1:], "--step", step, "--place", str(place)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{step}: {done.stderr.strip() or done.stdout.strip()}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def different(place: Path) -> list[str]:
    """The files in which the two families differ (their cards name other files)."""
    folders = [place / name / "family" for name in ("first", "second")]
    names = {path.relative_to(folder) for folder in folders for path in folder.rglob("*") if path.is_file()}
    pairs = [(name, folders[0] / name, folders[1] / name) for name in sorted(names - {Path("card.md")})]
    return [
        str(name)
        for name, first, second in pairs
        if not (first.is_file() and second.is_file() and filecmp.cmp(first, second, shallow=False))
    ]


def report(place: Path, options: argparse.Namespace) -> dict[str, Any]:
    steps = {step: measure(step, place, options) for step in STEPS}
    unlike = different(place)
    size = sum(path.stat().st_size for path in (place / "cogview-base").rglob("*.pt"))
    bare = steps["nothing"]["peak"]
    for step in steps.values():
        step["over the checkpoint"] = round(step["peak"] / size, 3)
        step["without PyTorch"] = round((step["peak"] - bare) / size, 3)
    return {
        "layers": options.layers,
        "layout": options.layout,
        "model_parallel": options.model_parallel,
        "checkpoint bytes": size,
        "identical": not unlike,
        "different": unlike,
        "steps": steps,
        "machine": platform.processor() or platform.machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--layout", choices=("megatron", "sat"), default="megatron")
    parser.add_argument("--model-parallel", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="widths of a toy, to try the script")
    parser.add_argument("--place", type=Path, default=HERE / "work" / "import_memory")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run_step(options.step, options.place, options)
        return
    shutil.rmtree(options.place, ignore_errors=True)
    options.place.mkdir(parents=True)
    try:
        print(json.dumps(report(options.place, options), indent=2))
    finally:
        shutil.rmtree(options.place, ignore_errors=True)


if __name__ == "__main__":
    main()
