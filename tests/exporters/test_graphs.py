"""ONNX graphs compute what PyTorch computes: transformers of every norm, image tokenizers of every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from cogview.exporters.image_graph import write_image_tokenizer
from cogview.exporters.transformer_graph import write_transformer
from cogview.onnx.cached_rows import Rows
from cogview.onnx.manifest import FILE, Manifest, Weights, facts_of
from cogview.onnx.sessions import Exported, TransformerSession
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from cogview.transformer.attention import Prefix, TextAttentionBias
from cogview.transformer.model import Transformer
from tests.generation import tiny

DEFAULT = {  # the next default model's shape, narrower where that changes no layer
    "image_size": 256,
    "reduce": 2,
    "factors": (4, 2),
    "resize": (3, 4),
    "channels": (8, 16),
    "blocks": (1, 2),
    "decoder_factors": (4, 2, 2),
    "decoder_channels": (8, 16, 24),
    "decoder_blocks": (1, 0, 1),
    "codes": 64,
    "code_dim": 8,
}


class Opened(Exported):
    """Graphs in a folder without a manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._runtime = folder, onnxruntime
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = 1

    def open(self, graph: str, weights: str | None = None) -> Any:
        onnx.checker.check_model(self.folder / graph, full_check=True)
        return onnxruntime.InferenceSession(self.folder / graph, self._options)


def session(model: Transformer, folder: Path, weights: Weights = "fp32") -> TransformerSession:
    """A transformer written and opened, with heads for ids 0-63 and 64-99."""
    heads = {"image": range(64), "text": range(64, 100)}
    return TransformerSession(Opened(folder), write_transformer(model, folder / "base", heads, 64, weights))


def ids_of(model: Transformer, rows: int, tokens: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(3).integers(0, model.config.vocab_size, (rows, tokens))


@pytest.mark.parametrize("norm", ["pre", "post", "sandwich"])
@pytest.mark.parametrize("relax", ["none", "token", "tensor"])
def test_logits_are_those_of_the_model(norm: str, relax: str, tmp_path: Path) -> None:
    model = tiny.transformer(norm=norm, norm_relax=relax)
    read = session(model, tmp_path)
    ids, positions = ids_of(model, 2, 9), np.tile(np.arange(9), (2, 1))
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids), torch.from_numpy(positions))
        logits = model.logits(expected[:, -1], slice(64, 100))
    rows = Rows(read, 2, 12)
    if relax == "tensor":  # one value for the whole tensor: what is read at once matters
        found = rows.read(ids, positions)
    else:  # in three parts, as prefill, step and window
        parts = [rows.read(ids[:, a:b], positions[:, a:b]) for a, b in ((0, 5), (5, 6), (6, 9))]
        found = np.concatenate(parts, 1)
    scale = float(expected.abs().max())
    assert np.abs(found - expected.numpy()).max() < 1e-5 * scale
    assert np.abs(read.logits("text", found[:, -1]) - logits.numpy()).max() < 1e-5 * float(logits.abs().max())


def test_two_way_prefixes_bias_and_rows_of_several_lengths(tmp_path: Path) -> None:
    model = tiny.transformer()
    read = session(model, tmp_path)
    ids, positions = ids_of(model, 2, 8), np.tile(np.arange(8), (2, 1))
    rows = Rows(read, 2, 12)
    rows.bias[0, :3], rows.bias[1, :2] = 1.5, 1.5
    first = rows.read(ids[:, :6], positions[:, :6], np.array([6, 4]), [3, 2])
    rows.lengths[0] = 5  # read the last one again, as after a wrong guess
    new = np.stack([ids[0, 5:8], ids[1, 4:7]])
    second = rows.read(new, np.stack([positions[0, 5:8], positions[1, 4:7]]))
    for row, (length, prefix) in enumerate([(8, 3), (7, 2)]):
        seen = TextAttentionBias(Prefix(prefix), prefix, 1.5)
        with torch.inference_mode():
            tensors = (torch.from_numpy(x[row : row + 1, :length]) for x in (ids, positions))
            expected = model(*tensors, seen)[0].numpy()
        held = np.concatenate([first[row, : (5, 4)[row]], second[row]])
        assert np.abs(held - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("weights", "bound"), [("fp16", 2e-3), ("int8", 0.08)])
