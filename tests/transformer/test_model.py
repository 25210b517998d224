"""The transformer against formulas written out, its parameter counts, and who can see whom."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cogview.config import validate
from cogview.errors import CogViewError
from cogview.transformer.attention import Causal, Dense, Prefix, ThreeRegion, Visibility
from cogview.transformer.block import released_gelu
from cogview.transformer.model import Transformer, TransformerConfig, shrink_gradient
from tests.transformer.tiny import tiny_config, tiny_model, tokens


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(TransformerConfig.cogview_4b(), 3_928_849_920), (TransformerConfig.cogview2_6b(), 5_902_307_328)],
)
def test_parameters_of_the_papers_models(config: TransformerConfig, parameters: int) -> None:
    with torch.device("meta"):
        assert count(Transformer(config)) == parameters


@pytest.mark.parametrize(("norm", "norms"), [("pre", 2), ("post", 2), ("sandwich", 4)])
def test_parameters_in_closed_form(norm: str, norms: int) -> None:
    h, layers = 24, 2
    layer = 12 * h * h + 13 * h - 4 * h + 2 * h * norms  # matrices and biases, then the norms
    last = 0 if norm == "post" else 2 * h
    assert count(tiny_model(norm=norm)) == (40 + 32) * h + layers * layer + last


def test_initial_values() -> None:
    torch.manual_seed(0)
    config = tiny_config(layers=8, hidden=128, heads=4, vocab_size=500)
    for name, parameter in Transformer(config).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif parameter.dim() == 1:
            assert (parameter == 1).all()
        else:
            residual = name.endswith((".attention.out.weight", ".mlp.down.weight"))
            std = 0.02 / math.sqrt(2 * 8) if residual else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.06)
            assert abs(parameter.mean().item()) < 4 * std / math.sqrt(parameter.numel())


def written_out(model: Transformer, ids: Tensor, positions: Tensor) -> Tensor:
    """The whole forward pass from the figure, one head and one matrix at a time."""
    state, c = dict(model.named_parameters()), model.config

    def norm(name: str, x: Tensor) -> Tensor:
        if f"{name}.weight" not in state:
            return x
        x = x / x.detach().abs().amax(-1, keepdim=True)
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + c.epsilon).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def attention(name: str, x: Tensor) -> Tensor:
        heads = []
        for i in range(c.heads):
            rows = slice(i * c.head_dim, (i + 1) * c.head_dim)
            q, k, v = (part[..., rows] for part in linear(f"{name}.qkv", x).chunk(3, -1))
            scores = q @ k.mT / math.sqrt(c.head_dim)
            scores += torch.full(scores.shape[-2:], -torch.inf).triu(1)
            heads.append(scores.softmax(-1) @ v)
        return linear(f"{name}.out", torch.cat(heads, -1))

    def mlp(name: str, x: Tensor) -> Tensor:
        x = linear(f"{name}.up", x)
        cube = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return linear(f"{name}.down", x / 2 * (1 + cube.tanh()))

    x = state["tokens.weight"][ids] + state["positions.weight"][positions]
    for i in range(c.layers):
        for part, function in (("attention", attention), ("mlp", mlp)):
            name, branch = f"blocks.{i}.{part}", f"blocks.{i}.{part}_branch"
            if c.norm == "post":
                x = norm(f"{branch}.norm_out", x + function(name, x))
            else:
                x = x + norm(f"{branch}.norm_out", function(name, norm(f"{branch}.norm_in", x)))
    return norm("norm", x)


@pytest.mark.parametrize("norm", ["pre", "post", "sandwich"])
@pytest.mark.parametrize("numerics", ["fused", "written", "released"])
def test_forward_is_what_the_figure_says(norm: str, numerics: str) -> None:
    relax = 32.0 if numerics == "written" else None
    model = tiny_model(norm=norm, numerics=numerics, attention_relax=relax).double()
    ids, positions = tokens()
    torch.testing.assert_close(model(ids, positions + 3), written_out(model, ids, positions + 3))


def test_gradients_are_those_of_the_formula() -> None:
    model = tiny_model().double()
    ids, positions = tokens()
    parameters = list(model.parameters())
    results = [
        torch.autograd.grad(hidden.sin().sum(), parameters)
        for hidden in (model(ids, positions), written_out(model, ids, positions))
    ]
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_gradients_by_finite_differences() -> None:
    """Without the relaxed norm, whose maximum is left out of the gradient on purpose."""
    model = tiny_model(layers=1, hidden=4, heads=2, vocab_size=4, max_positions=3, norm_relax="none").double()
    ids, positions = tokens(1, 3, vocab_size=4)
    names = [name for name, _ in model.named_parameters()]

    def run(*values: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(
            model, dict(zip(names, values, strict=True)), (ids, positions)
        )
        return output

    assert torch.autograd.gradcheck(run, tuple(model.parameters()))


def test_shrunken_gradient_keeps_the_value() -> None:
    x = torch.randn(50).half().requires_grad_()
    out = shrink_gradient(x, 0.1)
    assert torch.equal(out, x)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), x)[0], torch.full((50,), 0.1).half())


def test_only_the_input_side_of_the_token_embeddings_is_shrunk() -> None:
    gradients = {}
    ids, positions = tokens()
    for factor in (1.0, 0.1):
        model = tiny_model(embedding_gradient=factor).double()
        hidden = model(ids, positions)
        # through the layers only, then through the tied output matrix only
        inner = torch.autograd.grad(hidden.sin().sum(), list(model.parameters()))
        outer = torch.autograd.grad(model.logits(hidden.detach()).sin().sum(), model.tokens.weight)
        gradients[factor] = inner, outer
    (tokens_1, *rest_1), outer_1 = gradients[1.0]
    (tokens_01, *rest_01), outer_01 = gradients[0.1]
    torch.testing.assert_close(tokens_01, 0.1 * tokens_1)
    torch.testing.assert_close(outer_01, outer_1)
    for a, b in zip(rest_01, rest_1, strict=True):
        torch.testing.assert_close(a, b)


def test_logits_of_some_rows() -> None:
    model = tiny_model()
    hidden = torch.randn(2, 5, 24)
    everything = model.logits(hidden)
    torch.testing.assert_close(everything, hidden @ model.tokens.weight.T)
    torch.testing.assert_close(model.logits(hidden, slice(8, 20)), everything[..., 8:20])


def test_record_gives_the_state_between_layers() -> None:
    model = tiny_model(layers=3)
    ids, positions = tokens()
    record: list[Tensor] = []
    hidden = model(ids, positions, record=record)
    assert len(record) == 4
    torch.testing.assert_close(record[0], model.tokens(ids) + model.positions(positions))
    torch.testing.assert_close(model.norm(record[-1]), hidden)
    for i, block in enumerate(model.blocks):
        torch.testing.assert_close(block(record[i], Causal().view(9, 9)), record[i + 1])


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointing_changes_nothing_but_memory(dropout: float) -> None:
    model = tiny_model(hidden_dropout=dropout, attention_dropout=dropout).train()
    ids, positions = tokens()
    gradients = []
    for checkpointing in (False, True):
        model.checkpointing = checkpointing
        torch.manual_seed(5)
        hidden = model(ids, positions, Prefix(3))
        gradients.append(torch.autograd.grad(hidden.sin().sum(), list(model.parameters())))
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


def test_checkpointing_keeps_only_the_inputs_of_layers() -> None:
    model = tiny_model(layers=4).train()
    ids, positions = tokens()
    kept = {}
    for checkpointing in (False, True):
        model.checkpointing = checkpointing
        sizes: list[int] = []

        def pack(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(0 if isinstance(x, torch.nn.Parameter) else x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(ids, positions)
        kept[checkpointing] = sum(sizes)
    assert kept[True] < 0.2 * kept[False]


def test_dropout_is_for_training_only() -> None:
    model = tiny_model(hidden_dropout=0.5)
    ids, positions = tokens()
    assert torch.equal(model(ids, positions), model(ids, positions))
    model.train()
    assert not torch.equal(model(ids, positions), model(ids, positions))
    share = (model.embed(ids.repeat(20, 1), positions) == 0).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.05)


def test_positions_are_what_is_given() -> None:
    model = tiny_model()
    ids, positions = tokens()
    by_row = torch.stack([positions, positions + 4])
    both = model(ids, by_row)
    for row in range(2):
        torch.testing.assert_close(both[row : row + 1], model(ids[row : row + 1], by_row[row]))
    assert (model(ids, positions)[1] - both[1]).abs().max() > 0.1


PATTERNS: dict[str, Visibility | Tensor | None] = {
    "causal": None,
    "prefix": Prefix(5),
    "prefix by row": Prefix(torch.tensor([2, 6])),
    "mask": (torch.rand(12, 12, generator=torch.Generator().manual_seed(1)) < 0.3) | torch.eye(12).bool(),
    "three regions": ThreeRegion(2, 2, torch.tensor([[0, 3, 4], [1, 2, 6]])),
}


@pytest.mark.parametrize("name", PATTERNS)
@settings(max_examples=12)
@given(changed=st.integers(0, 11), seed=st.integers(0, 99))
def test_a_hidden_token_changes_nothing(name: str, changed: int, seed: int) -> None:
    """One layer: outputs that may not see the changed token stay the same bit for bit, the others change."""
    pattern = PATTERNS[name]
    model = tiny_model(layers=1)
    ids, positions = tokens(2, 12, seed=seed)
    other = ids.clone()
    other[:, changed] = (ids[:, changed] + 1) % 40
    moved = (model(ids, positions, pattern) != model(other, positions, pattern)).any(-1)
    visibility = Causal() if pattern is None else Dense(pattern) if isinstance(pattern, Tensor) else pattern
    sees = visibility.dense_mask(12, 12).expand(2, 1, 12, 12)[:, 0, :, changed]
    assert torch.equal(moved, sees)


@pytest.mark.parametrize("numerics", ["fused", "written", "released"])
@pytest.mark.parametrize("changed", [0, 5, 11])
def test_the_future_is_hidden_through_all_layers(changed: int, numerics: str) -> None:
    model = tiny_model(layers=3, numerics=numerics)
    ids, positions = tokens(2, 12)
    other = ids.clone()
    other[:, changed] = (ids[:, changed] + 1) % 40
    before, after = model(ids, positions), model(other, positions)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert (before[:, changed:] != after[:, changed:]).any(-1).all()


def test_the_rows_of_a_batch_do_not_touch_unless_as_released() -> None:
    ids, positions = tokens(3)
    for relax, independent in (("none", True), ("token", True), ("tensor", False)):
        model = tiny_model(norm_relax=relax, scale=1.0)
        together = model(ids, positions)[0]
        assert (
            torch.equal(together, model(torch.stack([ids[0], ids[0], ids[0]]), positions)[0]) is independent
        )


def test_half_precision_runs_and_stays_near() -> None:
    model = tiny_model()
    ids, positions = tokens()
    exact = model(ids, positions)
    for dtype, tolerance in ((torch.float16, 0.05), (torch.bfloat16, 0.3)):
        out = model.to(dtype)(ids, positions)
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), exact, rtol=0, atol=tolerance)
        model = tiny_model()


def test_sandwich_keeps_the_main_branch_small_where_pre_does_not() -> None:
    """Figure 4: large weights blow up the residual branch of Pre-LN, not that of Sandwich-LN."""
    ids, positions = tokens()
    largest = {}
    for norm in ("pre", "sandwich"):
        record: list[Tensor] = []
        model = tiny_model(norm=norm, layers=6)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("mlp.down.weight"):
                    parameter.mul_(1e4)
        model(ids, positions, record=record)
        largest[norm] = record[-1].abs().max().item()
    assert largest["sandwich"] < 100 < 1e4 < largest["pre"]


def test_released_gelu_is_the_tanh_form() -> None:
    x = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(released_gelu(x), F.gelu(x, approximate="tanh"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 5}, "hidden 24 must be a multiple of heads 5"),
        ({"layers": 0}, "layers"),
        ({"norm": "middle"}, "norm"),
        ({"attention_relax": 0}, "attention_relax"),
        ({"hidden_dropout": 1.0}, "hidden_dropout"),
        ({"width": 3}, "width: no such key"),
    ],
)
def test_configurations_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CogViewError, match=message):
        validate(TransformerConfig, tiny_config().model_dump() | wrong, "model.yaml")
