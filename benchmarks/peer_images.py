"""What another trainer makes of the same data in the same processor time, judged by the same reader.

    pip install --no-deps --target peer dalle-pytorch einops axial-positional-embedding \\
        rotary-embedding-torch g-mlp-pytorch omegaconf packaging ftfy regex
    python benchmarks/peer_images.py train --peer peer --recipe recipes/pictogram/text_to_image.yaml \\
        --data work/shards --hours 3 --run runs/peer
    python benchmarks/peer_images.py judge --peer peer --run runs/peer --recipe … --data work/shards \\
        --image-tokenizer runs/tokenizer/model --text-tokenizer work/text.model --reader runs/thing_reader \\
        --ours FAMILY

The peer is DALLE-pytorch at about the number of parameters of the recipe's model, trained as its own script
does (Adam, 3e-4, gradients clipped at 0.5, the image's loss seven times the text's) on the batches of the
recipe's loader. `train` counts processor time of one thread, keeps what it has every ten minutes and goes on
where it stopped. `judge` draws the bare names of everyday things with its `generate_images` and with the
family that cogview made of a checkpoint of the same age, both to the same pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_training import codes_only, load_dalle
from PIL import Image

from cogview.config import load_yaml, validate
from cogview.data.loader import TokenLoader
from cogview.evaluation.experiments.image_generator import ModelGenerator
from cogview.evaluation.experiments.things import evaluate_things
from cogview.evaluation.judges.thing_reader import ThingReader
from cogview.evaluation.plans import ThingsPlan
from cogview.files import replacing
from cogview.tokenizers.loading import read_image_tokenizer
from cogview.tokenizers.text import TextTokenizer
from cogview.training.tasks.transformer import TransformerTask
from cogview.training.tasks.transformer_recipe import TransformerRecipe

ROWS = 16  # sequences that go through the model together
KEEP = 600  # seconds of processor time between checkpoints


def peer_model(given: argparse.Namespace, task: TransformerTask) -> Any:
    """DALLE-pytorch's model for the task's vocabulary and grid; its own tokenizer only names sizes."""
    peer = load_dalle(given.peer)
    vocabulary, config = task.shards.index.vocabulary, task.config()
    sizes = codes_only(peer, vocabulary.image_codes, task.format.grid[0])
    return peer.DALLE(
        dim=config.hidden, vae=sizes, num_text_tokens=vocabulary.text_pieces + 1,
        text_seq_len=task.format.text_slots, depth=given.depth, heads=config.heads,
        dim_head=config.hidden // config.heads, attn_types=("full",), share_input_output_emb=True,
    )  # fmt: skip


def padded(texts: Sequence[Sequence[int]], slots: int) -> torch.Tensor:
    """Texts (rows, slots) with the peer's padding, 0; its first piece is 1."""
    rows = [[piece + 1 for piece in text[:slots]] for text in texts]
    return torch.tensor([row + [0] * (slots - len(row)) for row in rows])


def open_task(given: argparse.Namespace) -> TransformerTask:
    """The recipe's task on the data."""
    recipe = validate(TransformerRecipe, {**load_yaml(given.recipe), "data": given.data}, str(given.recipe))
    return TransformerTask(recipe)


def train(given: argparse.Namespace) -> None:
    """Train the peer until it has had its hours of processor time."""
    task = open_task(given)
    model = peer_model(given, task)
    trained = [own for own in model.parameters() if own.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3e-4)
    state: dict[str, Any] = {"seconds": 0.0, "steps": 0, "loader": None}
    kept = given.run / "state.pt"
    given.run.mkdir(parents=True, exist_ok=True)
    if kept.is_file():
        found = torch.load(kept, weights_only=True)
        model.load_state_dict(found["model"])
        optimizer.load_state_dict(found["optimizer"])
        state = found["state"]
    recipe = task.recipe
    loader = TokenLoader(
        task.shards, recipe.batch_size, seed=recipe.seed, splits=("train",), mixture=recipe.mixture,
        text_limit=task.format.text_slots, state=json.loads(state["loader"]) if state["loader"] else None,
    )  # fmt: skip
    print(
        f"{sum(own.numel() for own in trained) / 1e6:.1f} M parameters, {state['steps']} steps done",
        flush=True,
    )
    began, done = time.process_time(), state["seconds"]
    last = done
    for batch, after in loader:
        loss = step(model, optimizer, trained, padded(batch["texts"], task.format.text_slots), batch["codes"])
        state = {"seconds": done + time.process_time() - began, "steps": state["steps"] + 1}
        state["loader"] = json.dumps(after)
        over = state["seconds"] >= 3600 * given.hours
        if state["steps"] % 10 == 0:
            print(f"step {state['steps']}  loss {loss:.4f}  {state['seconds']:.0f} s", flush=True)
        if over or state["seconds"] - last >= KEEP:
            last = state["seconds"]
            whole = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state}
            with replacing(kept) as place:
                torch.save(whole, place)
        if over:
            return


