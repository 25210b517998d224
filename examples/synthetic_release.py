"""Files as CogView's release has them, with random weights: to try importing without the 8 GB, or to test.

python examples/synthetic_release.py release
python examples/synthetic_release.py release --layers 48 --hidden 2560 --codes 8192 --pieces 50000

Names, layout and tensors are the released ones: three transformers, each a folder with a tracker file and a
pickled checkpoint whose half-precision tensors are views of one flat buffer, as ZeRO leaves them; the image
tokenizer; a SentencePiece model. The second command has the released sizes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cogview.importers.export import released_names
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.vocabulary import Vocabulary

ROLES = ("cogview-base", "cogview-caption", "cogview-sr")
LINES = [
    "a red circle and a blue square",
    "一个红色的圆和一个蓝色的方块",
    "an image of sketch style",
    "素描风格的画",
]
BLOCK = 1 << 20


def write_transformer(folder: Path, config: TransformerConfig, seed: int) -> None:
    """A checkpoint: gains of 1, biases of 0, all else normal with a deviation of 0.02."""
    shapes, names = Transformer.shapes(config), released_names(config, "megatron")
    flat = torch.empty(sum(shape.numel() for shape in shapes.values()), dtype=torch.float16)
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(flat), BLOCK):
        part = flat[start : start + BLOCK]
        part.copy_(0.02 * torch.randn(len(part), generator=generator))
    pieces = torch.split(flat, [shapes[name].numel() for name in names.values()])
    module = {}
    for (released, name), piece in zip(names.items(), pieces, strict=True):
        module[released] = piece.view(shapes[name].shape)
        if len(shapes[name].shape) == 1:
            module[released].fill_(float(released.endswith("weight")))
    (folder / "20").mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("20")
    torch.save({"module": module, "iteration": 20}, folder / "20" / "mp_rank_00_model_states.pt")


def write_image_tokenizer(config: ImageTokenizerConfig, path: Path) -> None:
    """An image tokenizer under the released names."""
    torch.manual_seed(0)
    parts = {"encoder.": "enc_b.blocks.", "decoder.": "dec.blocks."}
    buffers = {"codebook": "embed", "average": "embed_avg", "cluster_size": "cluster_size"}
    state: dict[str, Any] = {}
    for name, value in ImageTokenizer(config).state_dict().items():
        start, _, rest = name.partition(".")
        if start == "quantizer" and rest in buffers:
            state[f"quantize_t.{buffers[rest]}"] = value.t().contiguous() if value.dim() == 2 else value
        elif start != "quantizer":
            state[parts[f"{start}."] + rest] = value
    torch.save(state, path)


def write_text_tokenizer(pieces: int, path: Path) -> None:
    """A SentencePiece model with this many pieces: learned from a few lines, the rest added by name."""
    small = TextTokenizer.train(LINES * 9, pieces=40, byte_fallback=False)
    small.extended(f"<{i}>" for i in range(pieces - small.pieces)).save(path)


def write_release(
    place: Path, layers: int, hidden: int, codes: int, pieces: int, roles: Sequence[str] = ROLES
) -> None:
    """All files of a release below ``place``; other widths than the released are those of a toy."""
    vocabulary = Vocabulary(image_codes=codes, text_pieces=pieces)
    facts = {"layers": layers, "hidden": hidden, "heads": hidden // 64, "vocab_size": vocabulary.padded_size}
    config = TransformerConfig.cogview_4b().model_copy(update=facts)
    for seed, role in enumerate(roles):
        write_transformer(place / role, config, seed)
    images = ImageTokenizerConfig.cogview()
    if codes != images.codes:
        images = images.model_copy(update={"channels": (8, 8, 8), "codes": codes, "code_dim": 4})
    write_image_tokenizer(images, place / "vqvae_hard_biggerset_011.pt")
    write_text_tokenizer(pieces, place / "cog-pretrain.model")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("place", type=Path, help="a new folder")
    sizes = {"layers": 2, "hidden": 128, "codes": 64, "pieces": 100}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    given = parser.parse_args(words)
    given.place.mkdir(parents=True)
    write_release(given.place, given.layers, given.hidden, given.codes, given.pieces)
    print(given.place)


if __name__ == "__main__":
    main()
