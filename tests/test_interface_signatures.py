"""What a model offers: at most twenty public names, documented, the same for every kind of family."""

from __future__ import annotations

import importlib
import inspect
import warnings

import pytest

import cogview
from cogview import CogView, CogView2
from cogview.pipelines.base import as_output
from cogview.pipelines.model import Pipeline

TASKS = ("generate", "edit", "vary", "upscale", "caption", "score", "rerank")


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_all_kinds_have_the_same_twenty_names() -> None:
    assert public(CogView) == public(CogView2) == public(Pipeline)
    assert len(public(Pipeline)) <= 20 and set(TASKS) <= public(Pipeline)


@pytest.mark.parametrize("name", sorted(public(Pipeline)))
def test_each_is_documented(name: str) -> None:
    assert len(inspect.getdoc(getattr(Pipeline, name)) or "") > 20


@pytest.mark.parametrize("name", TASKS)
def test_a_task_names_its_errors(name: str) -> None:
    """``rerank`` refers to ``score``."""
    text = inspect.getdoc(getattr(Pipeline, name)) or ""
    assert "UnsupportedTask" in text or "CogViewError" in text or "as for :meth:`score`" in text


def test_arrays_and_numbers_have_shapes_and_units() -> None:
    """What is not an image says what its axes and numbers are."""
    for name, parts in {
        "score": ("(images, texts)", "nats per token"),
        "edit": ("(left, top, right, bottom) in pixels", "feather: width in pixels"),
        "upscale": ("shorter side to this many pixels",),
        "caption": ("``n`` captions for each image", "text tokens"),
        "image_tokenizer": ("(b, 3, height, width)",),
    }.items():
        text = " ".join((inspect.getdoc(getattr(Pipeline, name)) or "").split())
        assert all(part in text for part in parts), name
    shapes = " ".join((inspect.getdoc(as_output) or "").split())
    assert all(
        part in shapes for part in ("(n, height, width, 3)", "(n, 3, height, width)", "columns) int64")
    )


@pytest.mark.parametrize("name", [name for name in cogview.__all__ if name != "__version__"])
def test_every_public_name_of_the_package_is_documented(name: str) -> None:
    """By a text of its own, not that of a class above it."""
    found = getattr(cogview, name)
    above = {inspect.getdoc(kind) for kind in getattr(found, "__mro__", ())[1:]}
    assert len(inspect.getdoc(found) or "") > 20 and inspect.getdoc(found) not in above


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


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("cogview.labels", "Label", "cogview.checkpoints.provenance"),
        ("cogview.pipelines.output", "GeneratedImage", "cogview.pipelines.base"),
        ("cogview.untrusted", "read_bytes", "cogview.files"),
        ("cogview.evaluation.metrics.distributions", "compare_pictures", "cogview.evaluation.metrics.fid"),
    ],
)
def test_a_module_that_moved_is_answered(old: str, name: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"now {new}.{name}"):
        found = getattr(importlib.import_module(old), name)
    assert found is getattr(importlib.import_module(new), name)
