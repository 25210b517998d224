"""Decorators that exclude functions from ``torch.compile`` without importing the compiler.

``torch.compiler.disable`` imports the compiler immediately, which takes as long as importing PyTorch; here
only the first call does. A process that only generates never needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch._compile import _disable_dynamo

P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Exclude the function from compilation (a graph break)."""
    return _disable_dynamo(function)


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """Treat the function's result as a constant in compiled code."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
