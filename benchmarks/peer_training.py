"""A training step: how much of the matrix-product rate it reaches, what the loader costs, and a peer's speed.

    python benchmarks/peer_training.py
    pip install --no-deps --target peer dalle-pytorch einops axial-positional-embedding \\
        rotary-embedding-torch g-mlp-pytorch omegaconf packaging ftfy regex
    python benchmarks/peer_training.py --peer peer

Ours is the training loop itself (`cogview train`: loader, shards, loss, AdamW, clipping) for a text-to-image
transformer of 8 layers of 512. The peer is DALLE-pytorch at the same number of parameters (6 layers of 512:
its feed-forward is gated; output matrix tied as ours is), with PyTorch's AdamW and clipping. Both learn 64
text and 256 image tokens a sequence, in fp32 or under bf16 autocast (``--precision bf16``). PB-relax, which
both know, is off in both: it is for fp16. Ours has the Sandwich-LN of its recipes, the peer its default, half
as many norms. Random tokens: nothing here depends on what they are.

A turn is a matrix product, our step, the peer's; a ratio is the median over the turns. Times are processor
times with ``--threads 1``, which hardly depend on what else runs (``--wall`` for the clock). The loader runs
in a thread of its own while the step computes; here its processor time a batch is measured alone, so the
share told is what a step would wait if nothing overlapped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from cogview.data.shards import (
    INDEX,
    Preprocessing,
    ShardIndex,
    ShardLayout,
    TokenCaption,
    TokenItem,
    write_atomically,
    write_shard,
)
from cogview.training.launch import prepare_directory
from cogview.training.prefetch import Prefetch
from cogview.training.registry import task_class
from cogview.training.tasks.transformer_recipe import TransformerRecipe
from cogview.training.trainer import Trainer
from cogview.vocabulary import Vocabulary

TEXT, GRID, CODES, PIECES, HIDDEN = 64, 16, 4096, 8000, 512
TOKENS = TEXT + GRID * GRID


def write_data(directory: Path, items: int, side: int = GRID) -> None:
    """Token shards of random codes and captions of 64 pieces."""
    rng = np.random.default_rng(0)
    pairs = [
        TokenItem(
            str(number), rng.integers(0, CODES, side * side),
            (TokenCaption(tuple(rng.integers(0, PIECES, TEXT).tolist()), "en", "plain"),), "random", "train",
        )
        for number in range(items)
    ]  # fmt: skip
    layout = ShardLayout((side, side), "uint16", "uint16", ("en",), ("random",), ("train",))
    index = ShardIndex(
        items=items, captions=items, grid=(side, side), codes_type="uint16", texts_type="uint16",
        vocabulary=Vocabulary(image_codes=CODES, text_pieces=PIECES), preprocessing=Preprocessing(size=128),
        image_tokenizer="0" * 16, text_tokenizer="0" * 64, languages=("en",), sources={"random": items},
        splits={"train": items}, shards=(write_shard(directory, "shard-00000", pairs, layout),),
    )  # fmt: skip
    write_atomically(directory / INDEX, index.model_dump_json())


def make_trainer(place: Path, given: argparse.Namespace) -> Trainer:
    """A run that has not begun."""
    (place / "data").mkdir()
    write_data(place / "data", 64 * given.batch)
    recipe = TransformerRecipe.model_validate(
        {
            "task": "transformer", "name": "speed", "data": place / "data", "steps": 10_000, "device": "cpu",
            "batch_size": given.batch, "threads": given.threads, "precision": given.precision,
            "compile": given.compile, "format": {"text_slots": TEXT},
            "model": {"layers": given.layers, "hidden": HIDDEN, "heads": 8, "norm_relax": "none"},
        }
    )  # fmt: skip
    prepare_directory(recipe, place / "run", False)
    return Trainer(task_class(recipe.task)(recipe), recipe, place / "run", Console(quiet=True))


def make_peer(given: argparse.Namespace) -> Callable[[], None]:
    """A step of DALLE-pytorch."""
    peer = load_dalle(given.peer)
    sizes = {"num_layers": 3, "num_tokens": CODES, "codebook_dim": 8, "hidden_dim": 8}
    tokenizer = peer.DiscreteVAE(image_size=8 * GRID, **sizes)
    model = peer.DALLE(
        dim=HIDDEN, vae=tokenizer, num_text_tokens=PIECES, text_seq_len=TEXT, depth=given.peer_layers,
        heads=8, dim_head=HIDDEN // 8, attn_types=("full",), share_input_output_emb=True,
    )  # fmt: skip
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-4)
    text, codes = torch.randint(1, PIECES, (given.batch, TEXT)), torch.randint(CODES, (given.batch, GRID**2))
    print(f"peer: {sum(p.numel() for p in trained) / 1e6:.1f} M parameters", flush=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=given.precision == "bf16"):
            loss = model(text, codes, return_loss=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    return step


def load_dalle(place: Path | None = None) -> Any:
    """The module ``dalle_pytorch``, from ``place`` if given; ImportError where it is not there."""
    if place is not None:
        sys.path.insert(0, str(place))
    _leave_out("pkg_resources", get_distribution=lambda name: types.SimpleNamespace(version="0"))
    _leave_out("taming.models.vqgan", VQModel=object, GumbelVQ=object)  # its other image tokenizers
    _leave_out("torchvision.transforms")
    return import_module("dalle_pytorch")


def codes_only(peer: Any, codes: int, rows: int) -> Any:
    """An image tokenizer for DALLE-pytorch that gives codes as they are, ``rows`` x ``rows`` of them."""

    class Codes(peer.DiscreteVAE):  # type: ignore[misc]
        def decode(self, found: torch.Tensor) -> torch.Tensor:
            return found

    made = Codes(image_size=64, num_layers=1, num_tokens=codes, codebook_dim=8, hidden_dim=8)
    made.image_size = 2 * rows  # of which its one layer makes half
    return made


def _leave_out(name: str, **attributes: Any) -> None:
    """Stand in for a package the peer imports and does not use here, where it is not installed."""
    try:
        missing = find_spec(name) is None
    except (ImportError, ValueError):
        missing = True
    if missing or name.startswith("taming"):
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        for attribute, value in attributes.items():
            setattr(sys.modules[name], attribute, value)


def product_rate(clock: Callable[[], float], precision: str, count: int = 12) -> float:
    """Floating-point operations a second of matrix products of 1,536 x 1,536."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(1536, 1536, dtype=dtype), torch.randn(1536, 1536, dtype=dtype)
    began = clock()
    for _ in range(count):
        a @ b
    return 2 * 1536**3 * count / (clock() - began)


