"""The queue and what ends a request: limits, time, clients that go, signals; and many requests at once."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from cogview import CogView
from cogview.cli.app import main
from cogview.cli.serve import default_models
from cogview.generation.strategies import sequential
from cogview.serving.served import Models
from tests.serving.conftest import GENERATIONS, Gate, Site, png, until

ROOT = Path(__file__).parents[2]
Serve = Callable[..., Site]


def begin(site: Site, body: dict[str, Any], path: str = GENERATIONS) -> Any:
    """Send a request and do not wait for the answer."""
    connection = site.connect()
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    return connection


def test_fifty_mixed_requests_at_once_are_answered_as_alone(site: Site, family: Path) -> None:
    """Settings, seeds and tasks differ; many are drawn together, and none differs for it."""
    chance = random.Random(0)
    asked = [
        {
            "prompt": chance.choice(["a red circle", "蓝色的方块", "a blue square"]),
            "seed": chance.randrange(1000),
            "n": chance.randint(1, 3),
            "style": chance.choice([None, "pixel"]),
            "temperature": chance.choice([0.7, 1.0]),
            "guidance": chance.choice([1.0, 2.0]),
        }
        for _ in range(40)
    ]
    wrong = [{"prompt": "a", "n": 99}, {"prompt": ""}, {"nothing": 1}] * 2
    with ThreadPoolExecutor(25) as pool:
        pictures = [pool.submit(site.ask, GENERATIONS, one) for one in asked]
        refused = [pool.submit(site.ask, GENERATIONS, one) for one in wrong]
        described = [
            pool.submit(site.send, "/v1/captions", {"max_length": 4}, image=png(colour=(i, 9, 9)))
            for i in range(4)
        ]
        assert [one.result().status for one in refused] == [400] * 6
        assert [one.result().status for one in described] == [200] * 4
        found = [one.result().files for one in pictures]
    model = CogView.from_pretrained(family)
    for one, files in zip(asked, found, strict=True):
        more = {name: value for name, value in one.items() if name != "prompt"}
        assert files == [picture.png() for picture in model.generate(one["prompt"], **more)]


def test_requests_that_wait_are_drawn_together(
    serve: Serve, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, gate = serve(together=4), Gate(models.default, monkeypatch)
    first = begin(site, {"prompt": "a red circle", "seed": 1})
    gate.wait()
    same = [begin(site, {"prompt": "蓝色的方块", "seed": seed, "n": 2}) for seed in range(3)]
    other = begin(site, {"prompt": "a red circle", "seed": 1, "temperature": 0.5})
    until(lambda: site.server.worker.waiting == 4)
    gate.open()
    assert all(connection.getresponse().status == 200 for connection in (first, *same, other))
    lines = site.ask("/metrics").body.decode().splitlines()
    for size, batches in (("1.0", 2), ("2.0", 3), ("4.0", 4)):  # the first and the other, one of 2, one of 4
        assert f'cogview_batch_pictures_bucket{{le="{size}"}} {batches}.0' in lines


def test_a_full_queue_says_when_to_come_back(
    serve: Serve, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, gate = serve(queue=2), Gate(models.default, monkeypatch)
    waiting = [begin(site, {"prompt": "a red circle", "seed": 1, "temperature": 0.5})]
    gate.wait()
    waiting += [begin(site, {"prompt": "a red circle", "seed": seed}) for seed in (2, 3)]
    until(lambda: site.server.worker.waiting == 2)
    for body in ({"prompt": "a"}, {"prompt": "a", "stream": True}):
        refused = site.ask(GENERATIONS, body)
        assert (refused.status, refused.error["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
    assert site.ask(GENERATIONS, {"prompt": "a", "n": 0}).status == 400  # a mistake is told in any case
    assert site.ask("/healthz").json["waiting"] == 2
    gate.open()
    assert all(connection.getresponse().status == 200 for connection in waiting)
    assert site.draw().status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_given_up_when_its_time_is_over(
    serve: Serve, models: Models, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    site, gate = serve(seconds=0.3), Gate(models.default, monkeypatch)
    if stream:
        [(name, data)] = site.events({"prompt": "a red circle", "stream": True})
        assert name == "error" and data["error"]["code"] == "timeout"
    else:
        late = site.draw()
        assert (late.status, late.error["code"]) == (504, "timeout")
        assert "retry-after" not in late.headers and late.headers["x-should-retry"] == "false"
    assert site.server.metrics.value("cogview_cancelled_total", reason="timeout") == 1
    gate.open()
    until(lambda: not site.server.worker.running)
    assert gate.tokens == 1  # the rest was not drawn


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_is_not_drawn_for(
    serve: Serve, models: Models, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    site, gate = serve(), Gate(models.default, monkeypatch)
    gone = begin(site, {"prompt": "a red circle", "stream": stream})
    gate.wait()
    behind = begin(site, {"prompt": "a red circle", "stream": stream, "temperature": 0.5})
    until(lambda: site.server.worker.waiting == 1)
    gone.close(), behind.close()
    cancelled = site.server.metrics
    until(lambda: cancelled.value("cogview_cancelled_total", reason="client") == 2)
    gate.open()
    until(lambda: not site.server.worker.running)
    assert gate.tokens == 1 and site.server.worker.waiting == 0
    assert site.draw().status == 200


def test_who_stays_gets_the_picture_though_another_of_the_batch_goes(
    serve: Serve, models: Models, monkeypatch: pytest.MonkeyPatch, family: Path
) -> None:
    site, gate = serve(), Gate(models.default, monkeypatch)
    monkeypatch.setattr(models.default.cogview.text_to_image.engine, "strategy", sequential)
    first = begin(site, {"prompt": "a blue square", "temperature": 0.5})
    gate.wait()
    goes, stays = (begin(site, {"prompt": "a red circle", "seed": seed}) for seed in (1, 2))
    until(lambda: site.server.worker.waiting == 2)
    for step in itertools.count(1):  # until the first is drawn and the two are begun
        gate.wait(step)
        if len(site.server.worker.running) == 2:
            break
        gate.allow(1)
    assert first.getresponse().status == 200
    goes.close()
    until(lambda: site.server.metrics.value("cogview_cancelled_total", reason="client") == 1)
    gate.open()
    answer = json.loads(stays.getresponse().read())
    [made] = CogView.from_pretrained(family).generate("a red circle", seed=2)
    assert base64.b64decode(answer["data"][0]["b64_json"]) == made.png()


def test_a_failure_is_one_answer_and_the_server_goes_on(
    serve: Serve, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, engine = serve(), models.default.cogview.text_to_image.engine
    decoder = engine.decoder
    with monkeypatch.context() as patch:

        def broken(hidden: Tensor) -> Tensor:
            raise ZeroDivisionError("a secret of the house")

        patch.setattr(engine, "decoder", dataclasses.replace(decoder, head=broken))
        failed = site.draw()
        assert (failed.status, failed.error["type"]) == (500, "server_error")
        assert "secret" not in failed.error["message"]

        def full(hidden: Tensor) -> Tensor:
            raise MemoryError

        patch.setattr(engine, "decoder", dataclasses.replace(decoder, head=full))
        failed = site.draw()
        assert (failed.status, failed.error["code"]) == (503, "out_of_memory")
    assert site.server.metrics.value("cogview_failures_total") == 2
    assert site.draw().status == 200


def start(family: Path, *options: str) -> tuple[subprocess.Popen[str], int]:
    """``cogview serve`` as a process of its own, and its port."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cogview.cli", "serve", str(family), "--port", "0", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout and process.stderr
    address = process.stdout.readline().split()[-1]
    process.stdout.readline()
    while "Ctrl-C" not in process.stderr.readline():
        assert process.poll() is None
    return process, int(address.rstrip("/").rpartition(":")[2])


