"""The pretended device refuses what a GPU refuses, and computes what a CPU computes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.pretended import is_there, pretended_cuda


def test_two_devices_are_refused_and_one_is_computed() -> None:
    with pretended_cuda():
        there, here = torch.arange(6.0, device="cuda").view(2, 3), torch.ones(2, 3)
        assert there.is_cuda and there.device.type == "cuda" and not here.is_cuda
        for wrong in (lambda: there + here, lambda: torch.cat([there, here]), lambda: F.linear(there, here)):
            with pytest.raises(RuntimeError, match="same device"):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="indices"):
            here[torch.zeros(1, dtype=torch.int64, device="cuda")]
        total = (there[torch.tensor([1])] * 2 + torch.tensor(1.0)).sum()
        assert total.is_cuda and total.item() == 27
        assert nn.Parameter(there).is_cuda
        assert torch.equal(there.cpu(), torch.arange(6.0).view(2, 3)) and not there.cpu().is_cuda


def test_moving_makes_a_copy_and_leaves_the_original() -> None:
    with pretended_cuda():
        here = torch.zeros(3)
        there = here.to("cuda")
        there += 1
        assert there.is_cuda and not here.is_cuda and here.sum() == 0
        assert there.to("cpu", torch.float64).device.type == "cpu"
        assert there.new_zeros(2).is_cuda and torch.empty_like(there).is_cuda
        assert here.to(there).is_cuda and not there.to(here).is_cuda


def test_views_and_operations_in_place_stay_on_the_device() -> None:
    with pretended_cuda():
        x = torch.zeros(3, 4, device="cuda")
        x[1, 2:] = 5
        x.T[0].add_(1)
        x.copy_(torch.where(x > 4, x, x - 1))
        assert x.tolist() == [[0, -1, -1, -1], [0, -1, 5, 5], [0, -1, -1, -1]]


def test_waiting_is_counted() -> None:
    with pretended_cuda() as device:
        x = torch.ones(2, device="cuda").cumsum(0)
        assert device.waits == 0
        assert (x.sum().item(), x.tolist(), float(x.cpu()[0])) == (3, [1, 2], 1)
        assert device.waits == 3


def test_a_module_is_moved_and_learns_there() -> None:
    def slope(device: str) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(16, 2)).to(device)
        model(torch.ones(1, 3, 4, 4, device=device)).square().sum().backward()
        gradient = model[0].weight.grad
        assert gradient is not None and gradient.device.type == device
        torch.optim.AdamW(model.parameters(), 0.1).step()
        return model[0].weight.detach().cpu()

    with pretended_cuda():
        found = slope("cuda")
        with pytest.raises(RuntimeError, match="same device"):
            nn.Linear(2, 2).to("cuda")(torch.ones(1, 2))
    assert torch.equal(found, slope("cpu")) and not is_there(found)
