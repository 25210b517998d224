"""On a GPU: every task in three precisions, training, FlexAttention's kernels, and decoding as CUDA graphs.

Without one these are skipped, and ``test_on_a_device.py`` in pipelines, training and judges shows that
devices are right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.loop import SequenceRequest
from cogview.pipelines.model import Pipeline
from cogview.transformer.attention import CrossResolution, Local, ThreeRegion, Visibility, Window
from cogview.transformer.attention.flex_dropout import keep_mask, sample_seeds
from cogview.types import SamplingParams
from tests.generation import tiny, tiny2
from tests.generation.engines import CODES, prompts
from tests.training import runs
from tests.transformer.test_flex_dropout import with_slopes, written

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
CUDA = "cuda"


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("families")
    return [
        tiny.write(folder / "one", upscaling=True, captioning=True),
        tiny2.write(folder / "two", enlarging=True),
    ]


def test_images_are_those_of_the_cpu(families: list[Path]) -> None:
    """In fp32 all but a near-tie."""
    for family in families:
        found = [
            np.stack([one.codes for one in model.generate("a red circle", n=8, seed=7)])
            for model in (Pipeline.from_pretrained(family, device=device) for device in ("cpu", CUDA))
        ]
        assert (found[0] != found[1]).any(1).sum() <= 1


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_task_runs(families: list[Path], precision: Any) -> None:
    for family in families:
        model = Pipeline.from_pretrained(family, device=CUDA, precision=precision)
        picture = model.generate("a red circle", n=2, seed=7)[0].image
        assert model.caption([picture], beams=2)[0]
        assert np.isfinite(model.score([picture], ["a red circle"])).all()
        assert model.upscale(picture.resize((16, 16)), "a red circle", seed=1)
        if "edit" in model.capabilities:
            assert model.edit(picture.resize((16, 16)), "a blue square", boxes=[(0, 0, 8, 8)], seed=1)


@pytest.mark.parametrize("guided", [False, True])
def test_graphs_give_the_tokens_of_the_cpu(guided: bool) -> None:
    texts = prompts()
    jobs = [SequenceRequest(texts[i], 7, i, texts[2] if guided else None) for i in range(4)]
    params = SamplingParams(top_k=30, guidance=2.0 if guided else 1.0)
    found = []
    for device in ("cpu", CUDA):
        engine = Engine(pack(tiny.transformer().to(device), CODES))
        tokens = dict(engine.generate(jobs, params))
        found.append(np.stack([tokens[i] for i in range(4)]))
    assert (found[0] != found[1]).any(1).sum() <= 1


def patterns() -> dict[str, tuple[Visibility, int]]:
    pivots = torch.rand(2, 640).topk(100, -1).indices.sort(-1).values
    local = Local((24, 24), Window(9, 9, causal=True))
    cross = CrossResolution(16, (8, 8), (24, 24), Window(9, 9), Window(5, 5), torch.tensor([3, 0]))
    return {
        "three regions": (ThreeRegion(64, 2, pivots), 640),
        "local": (local, local.length),
        "two resolutions": (cross, cross.length),
    }


@pytest.mark.parametrize("chance", [0.0, 0.3])
@pytest.mark.parametrize("name", ["three regions", "local", "two resolutions"])
def test_flex_attention_forward_and_backward(name: str, chance: float) -> None:
    """In float32 against attention written out in float64, with the same mask of dropout."""
    pytest.importorskip("triton")
    pattern, length = patterns()[name]
    tensors = [torch.randn(2, 2, length, 16, device=CUDA).requires_grad_() for _ in range(3)]
    kernel = pattern.view(length, length, torch.device(CUDA)).kernel
    assert kernel is not None
    torch.manual_seed(3)
    found = with_slopes(kernel(*tensors, chance), tensors)
    torch.manual_seed(3)
    seeds = sample_seeds(tensors[0]).cpu() if chance else torch.zeros(2, 2, dtype=torch.int32)
    index = torch.meshgrid(*(torch.arange(n) for n in (2, 2, length, length)), indexing="ij")
    exact = [x.detach().double().cpu().requires_grad_() for x in tensors]
    expected = with_slopes(written(pattern, exact, keep_mask(seeds, chance)(*index), chance), exact)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got.double().cpu(), wanted, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_training_step_in_every_precision(precision: str, tmp_path: Path) -> None:
    """Of every task in float32: ``test_on_a_device.py`` in training and judges."""
    data = runs.write_data(tmp_path, runs.caption, runs.VOCABULARY, "1" * 16, "2" * 64)
    changes: dict[str, Any] = {"steps": 2, "device": CUDA, "precision": precision, "batch_size": 4}
    changes["intervals"] = {"log": 1, "evaluate": 2, "sample": 0, "checkpoint": 2}
    lines = runs.fit(runs.recipe(data, **changes), tmp_path / "run")
    assert all(np.isfinite(line["loss"]) for line in lines if line["kind"] == "train")
