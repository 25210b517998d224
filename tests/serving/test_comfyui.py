"""The ComfyUI nodes against their contract and a running server."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cogview.serving.guard import Rules
from cogview.serving.quotas import Key
from tests.serving.conftest import Site

FOLDER = Path(__file__).parents[2] / "examples" / "comfyui"
TYPES = {"IMAGE", "MASK", "STRING", "INT"}


@pytest.fixture(scope="module")
def pack() -> Any:
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("cogview_nodes")
    finally:
        sys.path.remove(str(FOLDER))


def defaults(node: Any) -> dict[str, Any]:
    """What ComfyUI fills in: each widget's default."""
    given = node.INPUT_TYPES()
    fields = {**given["required"], **given.get("optional", {})}
    return {name: told[1]["default"] for name, told in fields.items() if len(told) > 1}


def run(node: Any, **inputs: Any) -> Any:
    """Execute a node as ComfyUI does: an object, its FUNCTION, all inputs by name."""
    [found] = getattr(node(), node.FUNCTION)(**{**defaults(node), **inputs})
    return found


def test_nodes_keep_the_contract(pack: Any) -> None:
    assert set(pack.NODE_CLASS_MAPPINGS) == set(pack.NODE_DISPLAY_NAME_MAPPINGS)
    for node in pack.NODE_CLASS_MAPPINGS.values():
        given = node.INPUT_TYPES()
        assert set(given) <= {"required", "optional", "hidden"}
        for told in (told for group in given.values() for told in group.values()):
            assert isinstance(told, tuple) and (isinstance(told[0], list) or told[0] in TYPES)
            assert not isinstance(told[0], list) or told[1]["default"] in told[0]
        assert set(node.RETURN_TYPES) <= TYPES and node.CATEGORY == "cogview"
        taken = inspect.signature(getattr(node, node.FUNCTION)).parameters
        assert set(given["required"]) <= set(taken)
        assert any(one.kind is one.VAR_KEYWORD for one in taken.values())


def test_the_workflow_fits_the_nodes(pack: Any) -> None:
    workflow = json.loads((FOLDER / "workflow.json").read_text("utf-8"))
    for step in workflow.values():
        if node := pack.NODE_CLASS_MAPPINGS.get(step["class_type"]):
            given = node.INPUT_TYPES()
            assert set(step["inputs"]) == {*given["required"], *given.get("optional", {})} - {"mask"}
            for value in step["inputs"].values():
                if isinstance(value, list):
                    source = pack.NODE_CLASS_MAPPINGS[workflow[value[0]]["class_type"]]
                    assert source.RETURN_TYPES[value[1]] == "IMAGE"


def test_images_go_the_whole_way(pack: Any, site: Site) -> None:
    nodes, server = pack.NODE_CLASS_MAPPINGS, f"http://127.0.0.1:{site.port}"
    common = {"prompt": "a red circle", "server": server, "seed": 3}
    first = run(nodes["CogViewGenerate"], n=2, **common)
    assert first.dtype == torch.float32 and first.shape[0] == 2 and first.shape[3] == 3
    assert 0 <= float(first.min()) < float(first.max()) <= 1
    assert torch.equal(first, run(nodes["CogViewGenerate"], n=2, **common))
    assert not torch.equal(first, run(nodes["CogViewGenerate"], n=2, **{**common, "seed": 4}))
    large = run(nodes["CogViewUpscale"], image=first[:1], times=2, seed=3, server=server)
    assert large.shape[1:3] == (2 * first.shape[1], 2 * first.shape[2])
    captions = run(nodes["CogViewCaption"], image=first, language="en", server=server)
    assert len(captions) == 2 and all(isinstance(one, str) for one in captions)


def test_an_edit_leaves_what_the_mask_covers(pack: Any, site: Site) -> None:
    nodes, server = pack.NODE_CLASS_MAPPINGS, f"http://127.0.0.1:{site.port}"
    [editor] = [name for name, one in site.server.models.by_name.items() if "edit" in one.abilities]
    common = {"prompt": "a red circle", "server": server, "seed": 3}
    image = run(nodes["CogViewGenerate"], n=1, model=editor, **common)
    mask = torch.zeros(1, *image.shape[1:3])
    mask[:, :, image.shape[2] // 2 :] = 1
    found = run(nodes["CogViewEdit"], image=image, mask=mask, n=2, model=editor, **{**common, "seed": 9})
    half = image.shape[2] // 2 - 8
    assert found.shape == (2, *image.shape[1:])
    assert (found[:, :, :half] - image[:, :, :half]).abs().mean() < 0.02
    assert (found[:, :, half + 16 :] - image[:, :, half + 16 :]).abs().mean() > 0.02


def test_what_is_wrong_is_said(
    pack: Any, serve: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = pack.NODE_CLASS_MAPPINGS["CogViewGenerate"]
    site = serve(rules=Rules(keys=[Key("a-key-of-16-and-more")]))
    server = f"http://127.0.0.1:{site.port}"
    with pytest.raises(RuntimeError, match="a valid API key is needed"):
        run(node, server=server)
    monkeypatch.setenv("COGVIEW_API_KEY", "a-key-of-16-and-more")
    with pytest.raises(RuntimeError, match="no model 'nonsense'"):
        run(node, server=server, model="nonsense")
    with pytest.raises(RuntimeError, match=r"no answer from .*cogview serve"):
        run(node, server="http://127.0.0.1:9")
