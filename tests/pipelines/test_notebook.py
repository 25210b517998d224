"""The tutorial notebook, executed as it stands by a kernel of this interpreter."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cogview import from_pretrained

nbformat = pytest.importorskip("nbformat", reason="the extra `dev` is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra `dev` is not installed")
NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook" / "tutorial.ipynb"


def shown(notebook: Any) -> list[Image.Image]:
    """The images that its cells show."""
    bundles = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]
    return [
        Image.open(io.BytesIO(base64.b64decode(one["image/png"]))) for one in bundles if "image/png" in one
    ]


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # kept without results
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(Path("src").resolve()), os.environ.get("PYTHONPATH", "")])}
    )
    images = shown(notebook)
    assert len(images) == 6 and images[4].mode == "RGBA"  # the fifth is cut out
    [made] = from_pretrained("pictogram").generate("a red apple", seed=7)
    assert images[0].tobytes() == made.image.tobytes()
    bars = [
        str(output)
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "progress" in str(output)
    ]
    assert len(bars) == 2 and all("100 %" in bar for bar in bars)
    assert (tmp_path / "apple.png").read_bytes() == made.png()