def test_a_signal_finishes_what_runs(family: Path) -> None:
    process, port = start(family)
    site = Site(None, port)  # type: ignore[arg-type]
    try:
        long = begin(site, {"prompt": "a red circle", "n": 10, "best_of": 6, "seed": 1})
        until(lambda: "cogview_running_requests 1.0" in site.ask("/metrics").body.decode())
        behind = begin(site, {"prompt": "a red circle", "n": 2})
        until(lambda: site.ask("/healthz").json["waiting"] == 1)
        process.send_signal(signal.SIGTERM)
        finished, refused = long.getresponse(), behind.getresponse()
        assert finished.status == 200 and len(json.loads(finished.read())["data"]) == 10
        assert refused.status == 503 and refused.getheader("retry-after")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_while_it_drains_what_comes_and_what_waits_is_drawn(family: Path) -> None:
    process, port = start(family, "--drain", "3")
    site = Site(None, port)  # type: ignore[arg-type]
    try:
        assert site.ask("/readyz").status == 200
        long = begin(site, {"prompt": "a red circle", "n": 10, "best_of": 6, "seed": 1})
        until(lambda: "cogview_running_requests 1.0" in site.ask("/metrics").body.decode())
        process.send_signal(signal.SIGTERM)
        until(lambda: site.ask("/readyz").status == 503)
        behind = [begin(site, {"prompt": "a red circle", "n": n}) for n in (2, 3)]
        assert len(json.loads(long.getresponse().read())["data"]) == 10
        assert [len(json.loads(one.getresponse().read())["data"]) for one in behind] == [2, 3]
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "lets other machines in; add --api-key-file FILE, or --without-key"),
        (["--api-key-file", "none.txt"], "not a key file"),
        (["--api-key-file", "short.txt"], "expected API keys of 16 characters or more"),
        (["--host", "192.0.2.1", "--without-key"], "cannot listen at 192.0.2.1:8000"),
        (["--queue", "0"], "--queue"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    family: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("# keys\nabc\n", encoding="utf-8")
    assert main(["serve", str(family), *options]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_what_could_be_served_can_be_checked(family: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(family), "--port", "0", "--check"]) == 0
    printed = capsys.readouterr()
    assert re.fullmatch(r"studio +http://127\.0\.0\.1:\d+/\napi .+/v1\n", printed.out)
    assert printed.err.startswith(f"loading {family}: ")


def test_the_model_that_edits_is_served_where_there_is_one(home: Path, editor: Path) -> None:
    assert default_models()[0] == "pictogram"
    (home / "models").mkdir()
    (home / "models" / "pictogram-2").symlink_to(editor)
    assert default_models() == ["pictogram", "pictogram-2"]


def test_it_says_what_to_install(family: Path) -> None:
    """Where FastAPI is missing; a name in sys.modules without a module is one that cannot be imported."""
    code = "import sys; sys.modules['fastapi'] = None; from cogview.cli.app import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, "serve", str(family)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2 and "pip install 'cogview[serve]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_time_waiting_is_measured(site: Site) -> None:
    site.draw()
    text = site.ask("/metrics").body.decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
    assert values["cogview_run_seconds_count"] >= 1 and values["cogview_waiting_requests"] == 0
    assert values['cogview_requests_total{path="/v1/images/generations",status="200"}'] >= 1
    assert values["cogview_wait_seconds_count"] >= values["cogview_run_seconds_count"]


def test_a_request_asks_for_its_place_by_its_name(
    serve: Serve, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs is 0, what waits counts from 1; the time left is known once such a job was computed."""
    site, gate = serve(together=1), Gate(models.default, monkeypatch)
    gate.open()
    assert site.draw("a red circle").status == 200
    gate._wide_open = False
    with ThreadPoolExecutor(3) as pool:
        asked = []
        for number in range(3):
            body, headers = {"prompt": "a red circle"}, {"X_Cogview_Ticket": f"request-{number}"}
            asked.append(pool.submit(site.ask, GENERATIONS, body, **headers))
            until(
                lambda: len(site.server.worker.status([f"request-{one}" for one in range(3)])) == len(asked)
            )
        names = "&".join(f"ticket=request-{number}" for number in (2, 0, 1, 7))
        told = site.ask(f"/v1/queue?{names}").json
        gate.open()
        assert [one.result().status for one in asked] == [200] * 3
    places = told["tickets"]
    assert told["waiting"] == 2 and {name: one["place"] for name, one in places.items()} == {
        "request-0": 0,
        "request-1": 1,
        "request-2": 2,
    }
    assert 0 <= places["request-0"]["left"] <= places["request-1"]["left"] < places["request-2"]["left"]
    assert site.ask("/v1/queue?ticket=request-1").json == {"waiting": 0, "tickets": {}}
    assert site.ask(GENERATIONS, {"prompt": "a"}, X_Cogview_Ticket="../no").error["code"] == "invalid_value"
