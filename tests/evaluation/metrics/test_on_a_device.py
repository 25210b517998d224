"""Networks that judge pictures, on a GPU, pretended where there is none: what they say on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cogview.evaluation.metrics.fid import open_extractor
from cogview.evaluation.metrics.inception import Inception
from cogview.evaluation.metrics.lite0 import Lite0
from cogview.evaluation.metrics.reconstruction import ImageArrays, evaluate_tokenizer
from cogview.tokenizers.perceptual import LPIPS
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from tests.pretended import any_cuda

pytestmark = pytest.mark.cuda
CONFIG = ImageTokenizerConfig(
    image_size=16, factors=(2, 2), channels=(8, 8), blocks=(0, 0), attention=False, codes=16, code_dim=4
)


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)


def test_reconstructions() -> None:
    pictures, parts = (
        ImageArrays(noise(16), ["a", "a", "b"], {}),
        (ImageTokenizer(CONFIG).eval(), LPIPS().eval()),
    )
    expected, copies = evaluate_tokenizer(parts[0], pictures, parts[1])
    with any_cuda():
        found, images = evaluate_tokenizer(parts[0].to("cuda"), pictures, parts[1].to("cuda"))
    assert np.abs(images.astype(int) - copies).max() <= 1 and found.codebook == expected.codebook
    assert found.overall.lpips == pytest.approx(expected.overall.lpips, rel=1e-3)
    assert found.overall.psnr == pytest.approx(expected.overall.psnr, rel=1e-3)


@pytest.mark.parametrize("network", [Lite0, pytest.param(Inception, marks=pytest.mark.slow)])
def test_features(network: type[Lite0] | type[Inception], tmp_path: Path) -> None:
    torch.manual_seed(0)
    counted = network is Lite0  # the one file has the counters of norms, the other has not
    state = {name: x for name, x in network().state_dict().items() if counted or "num_batches" not in name}
    save_file(state, tmp_path / "weights.safetensors")
    extractor = open_extractor(tmp_path / "weights.safetensors", 80)
    pictures = noise(extractor.size)
    expected = extractor(pictures)
    with any_cuda():
        found = open_extractor(tmp_path / "weights.safetensors", 80, device="cuda")(pictures)
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-5)
