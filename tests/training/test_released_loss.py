"""The released training script's loss, its logged parts and every gradient, from its own batch."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogview.importers.cogview1 import rename
from cogview.training.objective import sequence_loss
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.vocabulary import Vocabulary
from tests.reference.cogview_loss import released_loss

FIXTURES = Path(__file__).parents[1] / "fixtures/cogview1"
FACTS = json.loads((FIXTURES / "train_loss_a.json").read_text())
RECORDED = load_file(FIXTURES / "train_loss_a.safetensors")
VOCABULARY = Vocabulary(image_codes=64, text_pieces=100, multiple=256)


def model() -> Transformer:
    config = TransformerConfig(
        layers=3,
        hidden=64,
        heads=4,
        vocab_size=256,
        max_positions=97,
        norm_relax="tensor",
        numerics="released",
    )
    released = Transformer(config)
    weights = load_file(FIXTURES / "model_a.safetensors")
    released.load_state_dict({rename(key): value for key, value in weights.items()})
    return released.eval()


def gradients(released: Transformer) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in released.named_parameters()}


def check_gradients(found: dict[str, Tensor]) -> None:
    expected = {k.removeprefix("grad."): v for k, v in RECORDED.items() if k.startswith("grad.")}
    assert len(expected) == len(found)
    for key, gradient in expected.items():
        torch.testing.assert_close(found[rename(key)], gradient, rtol=1e-4, atol=1e-6, msg=key)


def test_released_loss_and_its_gradients() -> None:
    released = model()
    inputs, targets, mask = (RECORDED[name] for name in ("input_ids", "labels", "loss_mask"))
    hidden = released(inputs, RECORDED["position_ids"])
    logits = released.logits(hidden)
    loss, parts = released_loss(logits, inputs, targets, mask, VOCABULARY, FACTS["txt_loss_scale"])
    assert loss.item() == pytest.approx(FACTS["loss"], rel=1e-6)
    assert float(parts["image_loss"]) == pytest.approx(FACTS["img_loss"], rel=1e-6)
    assert float(parts["text_loss"]) == pytest.approx(FACTS["txt_loss"], rel=1e-6)
    loss.backward()
    check_gradients(gradients(released))


def test_sequence_loss_gives_the_same_with_released_weights() -> None:
    """The general loss with weights by the input token: what the released recipe trains with."""
    released = model()
    inputs, targets, mask = (RECORDED[name] for name in ("input_ids", "labels", "loss_mask"))
    weights = mask * torch.where(inputs < VOCABULARY.image_codes, 1.0, FACTS["txt_loss_scale"])
    hidden = released(inputs, RECORDED["position_ids"])
    loss, _ = sequence_loss(released.logits, hidden, targets, weights, VOCABULARY, padding_rows=True)
    assert loss.item() == pytest.approx(FACTS["loss"], rel=1e-6)
    loss.backward()
    check_gradients(gradients(released))
