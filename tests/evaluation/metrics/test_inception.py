"""FID's Inception: known sizes, resizing in closed form, torch-fidelity where it is, foreign files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.evaluation.metrics.fid import Lite0Extractor, open_extractor
from cogview.evaluation.metrics.inception import (
    BLOCKS,
    Branch,
    Inception,
    InceptionExtractor,
    Mixed,
    import_inception,
    prepare,
)
from cogview.evaluation.metrics.lite0 import Lite0


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the published layout with random weights, every norm having something to do."""
    torch.manual_seed(0)
    state = {k: v for k, v in Inception().state_dict().items() if not k.endswith("num_batches_tracked")}
    for name, value in state.items():
        if name.endswith(("running_mean", "bn.bias")):
            value.normal_(0, 0.05)
        elif name.endswith("running_var"):
            value.uniform_(0.02, 0.06)
    path = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def imported(published: Path) -> Path:
    out = published.with_suffix(".safetensors")
    assert not import_inception(published, out)  # not the published weights, and it says so
    return out


def test_it_has_the_published_number_of_parameters_and_widths() -> None:
    """torchvision's Inception v3 has 23,834,568 without its auxiliary head; 8 classes more are 16,392."""
    with torch.device("meta"):
        model = Inception()
        assert sum(p.numel() for p in model.parameters()) == 23_834_568 + 8 * 2049
        x, shapes = torch.empty(1, 192, 35, 35), []
        for name in BLOCKS:
            x = model.get_submodule(name)(x)
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [
        *[(256, 35, 35), (288, 35, 35), (288, 35, 35)],
        *[(768, 17, 17)] * 5,
        *[(1280, 8, 8), (2048, 8, 8), (2048, 8, 8)],
    ]


def test_mean_pooling_does_not_count_the_border() -> None:
    ones = torch.ones(1, 1, 4, 4)
    assert torch.equal(Mixed(1, (Branch((), pool="mean"),))(ones), ones)


def test_resizing_in_closed_form() -> None:
    """A ramp stays a ramp: from i * in / out in TensorFlow, from pixel centres in PyTorch."""
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[None, :, None], (1, 100, 100, 3)).copy()
    at = np.arange(299) * 100 / 299
    found = prepare(ramp, "tensorflow")[0, 1, 50].double().numpy()
    np.testing.assert_allclose(found, (np.minimum(at, 99) - 128) / 128, atol=1e-6)
    centres = np.clip((np.arange(299) + 0.5) * 100 / 299 - 0.5, 0, 99)
    found = prepare(ramp, "pytorch-fid")[0, 2, 7].double().numpy()
    np.testing.assert_allclose(found, centres / 127.5 - 1, atol=1e-6)
    whole = np.full((1, 299, 299, 3), 255, dtype=np.uint8)
    assert torch.equal(prepare(whole, "tensorflow"), torch.full((1, 3, 299, 299), 127 / 128))
    assert torch.equal(prepare(whole, "pytorch-fid"), torch.ones(1, 3, 299, 299))


def test_features_and_classes(imported: Path) -> None:
    extractor = open_extractor(imported, 64)
    assert isinstance(extractor, InceptionExtractor) and (extractor.name, extractor.size) == ("Inception", 64)
    pictures = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    features, probabilities = extractor(pictures)
    assert features.shape == (1, 2048) and probabilities.shape == (1, 1008)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5) and features.min() >= 0 < features.std()
    other = open_extractor(imported, 64, "tensorflow")
    assert other.name == "Inception-tensorflow" and not np.allclose(other(pictures)[0], features, rtol=1e-4)
    with pytest.raises(CogViewError, match="there are pytorch-fid, tensorflow"):
        open_extractor(imported, 64, "clean")


def test_the_same_digits_as_torch_fidelity(published: Path, imported: Path) -> None:
    """Weights and pictures of chance; TensorFlow's way of resizing is theirs."""
    theirs = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="pip install torch-fidelity"
    )
    names = ["2048", "logits_unbiased"]
    reference = theirs.FeatureExtractorInceptionV3("x", names, feature_extractor_weights_path=str(published))
    pictures = np.random.default_rng(0).integers(0, 256, (1, 80, 80, 3), dtype=np.uint8)
    features, logits = reference(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    found, probabilities = InceptionExtractor(imported, 80, "tensorflow")(pictures)
    np.testing.assert_allclose(found, features.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(probabilities, logits.softmax(-1).numpy(), rtol=1e-4, atol=1e-8)


def test_foreign_files_are_refused_in_one_line(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(published, weights_only=True)
    cases = {
        "vision": (
            {**state, "AuxLogits.fc.bias": torch.zeros(1)},
            "it has AuxLogits.fc.bias, as torchvision's",
        ),
        "short": (
            {k: v for k, v in state.items() if k != "Mixed_6c.branch1x1.bn.weight"},
            "no Mixed_6c.branch1x1",
        ),
        "thousand": ({**state, "fc.bias": torch.zeros(1000)}, "fc.bias is (1000,), not (1008,)"),
        "other": ({"a": torch.zeros(1)}, "it has no Conv2d_1a_3x3.conv.weight"),
    }
    for name, (content, said) in cases.items():
        torch.save(content, tmp_path / f"{name}.pth")
        assert main(["import", "inception", str(tmp_path / f"{name}.pth"), str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(CogViewError, match=r"cannot be read|damaged"):
        open_extractor(tmp_path / "x.safetensors")


def test_a_file_is_known_by_its_weights(tmp_path: Path) -> None:
    save_file(Lite0().state_dict(), tmp_path / "lite0.safetensors")
    assert isinstance(open_extractor(tmp_path / "lite0.safetensors"), Lite0Extractor)
    save_file({"fc.weight": torch.zeros(3)}, tmp_path / "resnet.safetensors")
    with pytest.raises(CogViewError, match="not the Inception network of FID"):
        open_extractor(tmp_path / "resnet.safetensors")
