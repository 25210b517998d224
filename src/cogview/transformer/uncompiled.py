"""Functions that ``torch.compile`` leaves alone, marked without importing the compiler.

``torch.compiler.disable`` imports it at once, which takes as long as PyTorch itself; here the first call
does. A process that only generates never needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch._compile import _disable_dynamo

P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, called from a compiled one as it is (a graph break)."""
    return _disable_dynamo(function)


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose result a compiled one takes as a constant."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
