"""What ``torch.compile`` leaves alone, and that nobody who only generates imports the compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from cogview.transformer.uncompiled import constant, uncompiled


@uncompiled
def inside(x: Tensor) -> Tensor:
    assert not torch.compiler.is_compiling()
    return x * (2 if x.sum() > 0 else 3)  # a graph would break here as well


asked: list[int] = []


@constant
def three() -> int:
    asked.append(1)
    return 3


@pytest.mark.slow
def test_an_uncompiled_function_is_called_as_it_is() -> None:
    compiled = torch.compile(lambda x: inside(x + 1) + three(), backend="eager")
    assert compiled(torch.ones(2)).tolist() == [7.0, 7.0]
    assert compiled(-torch.full((2,), 3.0)).tolist() == [-3.0, -3.0]
    assert inside(torch.ones(1)).tolist() == [2.0]
    assert len(asked) == 1


@pytest.mark.slow
def test_generating_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch, cogview.pipelines.cogview2, cogview.generation.engine\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
