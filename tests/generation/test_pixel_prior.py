"""What pixels say of codes: densities against their formula, and their weight in what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cogview import CogView
from cogview.generation import image_upscaling
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.loop import SequenceRequest
from cogview.generation.pixel_prior import WIDTH, PixelPrior, neighbour_distance
from cogview.types import SamplingParams
from tests.generation import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CogView:
    return CogView.from_pretrained(tiny.write(tmp_path_factory.mktemp("family"), upscaling=True))


def pixels(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(seed))


def enlarged(small: torch.Tensor, times: int) -> torch.Tensor:
    return F.interpolate(small[None], scale_factor=times, mode="bicubic").clamp(0, 1)


def test_neighbours_by_brute_force(model: CogView) -> None:
    quantizer = model.image_tokenizer.quantizer
    book = quantizer.codebook.double()
    distances = ((book[:, None] - book[None]) ** 2).sum(-1)
    nearest = distances.fill_diagonal_(torch.inf).min(1).values
    assert neighbour_distance(quantizer) == pytest.approx(float(nearest.median()), rel=1e-4)


def test_densities_by_their_formula(model: CogView) -> None:
    small, slope = pixels(), 3.0
    images = model.image_tokenizer
    vectors = images.features(enlarged(small, 2))[0].detach()
    found = PixelPrior(images).likelihood(small, 2, slope).part(1, 2, 3, 2)
    rows = [(1, 2), (1, 3), (2, 2), (2, 3), (3, 2), (3, 3)]
    for place, (row, column) in enumerate(rows):
        distances = ((images.quantizer.codebook - vectors[row, column]) ** 2).sum(1)
        expected = -slope * (distances + WIDTH * neighbour_distance(images.quantizer)).log()
        torch.testing.assert_close(found(place), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("times", [2, 4])
def test_an_overwhelming_likelihood_gives_the_codes_of_the_enlargement(
    model: CogView, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(image_upscaling, "KNOWN", 1e6)
    upscaler = model.super_resolution.upscaler
    image = Image.fromarray((pixels(3) * 255).byte().permute(1, 2, 0).numpy())
    original = upscaler.read(image, times)
    assert original.pixels is not None
    request = image_upscaling.Request(original, (), 5, 0)
    drawn = {
        faithful: next(iter(upscaler.run([request], times, SamplingParams(), faithful)))[1]
        for faithful in (True, False)
    }
    expected = (
        model.image_tokenizer.encode(enlarged(original.pixels, times))[0].reshape(drawn[True].shape).numpy()
    )
    np.testing.assert_array_equal(drawn[True], expected)
    assert (drawn[False] != expected).mean() > 0.5


def test_a_picture_of_codes_alone_is_its_own_prior(model: CogView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_upscaling, "DECODED", 1e6)
    upscaler, codes = model.super_resolution.upscaler, np.arange(16).reshape(4, 4) % tiny.CODES
    request = image_upscaling.Request(image_upscaling.Original(codes), (), 5, 0)
    _, drawn, image = next(iter(upscaler.run([request], 2, SamplingParams())))
    painted = (
        model.image_tokenizer.decode(torch.from_numpy(codes.reshape(1, -1)), (4, 4)).detach().clamp(0, 1)
    )
    expected = model.image_tokenizer.encode(enlarged(painted[0], 2))[0].reshape(8, 8).numpy()
    np.testing.assert_array_equal(drawn, expected)
    free = model.image_tokenizer.decode(torch.from_numpy(expected.reshape(1, -1)), (8, 8))[0].detach()
    shown = (free.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(
        np.asarray(image), shown
    )  # not corrected: there is nothing to be faithful to


def test_the_engine_multiplies_probabilities() -> None:
    """One of two jobs in a batch knows its tokens; the other is as if it were alone."""
    prompt = tiny.form("fixed").image_prompt(tiny.text_tokenizer().encode("a red circle"))
    wanted = torch.arange(len(prompt.decode_positions)) * 7 % tiny.CODES
    sure = 1e4 * F.one_hot(wanted, tiny.CODES).float()
    engine = Engine(pack(tiny.transformer(), slice(0, tiny.CODES)))
    told = SequenceRequest(prompt, 1, 0, likelihoods=lambda i: sure[i])
    both = dict(engine.generate([told, SequenceRequest(prompt, 1, 1)], SamplingParams()))
    alone = dict(engine.generate([SequenceRequest(prompt, 1, 1)], SamplingParams()))
    np.testing.assert_array_equal(both[0], wanted.numpy())
    np.testing.assert_array_equal(both[1], alone[0])
    assert (both[1] != both[0]).any()
