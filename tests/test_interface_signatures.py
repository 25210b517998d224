"""What a model offers: at most twenty public names and the hub's two, the same for every kind of family."""

from __future__ import annotations

import inspect
import warnings

import pytest

import cogview
from cogview import CogView, CogView2
from cogview.pipelines.model import Pipeline

HUB = {"save_pretrained", "push_to_hub"}
TASKS = ("generate", "edit", "vary", "upscale", "caption", "score", "rerank")


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_all_kinds_have_the_same_twenty_names() -> None:
    assert public(CogView) == public(CogView2) == public(Pipeline)
    assert len(public(Pipeline) - HUB) <= 20 and set(TASKS) | HUB <= public(Pipeline)


@pytest.mark.parametrize("name", sorted(public(Pipeline)))
def test_each_is_documented(name: str) -> None:
    assert len(inspect.getdoc(getattr(Pipeline, name)) or "") > 20


@pytest.mark.parametrize("name", TASKS)
def test_no_kind_changes_a_task(name: str) -> None:
    assert getattr(CogView, name) is getattr(CogView2, name) is getattr(Pipeline, name)


@pytest.mark.parametrize("name", ["generate", "edit", "vary", "upscale"])
def test_tasks_that_give_images_share_their_options(name: str) -> None:
    options = inspect.signature(getattr(Pipeline, name)).parameters
    shared = {
        "seed",
        "params",
        "negative_prompt",
        "batch_size",
        "progress",
        "callback",
        "output_type",
        "sampling",
    }
    assert shared <= set(options)


def test_old_names_are_answered_for_a_version() -> None:
    with pytest.warns(DeprecationWarning, match="now cogview.from_pretrained"):
        assert cogview.load is cogview.from_pretrained
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from cogview.hierarchy import Hierarchy, load  # type: ignore[import-not-found]
        from cogview.pipeline import CogView as Old  # type: ignore[import-not-found]
        from cogview.pipeline import Picture
    assert (Hierarchy, load, Old, Picture) == (
        CogView2,
        cogview.from_pretrained,
        CogView,
        cogview.GeneratedImage,
    )
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = cogview.Nothing
