"""CogLM's training rows, masks, loss and gradients are those of the released script."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cogview.sequences import CogLMSequence
from cogview.sequences.coglm import collate
from cogview.sequences.masks import corners_of, released_corners, runs
from cogview.training.objective import sequence_loss, split_targets
from cogview.transformer.attention import MaskRegions
from tests.parity.cogview2 import coglm, facts, form, recorded
from tests.reference import coglm_rows as released

RUN, FACTS = recorded("coglm_train_masks"), facts("coglm_train_masks")
ORDER: list[str] = FACTS["batch_order"]


def sequence(name: str) -> CogLMSequence:
    """Our row; what the script left to chance is recorded (text: read off the loss)."""
    row = RUN[f"{name}.x"].numpy()
    if name.endswith("t2i"):
        chosen = len(released.texts_of(row, form())) - 1  # the script's draw was the last text
        return released.drawing(row, form(), chosen)
    if name.endswith("cap"):
        return released.captioning(row, form(), corners_of(FACTS[name]["corners"], form().grid))
    places = [(first, end - first) for first, end in runs(RUN["text.loss_mask"].bool().numpy())]
    return released.spans(row, form(), places)


def batch() -> dict[str, Tensor]:
    return collate([sequence(name) for name in ORDER])


@pytest.mark.parametrize("name", ORDER)
def test_a_row_is_the_scripts(name: str) -> None:
    ours = sequence(name)
    for field, theirs in (
        ("ids", "token"),
        ("positions", "pos"),
        ("targets", "label"),
        ("weights", "loss_mask"),
    ):
        assert np.array_equal(getattr(ours, field), RUN[f"{name}.{theirs}"].numpy()), field
    pattern = MaskRegions(torch.from_numpy(ours.order), torch.from_numpy(ours.streams))
    mask = pattern.dense_mask(len(ours), len(ours))[0, 0]
    assert torch.equal(mask, RUN[f"{name}.attn_mask"].bool())


def test_patches_are_drawn_as_the_script_draws_them() -> None:
    fact = FACTS["single.cap"]
    drawn = released_corners(form().grid, random.Random(fact["python_random_seed"]))
    assert np.array_equal(drawn, corners_of(fact["corners"], form().grid))


def test_loss_and_gradients() -> None:
    """Within 1e-5: hidden states, every token's loss, the batch's and its part on pictures, gradients."""
    model, rows, vocabulary = coglm(), batch(), form().vocabulary
    hidden = model(rows["inputs"], rows["positions"], MaskRegions(rows["order"], rows["streams"]))
    torch.testing.assert_close(hidden, RUN["final_hidden"], rtol=0, atol=1e-5)
    losses = F.cross_entropy(model.logits(hidden).flatten(0, 1), rows["targets"].flatten(), reduction="none")
    torch.testing.assert_close(losses.view(5, -1), RUN["token_ce"], rtol=0, atol=1e-5)
    places = split_targets(rows["targets"], rows["weights"], vocabulary)
    loss, parts = sequence_loss(
        model.logits, hidden, rows["targets"], rows["weights"], vocabulary, softmax="full", places=places
    )
    assert loss.item() == pytest.approx(FACTS["loss"], abs=1e-5)
    assert parts["image_loss"].item() == pytest.approx(FACTS["metrics"]["image_loss"], abs=1e-5)
    loss.backward()
    gradients = {
        "transformer.final_layernorm.weight": model.norm.weight.grad,
        "transformer.layers.0.attention.query_key_value.weight": model.blocks[0].attention.qkv.weight.grad,
        "transformer.layers.1.mlp.dense_4h_to_h.bias": model.blocks[1].mlp.down.bias.grad,
        "transformer.position_embeddings.weight": model.positions.weight.grad.norm(dim=1),
    }
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, RUN[f"grad.{name}"], rtol=0, atol=1e-5)
