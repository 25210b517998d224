"""The benchmarks' own arithmetic and baselines, at small sizes; what they measure belongs to no test."""

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from cogview.checkpoints.bundle import PACKAGED
from cogview.checkpoints.provenance import model_hash
from cogview.transformer.cache import KVCache
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from tests.generation import tiny

ROOT = Path(__file__).parents[1]


def test_the_released_loop_computes_what_a_model_with_a_cache_does() -> None:
    """The baseline of decode_released.py, with a memory that grows and a plain LayerNorm."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "decode_released.py"))
    loop_class = script["ReleasedLoop"]
    config = TransformerConfig(
        layers=2, hidden=32, heads=8, vocab_size=128, max_positions=20, norm_relax="none"
    )
    torch.manual_seed(0)
    model = Transformer(config).eval()
    ids, positions = torch.randint(128, (2, 9)), torch.arange(9).expand(2, -1)
    memory: list[torch.Tensor] = []
    cache = KVCache.allocate(config, 2, 9)
    with torch.inference_mode():
        for a, b in pairwise([0, 4, 5, 6, 9]):
            logits, memory = loop_class(model).read(ids[:, a:b], positions[:, a:b], memory)
            expected = model.logits(model(ids[:, a:b], positions[:, a:b], cache=cache)[:, -1])
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert [state.shape for state in memory] == [(2, 9, 32)] * 2


def test_the_time_of_a_picture_is_the_area_under_its_steps() -> None:
    """A step that grows linearly from 1 to 3 over the places takes 2 on average."""
    picture = runpy.run_path(str(ROOT / "benchmarks" / "decode_released.py"))["picture"]
    assert picture([1.0, 2.0, 3.0], [0, 511, 1022]) == pytest.approx(2 * 1024)


def test_the_hierarchy_takes_one_forward_and_six() -> None:
    """hierarchical.py draws the same size both ways; the hierarchy takes 1 + 6 forwards over large codes."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "hierarchical.py"))
    clock = iter(range(1000))
    ways = {name: script[name](24, 1, 32, lambda: float(next(clock))) for name in ("sliding", "hierarchical")}
    times = script["measure"](ways, images=2, rounds=1)
    assert ways["hierarchical"].forwards == {"direct": 2, "iterative": 12}  # and the turn for warming up
    assert ways["sliding"].forwards == {"large codes drawn one by one": 576, "windows": 9}
    found = script["report"](times, 2)
    assert found["seconds_a_picture"] == {"sliding": 1.0, "hierarchical": 1.5}  # the clock ticks at each step
    assert found["as_fast"] == pytest.approx(2 / 3) and found["as_fast_after_the_first_stage"] == 0.5
    clock = iter(range(10_000))
    with torch.inference_mode():  # every step takes a tick: the base's 144 tokens and the 576 of the windows
        assert script["released"](24, 1, 32, lambda: float(next(clock)), 1) == 144 + 576


RESULTS = ROOT / "benchmarks" / "results"
OF_MODELS = ("model_hash", "model_fingerprint", "judge_fingerprint")
WORDS = "an earlier model"


def hashes(data: Any) -> Iterator[str]:
    """The SHA-256 of models in a stored result, by the names that the experiments give them."""
    for name, value in data.items() if isinstance(data, dict) else ():
        model = name in OF_MODELS or name.endswith(" fingerprint")
        model = model or (name in ("hash", "fingerprint") and "model" in data)
        if model and isinstance(value, str) and len(value.split()[0]) == 64:
            yield value.split()[0]
        yield from hashes(value)


def stored(name: str) -> set[str]:
    return set(hashes(json.loads((RESULTS / name).read_text(encoding="utf-8"))))


@pytest.fixture(scope="module")
def shipped() -> set[str]:
    return {model_hash(family) for family in PACKAGED.iterdir() if (family / "family.json").is_file()}


def test_stored_results_are_of_the_shipped_models_or_said_to_be_of_earlier_ones(shipped: set[str]) -> None:
    """A new model makes this fail until its figures are measured, or the old ones are named as such."""
    said = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    table = said.split("## Of which model")[1].split("\n## ")[0]
    named = set(re.findall(rf"^\| `([\w.]+)` \| .*{WORDS}.*$", table, re.MULTILINE))
    found = {path.name: stored(path.name) for path in RESULTS.glob("*.json")}
    assert sum(bool(models) for models in found.values()) > 20
    assert {name for name, models in found.items() if models - shipped} == named


@pytest.mark.parametrize("page", sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]))
def test_a_paragraph_with_an_old_result_or_hash_says_so(page: Path, shipped: set[str]) -> None:
    for paragraph in re.split(r"\n\s*\n", page.read_text(encoding="utf-8")):
        files = re.findall(r"results/([\w.]+\.json)", paragraph)
        old = {one for name in files for one in stored(name)} - shipped
        shown = re.findall(r"`([0-9a-f]{12,64})`", paragraph)
        old |= {one for one in shown if not any(whole.startswith(one) for whole in shipped)}
        assert not old or "earlier model" in paragraph, paragraph[:200]


