"""Direct and iterative super-resolution: any batch size gives the same pictures, and none is lost."""

import functools
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from cogview.errors import CogViewError
from cogview.generation.hierarchical import Upscaler, direct_super_resolution, iterative_super_resolution
from cogview.sequences.super_resolution import DirectFormat, Inputs, IterativeFormat, upscaler_config
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams
from cogview.vocabulary import COGVIEW2_CONTROLS, Vocabulary

VOCABULARY = Vocabulary(image_codes=30, text_pieces=20, controls=COGVIEW2_CONTROLS, multiple=1)
BASE = TransformerConfig(
    layers=2,
    hidden=32,
    heads=2,
    vocab_size=VOCABULARY.padded_size,
    max_positions=12,
    norm_relax="none",
)
DIRECT = DirectFormat(
    vocabulary=VOCABULARY,
    text_slots=5,
    small=(2, 3),
    grid=(6, 9),
    window=(3, 5),
    across=(3, 3),
    image_start=5,
    first_position=12,
)
ITERATIVE = IterativeFormat(
    vocabulary=VOCABULARY, text_slots=3, grid=(6, 9), window=(5, 3), first_position=12
)
TEXTS: list[list[int]] = [[1, 2, 3], [], [4, 5, 6, 7], [8], [9, 10]]