def test_smaller_weights_are_nearly_the_same(weights: Weights, bound: float, tmp_path: Path) -> None:
    model = tiny.transformer()
    read = session(model, tmp_path, weights)
    ids, positions = ids_of(model, 2, 9), np.tile(np.arange(9), (2, 1))
    with torch.inference_mode():
        hidden = model(torch.from_numpy(ids), torch.from_numpy(positions))[:, -1]
        expected = model.logits(hidden, slice(0, 64)).numpy()
    found = read.logits("image", Rows(read, 2, 12).read(ids, positions)[:, -1])
    assert np.abs(found - expected).max() < bound * np.abs(expected).max()
    alone = Rows(read, 1, 12).read(ids[1:], positions[1:])[:, -1]
    assert np.abs(read.logits("image", alone) - found[1:]).max() < bound / 4 * np.abs(expected).max()


def test_weights_are_stored_once(tmp_path: Path) -> None:
    model = tiny.transformer()
    session(model, tmp_path)
    size, parameters = (tmp_path / "base" / "weights.bin").stat().st_size, list(model.parameters())
    assert size - 4 * sum(x.numel() for x in parameters) <= 64 * len(parameters)  # but for alignment
    for name in ("transformer", "head_image", "head_text"):
        assert (tmp_path / "base" / f"{name}.onnx").stat().st_size < 40_000


def test_the_next_default_models_width(tmp_path: Path) -> None:
    model = tiny.transformer(hidden=448, heads=7, norm_relax="none", branch_gain=0.25)
    read = session(model, tmp_path)
    ids, positions = ids_of(model, 1, 6), np.arange(6)[None]
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids), torch.from_numpy(positions)).numpy()
    found = Rows(read, 1, 8).read(ids, positions)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


TOKENIZERS: dict[str, dict[str, Any]] = {
    "default": DEFAULT,
    "paper": {
        "architecture": "paper",
        "image_size": 32,
        "factors": (2, 2),
        "channels": (8, 8),
        "blocks": (0, 0),
    },
    "finite scalar": {
        "factors": (3,),
        "channels": (8,),
        "blocks": (1,),
        "method": "finite_scalar",
        "codes": 64,
    },
    "plain": {"factors": (3, 2), "channels": (16, 16), "blocks": (1, 2), "attention": True},
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_image_tokenizers(name: str, tmp_path: Path) -> None:
    width = {"code_dim": 2} if name == "finite scalar" else {"code_dim": 8}
    config = ImageTokenizerConfig.model_validate({"codes": 64, **width, **TOKENIZERS[name]})
    torch.manual_seed(2)
    tokenizer = ImageTokenizer(config).eval()
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # what starts at zero as well
    files = write_image_tokenizer(tokenizer, tmp_path / "image", "fp32")
    opened = Opened(tmp_path)
    decoder, encoder, distances = (
        opened.open(graph) for graph in (files.decoder, files.encoder, files.distances)
    )
    rows, columns = config.grid[0], 2 * config.grid[1]  # not square
    codes = np.random.default_rng(1).integers(0, 64, (2, rows, columns))
    with torch.inference_mode():
        images = tokenizer.decode(torch.from_numpy(codes).flatten(1), (rows, columns))
        vectors = tokenizer.features(images.clamp(0, 1))
        expected = tokenizer.quantizer.encode(vectors).numpy()
        apart = tokenizer.quantizer.distances(vectors.flatten(0, 2)).numpy()
    found = decoder.run(None, {"codes": codes.astype(np.int32)})[0]
    assert np.abs(found - images.numpy()).max() < 1e-5
    given, chosen = encoder.run(None, {"images": images.clamp(0, 1).numpy()})
    scale = float(vectors.abs().max())
    assert np.abs(given - vectors.numpy()).max() < 1e-5 * scale
    assert (chosen == expected).all()
    measured = distances.run(None, {"vectors": vectors.flatten(0, 2).numpy()})[0]
    assert np.abs(measured - apart).max() < 1e-5 * max(1.0, float(np.abs(apart).max()))


def test_small_image_tokenizers_show_the_same(tmp_path: Path) -> None:
    torch.manual_seed(2)
    tokenizer = ImageTokenizer(ImageTokenizerConfig.model_validate(DEFAULT)).eval()
    codes = np.random.default_rng(1).integers(0, 64, (1, 12, 12))
    with torch.inference_mode():
        expected = tokenizer.decode(torch.from_numpy(codes).flatten(1)).numpy()
    bounds: dict[Weights, float] = {"fp16": 2e-3, "int8": 3e-2}
    for weights, bound in bounds.items():
        files = write_image_tokenizer(tokenizer, tmp_path / weights / "image", weights)
        decoder = Opened(tmp_path / weights).open(files.decoder)
        found = decoder.run(None, {"codes": codes.astype(np.int32)})[0]
        assert np.abs(found - expected).max() < bound


def test_a_manifest_is_checked(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    facts = facts_of(tmp_path / "file")
    assert facts.bytes == 3
    assert facts.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(ValueError, match=f"no {FILE}"):
        Manifest.read(tmp_path)
