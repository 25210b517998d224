"""A CUDA device that is pretended: tensors say that they are on it, their numbers are on the CPU.

``FakeTensorMode`` knows shapes and devices but no numbers, so that nothing that looks at a number runs under
it, and sampling does; and where PyTorch was built without CUDA it can neither move a module nor go backward.
Here a mode sees every call of PyTorch's functions, checks the devices of the arguments and computes on the
CPU. What a GPU would refuse is refused: a call with tensors of two devices (but for what PyTorch allows:
single numbers, index tensors, copies), and ``numpy()``. It counts how often the host waits for the device.
The backward pass is computed without checks: its devices follow from those of the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree

CUDA = torch.device("cuda", 0)
DEVICE, IS_CUDA = Tensor.device.__get__, Tensor.is_cuda.__get__  # type: ignore[attr-defined]
SET_DATA, SET_GRAD = Tensor.data.__set__, Tensor.grad.__set__  # type: ignore[attr-defined]
MAKE_SUBCLASS = Tensor._make_subclass
WAITS = {
    "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "nonzero", "equal", "cpu",
    "allclose", "unique", "masked_select",
}  # fmt: skip
INDEXING = {"__getitem__", "__setitem__", "index_put_", "index_put"}
COPIES = {
    "copy_",
    "to",
    "type_as",
    "set_data",
    "__set__",
    "__get__",
    "backward",
    "grad",
    "new_tensor",
    "swap_tensors",
    "_has_compatible_shallow_copy_type",
}
BACKWARD = {"backward", "grad"}


def is_there(x: Any) -> bool:
    """Whether a tensor is on the device."""
    return getattr(x, "_there", False) is True


class Pretended(TorchFunctionMode):
    """Within, tensors can be made on the device and moved to it. waits: how often the host waited for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.backward = 0, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [x for x in given if is_there(x)]
        if func in (DEVICE, IS_CUDA):
            return (CUDA if func == DEVICE else True) if there else func(*args)
        if there and not self.backward:
            self._check(name, func, args, given)
        if there and name == "numpy":
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        self.waits += bool(there) and name in WAITS
        if name in BACKWARD and not self.backward:
            self.backward = True
            try:
                found = func(*args, **kwargs)
            finally:
                self.backward = False
        else:
            device, args, kwargs = self._asked(name, args, kwargs)
            found = func(*args, **kwargs)
            if device is not None:
                return self._moved(found, given, there, device.type == "cuda")
        if func in (SET_DATA, SET_GRAD) and len(given) == 2:
            args[0]._there = is_there(args[1])
        if name == "cpu" and there:
            return found.clone() if any(found is x for x in there) else found
        return _tag(found) if there else found

    def _check(self, name: str, func: Any, args: Any, given: list[Tensor]) -> None:
        """RuntimeError where a call's tensors are on two devices."""
        if name in COPIES:
            return
        if name in INDEXING:
            if not is_there(args[0]):
                raise RuntimeError(
                    "indices should be either on cpu or on the same device as the indexed tensor"
                )
            given = [x for x in (args[0], *args[2:]) if isinstance(x, Tensor)]
        if any(not is_there(x) and x.dim() and str(DEVICE(x)) != "meta" for x in given):
            raise RuntimeError(
                f"{resolve_name(func) or func}: expected all tensors to be on the same device, "
                "but found cuda:0 and cpu"
            )

    def _asked(self, name: str, args: Any, kwargs: Any) -> tuple[torch.device | None, Any, Any]:
        """The device that a call names, and its arguments with the CPU in place of CUDA."""
        named = kwargs.get("device")
        if name in ("to", "cuda") and named is None:
            named = next((x for x in args[1:] if isinstance(x, torch.device)), None)
            text = next((x for x in args[1:] if isinstance(x, str)), None)
            other = next((x for x in args[1:] if isinstance(x, Tensor)), None)
            named = named or text or (DEVICE(other) if other is not None else None)
            if other is not None and is_there(other):
                named = CUDA
        if named is None:
            return None, args, kwargs
        device = torch.device(named)
        if device.type == "cuda":
            cpu = torch.device("cpu")
            swap = lambda x: cpu if isinstance(x, torch.device | str) and str(x).startswith("cuda") else x  # noqa: E731
            args, kwargs = tuple(map(swap, args)), {key: swap(x) for key, x in kwargs.items()}
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}
        return device, args, kwargs

    def _moved(self, found: Any, given: list[Tensor], there: list[Tensor], to_device: bool) -> Any:
        """What a call gave that names a device; a copy where it gave the tensor itself."""
        if not isinstance(found, Tensor):
            return found
        self.waits += bool(there) and not to_device
        if any(found is x for x in given) and is_there(found) != to_device:
            found = found.clone()
        found._there = to_device  # type: ignore[attr-defined]
        return found


def _tag(found: Any) -> Any:
    for x in pytree.tree_leaves(found):
        if isinstance(x, Tensor):
            x._there = True  # type: ignore[attr-defined]
    return found


class Generator(torch.Generator):
    """Of any device."""

    def __new__(cls, device: Any = None) -> Generator:
        return super().__new__(cls)


def _make_parameter(cls: type[Tensor], data: Tensor, requires_grad: bool = False) -> Tensor:
    """What ``nn.Parameter`` calls, which modes do not see."""
    made: Tensor = MAKE_SUBCLASS(cls, data, requires_grad)
    return _tag(made) if is_there(data) else made


@contextmanager
def pretended_cuda() -> Iterator[Pretended]:
    """A device, and what else a program asks it: its memory, and generators of its own."""
    with pytest.MonkeyPatch.context() as patch, Pretended() as device:
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(Tensor, "_make_subclass", staticmethod(_make_parameter))
        patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (1 << 34, 1 << 34))
        patch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: 0)
        yield device


def any_cuda() -> AbstractContextManager[object]:
    """A GPU where there is one, else one that is pretended."""
    return nullcontext() if torch.cuda.is_available() else pretended_cuda()