def transformer(form: DirectFormat | IterativeFormat) -> Transformer:
    torch.manual_seed(3)
    model = Transformer(upscaler_config(BASE, form)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
    return model


@functools.cache
def direct() -> Upscaler[DirectFormat]:
    return Upscaler(transformer(DIRECT), DIRECT)


@functools.cache
def iterative() -> Upscaler[IterativeFormat]:
    return Upscaler(transformer(ITERATIVE), ITERATIVE)


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(30, (5, count), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize("make", [direct, iterative])
def test_layers_in_half_precision_err_by_its_digits(
    make: Callable[[], Upscaler[Any]], precision: Any, dtype: torch.dtype
) -> None:
    whole = make()
    model = deepcopy(whole.transformer)
    for name, parameter in model.named_parameters():
        if name.startswith("blocks.") and "norm" not in name:
            parameter.data = parameter.to(dtype)
    light = Upscaler(model, whole.format, precision=precision)
    small = pictures(6 if make is direct else 54)
    hidden = [] if make is direct else [torch.ones(5, 54, dtype=torch.bool)]
    with torch.inference_mode():
        made = whole.format.inputs(TEXTS, small, *hidden)
        exact, found = (each.head(each.states(made)) for each in (whole, light))
    error = (found - exact).norm() / exact.norm()
    assert found.dtype == torch.float32 and 0 < error < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_batches_do_not_change_pictures(size: int) -> None:
    """Five pictures with batches of 2 leave one, which the release lost."""
    small, large = pictures(6), pictures(54)
    together = direct_super_resolution(direct(), TEXTS, small, batch_size=5)
    assert together.shape == (5, 54) and together.dtype == np.int64
    assert np.array_equal(together, direct_super_resolution(direct(), TEXTS, small, batch_size=size))
    again = iterative_super_resolution(iterative(), TEXTS, large, batch_size=5)
    assert np.array_equal(again, iterative_super_resolution(iterative(), TEXTS, large, batch_size=size))


def test_chance_is_the_pairs_own() -> None:
    small = pictures(6)[:1].expand(3, -1)
    drawn = direct_super_resolution(direct(), [[]] * 3, small, pairs=[(1, 0), (2, 0), (1, 0)])
    assert np.array_equal(drawn[0], drawn[2]) and not np.array_equal(drawn[0], drawn[1])


def test_codes_are_the_models_likeliest_with_top_k_of_one() -> None:
    """Against the plain forward, so that places, rows and positions are the right ones."""
    small = pictures(6)
    made = DIRECT.inputs(TEXTS, small)
    model = direct().transformer
    with torch.no_grad():
        hidden = model(made.ids, made.positions, made.visibility.dense_mask(65, 65))
        expected = model.logits(hidden[:, 11:], slice(0, 30)).argmax(-1)
    drawn = direct_super_resolution(direct(), TEXTS, small, settings=SamplingParams(top_k=1))
    assert np.array_equal(drawn, expected.numpy())


def test_the_text_reaches_large_pictures() -> None:
    """Iterative: directly; direct: through the small picture."""
    other: list[list[int]] = [[7], *TEXTS[1:]]
    first, second = (direct_super_resolution(direct(), texts, pictures(6)) for texts in (TEXTS, other))
    assert (first != second).any(1).tolist() == [True, False, False, False, False]
    first, second = (iterative_super_resolution(iterative(), texts, pictures(54)) for texts in (TEXTS, other))
    assert (first != second).any(1).tolist() == [True, False, False, False, False]


def test_clusters_are_kept_whole() -> None:
    """With one cluster kept, every code is of the cluster that is likeliest as a whole."""
    labels = torch.arange(30) // 10
    model = Upscaler(direct().transformer, DIRECT, labels)
    drawn = direct_super_resolution(model, TEXTS, pictures(6), settings=SamplingParams(clusters=1))
    for row, small, text in zip(drawn, pictures(6), TEXTS, strict=True):
        made = DIRECT.inputs([text], small[None])
        with torch.no_grad():
            chances = model.head(model.states(made)[0]).softmax(-1)
        best = torch.stack([chances[:, labels == label].sum(1) for label in range(3)], 1).argmax(1)
        assert torch.equal(labels[torch.from_numpy(row)], best)


def test_six_turns_keep_what_the_order_keeps() -> None:
    large = pictures(54)
    calls: list[Any] = []
    drawn = iterative_super_resolution(
        iterative(), TEXTS, large, batch_size=2, progress=lambda *x: calls.append(x)
    )
    assert (drawn.reshape(5, 6, 9)[:, 0, :2] == large.view(5, 6, 9)[:, 0, :2].numpy()).all()
    assert (drawn.reshape(5, 6, 9)[:, 1, :2] == large.view(5, 6, 9)[:, 1, :2].numpy()).all()
    assert calls == [(i + 1, 18) for i in range(18)]
    assert 0.4 < (drawn != large.numpy()).mean() < 0.64


def test_a_region_confines_it() -> None:
    large, region = pictures(54), torch.zeros(5, 6, 9, dtype=torch.bool)
    region[:, 2:5, 3:7] = True
    drawn = iterative_super_resolution(
        iterative(), TEXTS, large.view(5, 6, 9), region=region, order="diagonal"
    )
    outside = ~region.view(5, -1).numpy()
    assert (drawn[outside] == large.numpy()[outside]).all()
    assert (drawn[~outside] != large.numpy()[~outside]).mean() > 0.8


def test_nothing_is_enlarged_to_nothing() -> None:
    assert direct_super_resolution(direct(), [], np.zeros((0, 6))).shape == (0, 54)


def test_what_does_not_fit_is_told_in_a_line() -> None:
    with pytest.raises(CogViewError, match="5 tokens and direct super-resolution takes 4"):
        direct_super_resolution(direct(), [[1] * 5], pictures(6)[:1])
    with pytest.raises(CogViewError, match="an image has 5 codes, this model takes 6"):
        direct_super_resolution(direct(), [[]], pictures(5)[:1])
    with pytest.raises(CogViewError, match="2 texts and 1 seeds for 1 images"):
        direct_super_resolution(direct(), [[], []], pictures(6)[:1])
    with pytest.raises(CogViewError, match="outside the vocabulary's 30"):
        iterative_super_resolution(iterative(), [[]], np.full((1, 54), 30))
    with pytest.raises(CogViewError, match="outside the vocabulary's 20"):
        iterative_super_resolution(iterative(), [[20]], np.zeros((1, 54)))
    with pytest.raises(CogViewError, match="begins at 12"):
        upscaler_config(BASE.model_copy(update={"max_positions": 14}), DIRECT)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for two pictures, five are drawn two at a time, and are the same; with none, that is said."""
    large, calls = pictures(54), list[tuple[int, int]]()
    expected = iterative_super_resolution(iterative(), TEXTS, large, batch_size=1)
    whole, seen = Upscaler.states, list[int]()

    def states(self: Upscaler[IterativeFormat], made: Inputs, room: int = 2) -> torch.Tensor:
        if len(made.ids) > room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        seen.append(len(made.ids))
        return whole(self, made)

    monkeypatch.setattr(Upscaler, "states", states)
    drawn = iterative_super_resolution(
        iterative(), TEXTS, large, batch_size=5, progress=lambda *x: calls.append(x)
    )
    assert np.array_equal(drawn, expected)
    assert seen == [2] * 12 + [1] * 6 and calls[-1] == (18, 18)
    monkeypatch.setattr(Upscaler, "states", lambda self, made: states(self, made, 0))
    with pytest.raises(CogViewError, match=r"one at a time; .*--first-stage-only"):
        iterative_super_resolution(iterative(), TEXTS, large)
    monkeypatch.setattr(Upscaler, "states", lambda self, made: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        iterative_super_resolution(iterative(), TEXTS, large)