def test_every_script_has_a_stored_result_or_says_that_none_is() -> None:
    """Each is in one section, with its command; a result that a page names is there."""
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    sections = re.split(r"\n(?=## )", page)
    for script in (ROOT / "benchmarks").glob("*.py"):
        own = [part for part in sections if f"benchmarks/{script.name}" in part]
        assert len(own) == 1, script.name
        kept = [*RESULTS.glob(f"{script.stem}*.json")]
        assert bool(kept) != ("There are no results yet" in own[0]) or "no file holds" in own[0], script.name
    for written in [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")]:
        named = set(re.findall(r"results/([\w.]+\.json)", written.read_text(encoding="utf-8")))
        missing = {name for name in named if not (RESULTS / name).exists()}
        assert not missing, written.name


def test_drawing_beside_busy_cores_is_rehearsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One image each way beside one busy process, which has ended when the script ends."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "load.py"))
    family, out = tiny.write(tmp_path / "family"), tmp_path / "load.json"
    assert script["main"](["--rehearse", "--model", str(family), "--load", "1", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["chosen"]["threads"] >= 1 and "core" in found["chosen"]["reason"]
    assert set(found["seconds"]) == {"default", "one thread"} and found["ratio"] > 0
    assert f"{found['ratio']} x" in capsys.readouterr().out


def test_what_a_gpu_shows_is_rehearsed_and_not_measured_twice(tmp_path: Path) -> None:
    """Kernels and decoding of gpu.py at a tiny size: each way is timed; a second run keeps what is there."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "gpu.py"))
    words = ["--rehearse", "--output", str(tmp_path / "gpu.json"), "--only", "kernels", "--only", "decoding"]
    script["main"](words)
    first = json.loads((tmp_path / "gpu.json").read_text())
    assert len(first["kernels"]) == 1 + 3 * 2 * 3  # seconds; patterns, dropout or none, ways
    assert all(way["both_ms"] > 0 for name, way in first["kernels"].items() if name != "seconds")
    ways = ("one token, no graph", "window 1", "window 4")
    assert all(first["decoding tiny"][f"batch 2, {way}"]["tokens_per_second"] > 0 for way in ways)
    script["main"](words)
    assert json.loads((tmp_path / "gpu.json").read_text()) == first


def test_what_became_of_requests_under_load_is_counted() -> None:
    """Of four requests one is never answered, one twice, one wrongly."""
    summary = runpy.run_path(str(ROOT / "benchmarks" / "server_load.py"))["summary"]
    answers = [
        (0, 1.0, True, [200]),
        (1, 2.0, True, [0, 500, 200]),
        (1, 3.0, True, [200]),
        (2, 4.0, False, [200]),
    ]
    lines: list[dict[str, Any]] = [{"number": number, "asked": True} for number in range(4)]
    lines += [
        {"number": number, "answered": True, "seconds": seconds, "right": right, "tries": tries}
        for number, seconds, right, tries in answers
    ]
    told = summary([*lines, {"number": 3, "given_up": True, "tries": [429, 400]}])
    assert (told["asked"], told["answered"], told["lost"]) == (4, 3, 1)
    assert (told["answered twice"], told["wrong"]) == (1, 1)
    assert told["answers by status (0: broken connection)"] == {
        "0": 1,
        "200": 4,
        "400": 1,
        "429": 1,
        "500": 1,
    }
    assert told["seconds"] == {"median": 2.0, "p95": 4.0, "p99": 4.0, "longest": 4.0}


@pytest.mark.slow
def test_no_request_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    """The rehearsal of server_load.py: eight clients, one kill, refused connections that ask again."""
    if find_spec("locust") is None:  # its import would replace the threads and sockets of this process
        pytest.skip("locust is not installed")
    family, out = tiny.write(tmp_path / "family"), tmp_path / "load.json"
    script = ROOT / "benchmarks" / "server_load.py"
    command = [sys.executable, str(script), "--rehearse", "--model", str(family), "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    told = json.loads(out.read_text("utf-8"))
    statuses = told["answers by status (0: broken connection)"]
    assert len(told["killed at second"]) == 1 and statuses["0"] > 0
    assert told["asked"] == told["answered"] == statuses["200"] > 8
    assert told["lost"] == told["answered twice"] == told["wrong"] == 0
    assert told["exit code after SIGTERM"] == 0


def test_the_scoreboard_compares_turn_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other takes twice, three and ten times as long as ours: three times, whatever the turns took."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = runpy.run_path(str(ROOT / "benchmarks" / "scoreboard.py"))
    times = iter([0.0, 1.0, 1.0, 3.0, 3.0, 103.0, 103.0, 403.0, 500.0, 500.1, 600.0, 601.0])
    found = script["compare"](lambda images: None, lambda images: None, 4, 3, times.__next__)
    assert (found["ratio"], found["least"]) == (pytest.approx(3.0), pytest.approx(2.0))
    assert found["most"] == pytest.approx(10.0, rel=1e-3) and found["ours_ms"] == pytest.approx(250.0)
    printed = script["table"]([{"against": "x", **found}, {"against": "y", "missing": "not installed (y)"}])
    assert "| x | 4 | 250 ms | 500 ms | **3.0** (2.0 to 10.0) |" in printed.splitlines()
    assert printed.endswith("| y | | | | not installed (y) |")
