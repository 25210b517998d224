"""Training over HTTP: what is refused, what is kept of uploads, and what is left when processes end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogview.cli.app import main
from cogview.serving.guard import Rules
from cogview.serving.quotas import Key
from cogview.serving.served import Models
from cogview.serving.trainings import Run, Trainings
from tests.serving.conftest import Reply, Site, png, until

Serve = Callable[..., Site]


@pytest.fixture
def site(serve: Serve, family: Path, tmp_path: Path) -> Site:
    """Trains under ``tmp_path``; its models are its own, as more may come."""
    return serve(models=Models.load([family]), trainings=Trainings(tmp_path / "trained"))


def begin(site: Site, name: str = "mine", **more: Any) -> Reply:
    return site.ask("/v1/trainings", {"name": name, "size": "tiny", **more})


def upload(site: Site, *files: tuple[str, bytes], name: str = "mine") -> Reply:
    """Several files of a form, each with its own name."""
    parts = [
        f'--line\r\nContent-Disposition: form-data; name="file"; filename="{file}"\r\n\r\n'.encode() + data
        for file, data in files
    ]
    body = b"\r\n".join([*parts, b"--line--\r\n"])
    path = f"/v1/trainings/{name}/files"
    return site.ask(path, body, Content_Type="multipart/form-data; boundary=line")


def test_a_server_trains_only_where_it_was_told_to(serve: Serve, plain: Models) -> None:
    site = serve(models=plain)
    assert site.ask("/v1/trainings").json["enabled"] is False
    for reply in (begin(site), site.ask("/v1/trainings/mine/start", {})):
        assert reply.status == 404 and reply.error["code"] == "training_off"


def test_keys_guard_trainings(serve: Serve, plain: Models, tmp_path: Path) -> None:
    key = "a-key-of-16-and-more"
    site = serve(models=plain, rules=Rules(keys=[Key(key)]), trainings=Trainings(tmp_path))
    for reply in (site.ask("/v1/trainings"), begin(site), upload(site, ("a.png", png()))):
        assert reply.status == 401
    assert site.ask("/v1/trainings", Authorization=f"Bearer {key}").json["enabled"] is True


def test_other_machines_need_a_key_to_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["serve", "--host", "0.0.0.0", "--without-key", "--train", str(tmp_path / "trained")]
    assert main(given) == 2
    assert "--api-key-file" in capsys.readouterr().err and not (tmp_path / "trained").exists()


def test_of_an_upload_only_what_can_be_trained_on_is_kept(site: Site, tmp_path: Path) -> None:
    """Names lose everything but words, and stay below the training's own folder."""
    assert begin(site).json["status"] == "new"
    files = [
        ("../escape.png", png()),
        ("../../x/y/z/deep.png", png()),
        ("cats/a cat.png", png()),
        ("cats/a cat.txt", "一只猫\n".encode()),
        ("broken.png", b"no image"),
        ("movie.mp4", b"0"),
        ("latin.txt", b"caf\xe9"),
        ("/etc/passwd", b"root"),
        ("..png", png()),
        ("huge.txt", b"a" * 70_000),
    ]
    refused = {one["file"]: one["code"] for one in upload(site, *files).json["refused"]}
    assert refused == {
        "../escape.png": "bad_file",
        "broken.png": "bad_image",
        "movie.mp4": "bad_file",
        "latin.txt": "bad_file",
        "/etc/passwd": "bad_file",
        "..png": "bad_file",
        "huge.txt": "too_large",
    }
    root = tmp_path / "trained"
    kept = {str(path.relative_to(root)) for path in root.rglob("*") if path.suffix in (".png", ".txt")}
    own = "runs/mine/pictures"
    assert kept == {f"{own}/cats/a cat.png", f"{own}/cats/a cat.txt", f"{own}/z/deep.png"}
    assert site.ask("/v1/trainings/mine").json["files"]["pictures"] == 2


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"name": "../x"}, "invalid_value"),
        ({"name": "Upper"}, "invalid_value"),
        ({"name": "a" * 41}, "invalid_value"),
        ({"name": "mine", "size": "huge"}, "invalid_value"),
        ({"name": "mine", "lora": 4}, "invalid_value"),
        ({"name": "mine", "source": "/etc"}, "unknown_parameter"),
        ({"name": "mine", "start": "/etc"}, "model_not_found"),
        ({"name": "tiny"}, "name_taken"),
    ],
)
def test_what_a_training_cannot_be(site: Site, body: dict[str, Any], code: str) -> None:
    assert site.ask("/v1/trainings", body).error["code"] == code
    assert site.ask("/v1/trainings").json["data"] == []


def test_what_there_is_not_is_not_found(site: Site) -> None:
    begin(site)
    assert begin(site).error["code"] == "name_taken"
    assert site.ask("/v1/trainings/mine/start", {}).error["code"] == "no_pictures"
    for path in (
        "other",
        "other/plan",
        "..%2f..",
        "mine/sheets/..%2frequest.json",
        "mine/sheets/samples.png",
    ):
        reply = site.ask(f"/v1/trainings/{path}", {} if path.endswith("plan") else None)
        assert reply.status == 404, path
    assert site.ask("/v1/trainings/mine", method="DELETE").json["deleted"]
    assert site.ask("/v1/trainings").json["data"] == []


@pytest.mark.slow
def test_a_training_outlives_its_server_and_is_stopped_by_the_next(
    serve: Serve, site: Site, plain: Models, tmp_path: Path
) -> None:
    """A second server, as after a kill of the first, finds it running and stops it; it can go on then."""
    begin(site)
    upload(site, *((f"red square {i}.png", png(size=(36, 36))) for i in range(4)))
    assert site.ask("/v1/trainings/mine/start", {}).json["status"] == "running"
    assert begin(site, "second").status == 200
    upload(site, ("red square.png", png()), name="second")
    assert site.ask("/v1/trainings/second/plan", {}).error["code"] == "training_running"
    assert site.ask("/v1/trainings/mine", method="DELETE").error["code"] == "training_running"
    work = Run(tmp_path / "trained", "mine").work
    until((work / "state.json").exists)
    other = serve(models=plain, trainings=Trainings(tmp_path / "trained"))
    assert other.ask("/v1/trainings/mine").json["status"] == "running"
    other.ask("/v1/trainings/mine/stop", {})
    until(lambda: other.ask("/v1/trainings/mine").json["status"] != "running")
    found = other.ask("/v1/trainings/mine").json
    assert found["status"] in ("new", "planned", "stopped") and str(tmp_path) not in "".join(found["log"])


@pytest.mark.slow
def test_a_process_that_dies_leaves_the_server_and_a_reason(site: Site, tmp_path: Path) -> None:
    begin(site)
    upload(site, ("red square.png", png()))
    site.ask("/v1/trainings/mine/plan", {})
    started = tmp_path / "trained" / "runs" / "mine" / "started.json"
    until(started.exists)
    trainings = site.server.trainings
    assert trainings is not None
    os.kill(trainings._processes["mine"].pid, signal.SIGKILL)
    until(lambda: site.ask("/v1/trainings/mine").json["status"] == "failed")
    assert site.ask("/healthz").status == 200
    assert site.ask("/v1/trainings/mine/plan", {}).json["status"] == "running"
