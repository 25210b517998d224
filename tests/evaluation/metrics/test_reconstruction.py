"""Fidelity against closed forms and plain loops; the codebook's use; the sheet."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.image_rows import GAP, sheet
from cogview.evaluation.metrics.reconstruction import (
    ImageArrays,
    codebook_use,
    evaluate_tokenizer,
    fidelity,
    load_images,
    measure,
    reconstruct,
    spread,
    ssim,
    to_pixels,
    to_tensor,
)
from cogview.tokenizers.perceptual import LPIPS
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from tests.evaluation import toy

CONFIG = ImageTokenizerConfig(
    image_size=12, factors=(3, 2), channels=(8, 8), blocks=(1, 1), attention=False, codes=16, code_dim=4
)


def noise(count: int, size: int = 12, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def tokenizer() -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(CONFIG).eval()


def test_psnr_of_a_constant_error() -> None:
    """Errors of 5, 10 and 0 grey levels: 20 log10(255 / error), the exact one counted as 100 dB."""
    originals = np.full((3, 12, 12, 3), 100, np.uint8)
    copies = originals + np.array([5, 10, 0], np.uint8)[:, None, None, None]
    found = fidelity(measure(originals, copies))
    five, ten = (20 * math.log10(255 / error) for error in (5, 10))
    assert found.psnr == pytest.approx((five + ten + 100) / 3)
    assert found.psnr_pooled == pytest.approx(-10 * math.log10((25 + 100) / 3 / 255**2), rel=1e-6)
    assert found.pictures == 3 and found.lpips is None


def reference_ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Wang et al. (2004) for one channel, every window written out."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            both = (window * (p - mp) * (q - mq)).sum()
            values.append(
                (2 * mp * mq + 1e-4) * (2 * both + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
            )
    return float(np.mean(values))


def test_ssim_is_the_papers() -> None:
    a = noise(2, 14).astype(np.float64) / 255
    b = (a + noise(2, 14, seed=1) / 255) / 2
    found = ssim(*(torch.from_numpy(x).permute(0, 3, 1, 2) for x in (a, b)))
    for i in range(2):
        expected = np.mean([reference_ssim(a[i, ..., c], b[i, ..., c]) for c in range(3)])
        assert found[i].item() == pytest.approx(expected, abs=1e-9)


def test_ssim_of_equal_pictures_is_one() -> None:
    image = to_tensor(noise(1))
    assert ssim(image, image).item() == pytest.approx(1.0)


def test_lpips_is_averaged_over_pictures() -> None:
    torch.manual_seed(0)
    network = LPIPS("alexnet", depth=2)
    a, b = noise(5, 32), noise(5, 32, seed=1)
    expected = torch.stack(
        [network(to_tensor(a[i : i + 1]), to_tensor(b[i : i + 1])) for i in range(5)]
    ).mean()
    assert fidelity(measure(a, b, network, batch=2)).lpips == pytest.approx(expected.item(), rel=1e-5)


def test_pixels_survive_the_way_through_tensors() -> None:
    pictures = noise(3)
    assert np.array_equal(to_pixels(to_tensor(pictures)), pictures)
    assert to_pixels(torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1)).tolist() == [[[[0, 128, 255]]]]


def test_codebook_use() -> None:
    even = codebook_use(torch.arange(8).repeat(3).view(3, 8), 16)
    assert (even.used, even.usage, even.tokens) == (8, 0.5, 24)
    assert even.perplexity == pytest.approx(8)
    assert codebook_use(torch.zeros(4, 9, dtype=torch.long), 16).perplexity == pytest.approx(1)
    uneven = codebook_use(torch.tensor([0, 0, 0, 1]), 2)
    assert uneven.perplexity == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_reconstruction_is_decode_of_encode_in_any_batch() -> None:
    model = tokenizer()
    pictures = noise(5)
    copies, codes = reconstruct(model, pictures, batch=2)
    whole = model.encode(to_tensor(pictures))
    assert torch.equal(codes, whole)
    with torch.no_grad():
        expected = np.round(model.decode(whole).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255)
    assert np.abs(copies - expected).max() <= 1 and copies.shape == pictures.shape


def test_report_splits_by_source() -> None:
    pictures = ImageArrays(noise(6), ["b", "a", "a", "b", "a", "a"], {"truncated": 1})
    report, copies = evaluate_tokenizer(tokenizer(), pictures)
    assert {name: own.pictures for name, own in report.by_source.items()} == {"a": 4, "b": 2}
    only = fidelity(measure(pictures.pixels[[0, 3]], copies[[0, 3]]))
    assert report.by_source["b"].psnr == pytest.approx(only.psnr)
    total = (4 * report.by_source["a"].psnr + 2 * report.by_source["b"].psnr) / 6
    assert report.overall.psnr == pytest.approx(total)
    assert report.skipped == {"truncated": 1} and report.codebook.tokens == 6 * 4
    assert report.facts["tokenizer"] == tokenizer().fingerprint


def test_pictures_of_a_split_broken_ones_counted(tmp_path: Path) -> None:
    rows = [{**row, "split": "val" if i % 4 == 0 else "train"} for i, row in enumerate(toy.rows(40))]
    val = rows[::4]
    val[1]["image"] = b""
    corpus = toy.write(tmp_path, rows)
    shape = Preprocessing(size=12, resample="box")
    found = load_images(corpus, "val", shape)
    assert len(found.pixels) == len(val) - 1 and found.skipped == {"not an image": 1}
    assert found.pixels.shape[1:] == (12, 12, 3) and set(found.sources) == {"dice"}
    assert len(load_images(corpus, None, shape).pixels) == 39
    assert len(load_images(corpus, None, shape, limit=7).pixels) == 7
    with pytest.raises(CogViewError, match="no readable image of split 'best'"):
        load_images(corpus, "best", shape)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.integers(1, 40))
def test_spread_takes_turns(sources: list[str], count: int) -> None:
    rows = spread(sources, count)
    assert len(rows) == len(set(rows)) == min(count, len(sources))
    shares = {name: sum(sources[row] == name for row in rows) for name in set(sources)}
    for name, share in shares.items():
        assert share == sources.count(name) or share >= max(shares.values()) - 1


def test_sheet_puts_versions_below_each_other() -> None:
    rows = [noise(3, 4, seed) for seed in (0, 1)]
    page = np.asarray(sheet(rows, columns=2, zoom=2))
    step, band = 8 + GAP, 2 * (8 + GAP) + 2 * GAP
    assert page.shape == (2 * band, 2 * step + GAP, 3)
    for line in (0, 1):
        for i in range(3):
            y, x = GAP + i // 2 * band + line * step, GAP + i % 2 * step
            tile = page[y : y + 8 : 2, x : x + 8 : 2]
            assert np.array_equal(tile, rows[line][i])
    assert Image.fromarray(page).getpixel((step + GAP, band + GAP)) == (255, 255, 255), (
        "nothing beside the last one"
    )
