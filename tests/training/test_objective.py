"""The sequence loss against sums written out token by token."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cogview.training import output_loss
from cogview.training.objective import Softmax, sequence_loss
from cogview.vocabulary import Vocabulary
from tests.reference.cogview_loss import released_loss

VOCABULARY = Vocabulary(image_codes=5, text_pieces=6, controls=("[PAD]", "[A]", "[B]"), multiple=16)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 7, 4, generator=generator)
    matrix = torch.randn(16, 4, generator=generator)
    targets = torch.tensor([[7, 9, 12, 0, 4, 2, 13], [6, 12, 1, 1, 3, 13, 11]])
    weights = torch.tensor([[1, 2, 0, 0.5, 1, 1, 1], [1, 1, 3, 1, 1, 1, 0]])
    return hidden, matrix, targets, weights


def by_hand(
    logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, softmax: Softmax, padding: bool
) -> tuple[float, float, float]:
    total, weight = 0.0, 0.0
    parts: dict[bool, list[float]] = {True: [], False: []}
    end = 16 if padding else 14
    for at in np.ndindex(targets.shape):
        if weights[at] == 0:
            continue
        target, image = targets[at], bool(targets[at] < 5)
        rows = range(end) if softmax == "full" else range(5) if image else range(5, end)
        loss = np.log(sum(np.exp(logits[at][row]) for row in rows)) - logits[at][target]
        parts[image].append(loss)
        total, weight = total + weights[at] * loss, weight + weights[at]
    return total / weight, float(np.mean(parts[True])), float(np.mean(parts[False]))


@pytest.mark.parametrize("softmax", ["full", "region"])
@pytest.mark.parametrize("padding", [False, True])
def test_against_sums_by_hand(batch: tuple[Tensor, ...], softmax: Softmax, padding: bool) -> None:
    hidden, matrix, targets, weights = batch

    def head(states: Tensor, rows: slice | None = None) -> Tensor:
        return states @ (matrix if rows is None else matrix[rows]).T

    loss, parts = sequence_loss(
        head, hidden, targets, weights, VOCABULARY, softmax=softmax, padding_rows=padding
    )
    logits = (hidden.double() @ matrix.double().T).numpy()
    expected = by_hand(logits, targets.numpy(), weights.double().numpy(), softmax, padding)
    assert (float(loss), float(parts["image_loss"]), float(parts["text_loss"])) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("softmax", ["full", "region"])
@pytest.mark.parametrize("logits", [1, 40, 1 << 20])
def test_the_fused_loss_equals_the_plain_one(
    batch: tuple[Tensor, ...], softmax: Softmax, logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss, parts and gradients, in chunks of any size; the upstream gradient counts."""
    monkeypatch.setattr(output_loss, "LOGITS", logits)
    hidden, matrix, targets, weights = batch
    found = []
    for fused in (True, False):
        leaves = [x.clone().requires_grad_() for x in (hidden, matrix)]

        def head(states: Tensor, rows: slice, table: Tensor = leaves[1]) -> Tensor:
            return states @ table[rows].T

        loss, parts = sequence_loss(
            head,
            leaves[0],
            targets,
            weights,
            VOCABULARY,
            softmax=softmax,
            matrix=leaves[1] if fused else None,
        )
        found.append((loss, *parts.values(), *torch.autograd.grad(3 * loss, leaves)))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)


def test_the_fused_loss_in_bfloat16_errs_by_its_digits(batch: tuple[Tensor, ...]) -> None:
    hidden, matrix, targets, weights = batch
    found = []
    for dtype in (torch.bfloat16, torch.float64):
        leaves = [x.bfloat16().to(torch.float32 if dtype.itemsize == 2 else dtype) for x in (hidden, matrix)]
        states, table = (x.requires_grad_() for x in leaves)
        at = torch.nonzero(targets.flatten() < 5).squeeze(1)
        factors = weights.flatten()[at]
        if dtype == torch.bfloat16:
            with torch.autocast("cpu", dtype):
                loss, _ = output_loss.cross_entropy(
                    states.flatten(0, 1)[at], table[:5], targets.flatten()[at], factors
                )
        else:
            logits = states.flatten(0, 1)[at] @ table[:5].T
            loss = factors.double() @ F.cross_entropy(logits, targets.flatten()[at], reduction="none")
        found.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
    for ours, exact in zip(*found, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - exact).norm() <= 2**-6 * exact.norm()


def test_the_fused_loss_is_not_for_fp16() -> None:
    states, matrix = torch.zeros(2, 4, requires_grad=True), torch.zeros(3, 4)
    assert output_loss.is_supported(states, matrix)
    with torch.autocast("cpu", torch.float16):
        assert not output_loss.is_supported(states, matrix)
    with torch.no_grad():
        assert not output_loss.is_supported(states, matrix)


def test_places_without_weight_get_no_gradient(batch: tuple[Tensor, ...]) -> None:
    hidden, matrix, targets, weights = batch
    hidden.requires_grad_()
    loss, _ = sequence_loss(lambda h, rows=None: h @ matrix[rows].T, hidden, targets, weights, VOCABULARY)
    loss.backward()
    assert torch.equal(hidden.grad.abs().sum(-1) > 0, weights > 0)


def test_a_batch_without_images(batch: tuple[Tensor, ...]) -> None:
    hidden, matrix, targets, weights = batch
    only_text = weights * (targets >= 5)
    loss, parts = sequence_loss(
        lambda h, rows=None: h @ matrix[rows].T, hidden, targets, only_text, VOCABULARY, softmax="region"
    )
    assert loss.isfinite() and parts["image_loss"] == 0


def test_released_loss_weights_by_the_input(batch: tuple[Tensor, ...]) -> None:
    hidden, matrix, targets, _ = batch
    inputs = torch.cat([torch.tensor([[12], [12]]), targets[:, :-1]], 1)
    mask = torch.ones(2, 7)
    mask[1, 5:] = 0
    logits = hidden @ matrix.T
    loss, parts = released_loss(logits, inputs, targets, mask, VOCABULARY, text_scale=5)
    each = torch.logsumexp(logits, -1) - logits.gather(-1, targets[..., None]).squeeze(-1)
    image = [(r, c) for r in range(2) for c in range(7) if inputs[r, c] < 5 and mask[r, c]]
    text = [(r, c) for r in range(2) for c in range(7) if inputs[r, c] >= 5 and mask[r, c]]
    image_sum, text_sum = (sum(float(each[at]) for at in where) for where in (image, text))
    assert float(loss) == pytest.approx((image_sum + 5 * text_sum) / (len(image) + 5 * len(text)), rel=1e-5)
    assert float(parts["image_loss"]) == pytest.approx(image_sum / len(image), rel=1e-5)
    assert float(parts["text_loss"]) == pytest.approx(text_sum / len(text), rel=1e-5)
