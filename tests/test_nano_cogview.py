"""``examples/nano_cogview.py`` against the library: with the same weights both give the same numbers."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from cogview.sequences import SequenceFormat
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from cogview.transformer.cache import KVCache
from cogview.transformer.model import Transformer, TransformerConfig
from cogview.vocabulary import Vocabulary

FILE = Path(__file__).parent.parent / "examples/nano_cogview.py"
RENAMED = {
    "before_attention": "attention_branch.norm_in",
    "after_attention": "attention_branch.norm_out",
    "before_mlp": "mlp_branch.norm_in",
    "after_mlp": "mlp_branch.norm_out",
    "qkv": "attention.qkv",
    "out": "attention.out",
    "up": "mlp.up",
    "down": "mlp.down",
}


@pytest.fixture(scope="module")
def nano() -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("nano_cogview", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight a little away from where it starts, biases and gains too."""
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model.eval()


def library_transformer(nano: ModuleType, weights: dict[str, Tensor]) -> Transformer:
    """The library's model with the example's weights."""
    config = TransformerConfig(
        layers=nano.LAYERS,
        hidden=nano.HIDDEN,
        heads=nano.HEADS,
        vocab_size=nano.ROWS,
        max_positions=nano.SLOTS + 3 + nano.GRID**2,
    )
    model = Transformer(config)
    names = {
        name: re.sub(r"\.(\w+)\.(\w+)$", lambda m: f".{RENAMED.get(m[1], m[1])}.{m[2]}", name)
        for name in weights
    }
    model.load_state_dict({names[name]: weight for name, weight in weights.items()})
    return model.eval()


def test_it_can_be_read_in_one_sitting() -> None:
    assert len(FILE.read_text(encoding="utf-8").splitlines()) <= 400
    assert "import cogview" not in FILE.read_text(encoding="utf-8")


def test_the_tokenizer_is_the_papers(nano: ModuleType) -> None:
    """Codes, and the images painted of them."""
    own = moved(nano.ImageTokenizer())
    size, width = nano.SIDE, nano.WIDTH
    library = ImageTokenizer(
        ImageTokenizerConfig(
            architecture="paper", image_size=size, factors=(2, 2), channels=(width, width), blocks=(0, 0),
            codes=nano.CODES, code_dim=nano.CODE_DIM,
        )
    ).eval()  # fmt: skip
    state = {name: x for name, x in own.state_dict().items() if name.startswith(("encoder", "decoder"))}
    missing = library.load_state_dict({**state, "quantizer.codebook": own.codebook}, strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("quantizer.") for name in missing.missing_keys)
    images = torch.rand(3, 3, size, size)
    codes = own.encode(images)
    assert len(codes.unique()) > 10
    assert torch.equal(codes, library.encode(images))
    with torch.no_grad():
        torch.testing.assert_close(own.decode(codes), library.decode(codes))


def test_sequences_are_those_of_the_format(nano: ModuleType) -> None:
    vocabulary = Vocabulary(
        image_codes=nano.CODES,
        text_pieces=len(nano.WORDS),
        controls=("[ROI1]", "[BASE]", "[BOI1]", "[EOI1]"),
        multiple=1,
    )
    form = SequenceFormat(vocabulary=vocabulary, text_slots=nano.SLOTS, grid=(nano.GRID, nano.GRID))
    text = nano.tokens_of(nano.caption("red", "ring", "blue"))
    codes = torch.randint(nano.CODES, (nano.GRID**2,))
    expected = form.training(text, codes.numpy())
    ids, positions = nano.sequence(text, codes)
    np.testing.assert_array_equal(ids.numpy(), expected.ids)
    np.testing.assert_array_equal(positions.numpy(), expected.positions)
    assert vocabulary.padded_size == nano.ROWS


@torch.no_grad()
def test_the_transformer_gives_the_librarys_logits(nano: ModuleType) -> None:
    own = moved(nano.Transformer())
    library = library_transformer(nano, own.state_dict())
    ids, positions, _ = nano.batch(
        [nano.tokens_of("a red circle on blue"), []], torch.randint(nano.CODES, (2, 64))
    )
    found, expected = own(ids, positions), library.logits(library(ids, positions))
    assert found.std() > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_cache_changes_nothing(nano: ModuleType) -> None:
    """Token by token, here and in the library."""
    own = moved(nano.Transformer())
    library = library_transformer(nano, own.state_dict())
    ids, positions = nano.sequence(
        nano.tokens_of("a black square on white"), torch.randint(nano.CODES, (64,))
    )
    ids, positions = ids[None], positions[None]
    caches: list[list[Tensor]] = [[] for _ in range(nano.LAYERS)]
    cache = KVCache.allocate(library.config, 1, ids.shape[1])
    whole = own(ids, positions)
    for first, end in [(0, 8), *((i, i + 1) for i in range(8, ids.shape[1]))]:
        part = own(ids[:, first:end], positions[:, first:end], caches)
        theirs = library.logits(library(ids[:, first:end], positions[:, first:end], cache=cache))
        torch.testing.assert_close(part, whole[:, first:end], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(part, theirs, rtol=1e-4, atol=1e-4)


def test_an_image_is_the_same_in_any_batch(nano: ModuleType) -> None:
    model, text = moved(nano.Transformer()), nano.tokens_of("a red circle on blue")
    four, two = nano.generate(model, text, 4, seed=3), nano.generate(model, text, 2, seed=3)
    assert torch.equal(four[:2], two)
    assert not torch.equal(four[0], four[1])
    assert not torch.equal(two, nano.generate(model, text, 2, seed=4))


@pytest.mark.slow
def test_it_learns(nano: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """A short training tells images better than chance: the tokenizer reconstructs, and of one prompt's
    images more have the colours of that prompt than of another one."""
    tokenizer, model = nano.train_both(images=512, tokenizer_steps=250, steps=150)
    _, images = nano.dataset(64, seed=9)
    with torch.no_grad():
        error = (tokenizer.decode(tokenizer.encode(images)) - images).abs().mean()
        assert error < 0.5 * (images - images.mean((0, 2, 3), keepdim=True)).abs().mean()
        codes = nano.generate(model, nano.tokens_of("a red square on white"), 8, seed=1)
        made = (tokenizer.decode(codes).clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()
    right = sum(nano.shows(image, "red", "white") for image in made)
    assert right >= 5 > sum(nano.shows(image, "blue", "black") for image in made)
    assert "transformer" in capsys.readouterr().out
