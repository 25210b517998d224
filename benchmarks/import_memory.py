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
    import torch

    from cogview.importers.export import released_names
    from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
    from cogview.transformer.config import TransformerConfig
    from cogview.transformer.model import Transformer
    from cogview.vocabulary import Vocabulary

    vocabulary = Vocabulary(image_codes=64, text_pieces=100) if tiny else Vocabulary.cogview()
    sizes = {"hidden": 128, "heads": 2} if tiny else {}
    facts = {"layers": layers, "vocab_size": vocabulary.padded_size, **sizes}
    config = TransformerConfig.cogview_4b().model_copy(update=facts)
    shapes, names = Transformer.shapes(config), released_names(config, "megatron")
    flat = torch.empty(sum(x.numel() for x in shapes.values()), dtype=torch.float16)
    torch.manual_seed(0)
    for start in range(0, len(flat), 1 << 20):
        block = flat[start : start + (1 << 20)]
        block.copy_(torch.randn(len(block)))
    pieces = torch.split(flat, [shapes[name].numel() for name in names.values()])
    module = {key: x.view(shapes[name].shape) for (key, name), x in zip(names.items(), pieces, strict=True)}
    (place / "base" / "20").mkdir(parents=True)
    (place / "base" / "latest_checkpointed_iteration.txt").write_text("20")
    torch.save({"module": module, "iteration": 20}, place / "base" / "20" / "mp_rank_00_model_states.pt")
    images = ImageTokenizerConfig.cogview()
    if tiny:
        changes = {"channels": (8, 8, 8), "codes": 64, "code_dim": 4}
        images = images.model_copy(update=changes)
    released_tokenizer(ImageTokenizer(images), place / "vqvae.pt")
    text_tokenizer(vocabulary.text_pieces, place / "text.model")


def released_tokenizer(tokenizer: Any, path: Path) -> None:
    """Write an image tokenizer under the released names."""
    import torch

    parts = {"encoder.": "enc_b.blocks.", "decoder.": "dec.blocks."}
    buffers = {"codebook": "embed", "average": "embed_avg", "cluster_size": "cluster_size"}
    state = {}
    for name, x in tokenizer.state_dict().items():
        start, _, rest = name.partition(".")
        if start == "quantizer" and rest in buffers:
            state[f"quantize_t.{buffers[rest]}"] = x.t().contiguous() if x.dim() == 2 else x
        elif start != "quantizer":
            state[parts[f"{start}."] + rest] = x
    torch.save(state, path)


def text_tokenizer(pieces: int, path: Path) -> None:
    """A SentencePiece model with so many pieces: learned from a line, the rest added by name."""
    from cogview.tokenizers.text import TextTokenizer

    small = TextTokenizer.train(["a red circle and a blue square"] * 9, pieces=17, byte_fallback=False)
    small.extended(f"<{i}>" for i in range(pieces - small.pieces)).save(path)


def cli(*words: object) -> None:
    from cogview.cli.app import main

    if main([str(word) for word in words]):
        raise SystemExit(f"failed: cogview {' '.join(map(str, words))}")


def run_step(step: str, place: Path, options: argparse.Namespace) -> None:
    """One step, in a process of its own; prints its peak in bytes and its seconds."""
    import torch  # noqa: F401 - what every step begins with

    started = time.monotonic()
    files = ("--image-tokenizer", place / "vqvae.pt", "--text", place / "text.model")
    if step == "make":
        make(place, options.layers, options.tiny)
    elif step == "import":
        cli("import", "cogview", "--base", place / "base", *files, "-o", place / "first/family")
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
    size = sum(path.stat().st_size for path in (place / "base").rglob("*.pt"))
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
