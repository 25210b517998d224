"""The pipelines of both kinds of families have the same public methods with the same arguments."""

from __future__ import annotations

import inspect

import pytest

from cogview.hierarchy import Hierarchy
from cogview.pipeline import CogView

KINDS = (CogView, Hierarchy)
OWN = {  # of families that draw in several steps: what their parts do, not what a user asks for
    "captioner_in", "enlarge", "direct_settings", "iterative_settings", "witnesses",
}  # fmt: skip


def methods(kind: type) -> dict[str, inspect.Signature]:
    """The public methods of a class, those it inherits among them."""
    found = inspect.getmembers(kind, callable)
    return {name: inspect.signature(method) for name, method in found if not name.startswith("_")}


def test_both_have_the_same_methods() -> None:
    one, two = (set(methods(kind)) for kind in KINDS)
    assert one - two == set()
    assert two - one <= OWN


@pytest.mark.parametrize("name", sorted(methods(CogView)))
def test_a_method_takes_the_same_arguments(name: str) -> None:
    """By name, order, kind and default; a family that refuses a task may take whatever comes."""
    one, two = (methods(kind)[name].parameters for kind in KINDS)
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in (*one.values(), *two.values())):
        named = [n for n, parameter in one.items() if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        assert [n for n in two if n in named] == [n for n in named if n in two]
        return
    assert [(p.name, p.kind, p.default) for p in one.values()] == [
        (p.name, p.kind, p.default) for p in two.values()
    ]