def step(model: Any, optimizer: Any, trained: list[Any], texts: torch.Tensor, codes: torch.Tensor) -> float:
    """One step; the batch goes through in parts of ``ROWS``. One text in twelve is left out, as ours are."""
    optimizer.zero_grad()
    total = 0.0
    for first in range(0, len(texts), ROWS):
        part = slice(first, first + ROWS)
        loss = (
            model(texts[part].clone(), codes[part].long(), return_loss=True) * len(texts[part]) / len(texts)
        )
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(trained, 0.5)
    optimizer.step()
    return total


class PeerGenerator:
    """The trained peer as an image generator of the evaluation."""

    name, precision = "dalle-pytorch", "fp32"

    def __init__(self, given: argparse.Namespace) -> None:
        task = open_task(given)
        self.model, self.slots, self.grid = peer_model(given, task), task.format.text_slots, task.format.grid
        found = torch.load(given.run / "state.pt", weights_only=True)
        self.model.load_state_dict(found["model"])
        self.trained = {key: found["state"][key] for key in ("seconds", "steps")}
        self.images, self.texts = (
            read_image_tokenizer(given.image_tokenizer), TextTokenizer.from_file(given.text_tokenizer)
        )  # fmt: skip
        self.fingerprint = f"dalle-pytorch-{self.trained['steps']}"

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], seed: int, sampling: Mapping[str, int | float | str]
    ) -> list[Any]:
        """Images of the prompts by the peer's own sampling loop."""
        torch.manual_seed(seed)
        texts = padded([self.texts.encode(text) for text in prompts], self.slots)
        codes = self.model.generate_images(
            texts, use_cache=True, filter_thres=float(sampling["filter_thres"]),
            temperature=float(sampling["temperature"]), cond_scale=float(sampling["cond_scale"]),
        )  # fmt: skip
        pixels = self.images.decode(codes.view(len(codes), *self.grid))
        whole = (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(np.ascontiguousarray(one)) for one in whole]


def judge(given: argparse.Namespace) -> None:
    """The reader's figures for the peer and for ours."""
    reader = ThingReader.from_directory(given.reader)
    peer = PeerGenerator(given)
    own = {
        "filter_thres": given.filter_thres,
        "temperature": given.temperature,
        "cond_scale": given.cond_scale,
    }
    work, rows = given.run / "images", {}
    for name, generator, sampling in (
        ("peer", peer, own), ("ours", ModelGenerator(str(given.ours)), {}),
    ):  # fmt: skip
        plan = ThingsPlan(count=given.count, sampling=sampling)
        found = evaluate_things(plan, reader, generator, work)
        assert found is not None
        rows[name] = {language: one.model_dump() for language, one in found[0].readings.items()}
        print(name, json.dumps(rows[name]), flush=True)
    result = {
        **rows, "peer_trained": peer.trained, "peer_sampling": own,
        "model": ModelGenerator(str(given.ours)).fingerprint, "command": " ".join(sys.argv),
        "machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__,
    }  # fmt: skip
    given.out.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "judge"))
    for name in ("peer", "recipe", "data", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("image-tokenizer", "text-tokenizer", "reader", "ours"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--hours", type=float, default=3.0, help="processor hours")
    parser.add_argument("--depth", type=int, default=5, help="the peer's layers; its feed-forward is gated")
    parser.add_argument("--count", type=int, default=593, help="images a language")
    parser.add_argument("--filter-thres", type=float, default=0.9, help="share of tokens left out")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--cond-scale", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "peer_images.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    train(given) if given.what == "train" else judge(given)


if __name__ == "__main__":
    main()
