"""LPIPS: reading weights safely, and the properties of a distance."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from cogview.errors import CogViewError
from cogview.importers.lpips import import_lpips
from cogview.tokenizers.perceptual import LPIPS, SMALLEST, Network


def pickled_alexnet(path: Path) -> LPIPS:
    """Random AlexNet weights in the layout of the published pickle; returns the network they make."""
    torch.manual_seed(0)
    model = LPIPS("alexnet")
    with torch.no_grad():
        for head in model.heads:
            head.uniform_()
    body, heads, i = {}, {}, 0
    for group in model.groups:
        for module in group:
            if isinstance(module, torch.nn.Conv2d):
                kernel = module.weight.detach().numpy().transpose(2, 3, 1, 0).copy()
                body[f"Conv_{i}"] = {"kernel": kernel, "bias": module.bias.detach().numpy()}
                i += 1
    for i, head in enumerate(model.heads):
        heads[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": head.detach().numpy().reshape(1, 1, -1, 1)}}
    path.write_bytes(pickle.dumps({"AlexNet_0": body, **heads}))
    return model.eval()


def test_import_keeps_every_distance(tmp_path: Path) -> None:
    source = pickled_alexnet(tmp_path / "alexnet.ckpt")
    import_lpips(tmp_path / "alexnet.ckpt", tmp_path / "a.safetensors", "alexnet")
    model = LPIPS.from_file(tmp_path / "a.safetensors", "alexnet")
    a, b = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    assert torch.equal(model(a, b), source(a, b))
    assert torch.equal(model(a, a), torch.zeros(2))
    assert bool((model(a, b) > 0).all())
    torch.testing.assert_close(model(a, b), model(b, a))


def test_distance_by_hand(tmp_path: Path) -> None:
    """Sum over groups of the mean over positions of head-weighted squared differences of unit vectors."""
    model = pickled_alexnet(tmp_path / "x")
    a, b = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    total = 0.0
    xa, xb = ((v * 2 - 1 - model.shift) / model.scale for v in (a, b))
    for group, head in zip(model.groups, model.heads, strict=True):
        xa, xb = group(xa), group(xb)
        na, nb = xa / (xa.norm(dim=1, keepdim=True) + 1e-12), xb / (xb.norm(dim=1, keepdim=True) + 1e-12)
        total += float(((na - nb) ** 2 * head[None, :, None, None]).sum(1).mean())
    assert float(model(a, b)) == pytest.approx(total, rel=1e-4)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never run",)


@pytest.mark.parametrize("content", [pickle.dumps(Trap()), b"not a pickle", pickle.dumps([np.zeros(2)])])
def test_what_is_not_weights_is_refused(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(CogViewError, match=r"x\.ckpt"):
        import_lpips(tmp_path / "x.ckpt", tmp_path / "out.safetensors", "vgg16")
    assert "never run" not in capsys.readouterr().out


def test_another_network_is_named(tmp_path: Path) -> None:
    pickled_alexnet(tmp_path / "alexnet.ckpt")
    with pytest.raises(CogViewError, match="vgg16"):
        import_lpips(tmp_path / "alexnet.ckpt", tmp_path / "out.safetensors", "vgg16")


def test_the_command_line_imports_and_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cogview.cli.app import main

    pickled_alexnet(tmp_path / "alexnet.ckpt")
    source, out = str(tmp_path / "alexnet.ckpt"), str(tmp_path / "a.safetensors")
    command = ["import", "lpips", source, out, "--network"]
    assert main([*command, "alexnet"]) == 0
    LPIPS.from_file(tmp_path / "a.safetensors", "alexnet")
    assert main([*command, "vgg16"]) == 2
    said = capsys.readouterr().err
    assert "does not hold vgg16 weights" in " ".join(said.split())


@pytest.mark.parametrize("network", ["vgg16", "alexnet"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_pictures_too_small_for_the_network_are_refused(network: Network, depth: int) -> None:
    smallest = SMALLEST[network][depth - 1]
    lpips, picture = LPIPS(network, depth), torch.rand(1, 3, smallest, smallest)
    assert float(lpips(picture, picture)) == 0
    if network == "alexnet" or depth > 1:
        with pytest.raises(RuntimeError):  # what the refusal stands before
            lpips.features(picture[..., 1:])
    with pytest.raises(CogViewError, match=f"at least {smallest} pixels"):
        lpips(picture[..., 1:], picture[..., 1:])