def loader_seconds(trainer: Trainer, clock: Callable[[], float], count: int = 8) -> float:
    """Seconds of a batch, the epoch's order being worked out."""
    loader = iter(trainer.task.loader(trainer.loader_state))
    next(loader)
    return timed(lambda: [next(loader) for _ in range(count)], clock) / count


def timed(function: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    function()
    return clock() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in (("batch", 4), ("layers", 8), ("peer-layers", 6), ("turns", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--peer", type=Path, help="where dalle-pytorch is installed (pip install --target)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of both")
    parser.add_argument("--compile", action="store_true", help="ours as with the recipe's compile: true")
    parser.add_argument("--wall", action="store_true", help="measure by the clock")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).with_name("results") / "peer_training.json"
    )
    given = parser.parse_args()
    clock = time.perf_counter if given.wall else time.process_time
    torch.set_num_threads(given.threads)
    turns: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as place:
        trainer = make_trainer(Path(place), given)
        size = sum(p.numel() for p in trainer.model.parameters())
        print(f"ours: {size / 1e6:.1f} M parameters", flush=True)
        batches = Prefetch(iter(trainer.task.loader(None)), 0)
        peer = make_peer(given) if given.peer else None
        trainer.train_step(batches)  # warm
        if peer:
            peer()
        for _ in range(given.turns):
            found = {"rate": product_rate(clock, given.precision), "loader": loader_seconds(trainer, clock)}
            trainer.meter._clear()
            found["ours"] = timed(lambda: trainer.train_step(batches), clock)
            found["operations"] = trainer.meter._operations
            if peer:
                found["peer"] = timed(peer, clock)
            turns.append(found)
            print({name: float(f"{value:.4g}") for name, value in found.items()}, flush=True)
    result: dict[str, Any] = {
        "parameters": size,
        "utilisation": statistics.median(t["operations"] / t["ours"] / t["rate"] for t in turns),
        "loader_share": statistics.median(t["loader"] / t["ours"] for t in turns),
        "tokens_per_second": statistics.median(given.batch * TOKENS / t["ours"] for t in turns),
    }
    if given.peer:
        result["peer_tokens_per_second"] = statistics.median(given.batch * TOKENS / t["peer"] for t in turns)
        result["times_the_peer"] = statistics.median(t["peer"] / t["ours"] for t in turns)
    print(json.dumps(result, indent=1))
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(given).items()}
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    given.out.write_text(
        json.dumps({**result, "settings": settings, **machine, "turns": turns}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
