"""EfficientNet-Lite0 against the package that published it, and its importer against foreign files."""

from pathlib import Path

import pytest
import torch

from cogview.errors import CogViewError
from cogview.evaluation.metrics.lite0 import Lite0, import_lite0, local_name


def published() -> torch.nn.Module:
    """The published network with random weights and running statistics."""
    lite = pytest.importorskip("efficientnet_lite_pytorch", reason="comes with cogview[dev]")
    torch.manual_seed(0)
    network: torch.nn.Module = lite.EfficientNet.from_name("efficientnet-lite0").eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def test_the_same_classes_as_the_published_network(tmp_path: Path) -> None:
    network = published()
    torch.save(network.state_dict(), tmp_path / "lite0.pth")
    import_lite0(tmp_path / "lite0.pth", tmp_path / "lite0.safetensors")
    model = Lite0.from_file(tmp_path / "lite0.safetensors")
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = network((images - model.mean) / model.std).softmax(-1)
        features, found = model(images)
    assert features.shape == (1, 1280)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_names_outside_the_network_have_no_place() -> None:
    assert local_name("_blocks.3._bn0.weight") == "blocks.3.expand.1.weight"
    assert local_name("_swish.weight") is None


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    torch.save({"_fc.bias": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CogViewError, match=r"other\.pth: not EfficientNet-Lite0 \(without"):
        import_lite0(tmp_path / "other.pth", tmp_path / "out.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(CogViewError, match="cogview import lite0"):
        Lite0.from_file(tmp_path / "x.safetensors")
