"""The pages over HTTP: as a browser without a script uses them, as others may not, and after a kill."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

from cogview.cli.app import main
from cogview.study.records import PICTURES
from cogview.study.store import Store
from cogview.web.sockets import listen
from tests.study.conftest import ENV

uvicorn = pytest.importorskip("uvicorn", reason="the extra `study` is not installed")
from cogview.study import server  # noqa: E402

Make = Callable[..., Store]
GOOD = {"clarity": 3, "texture": 4, "relevance": 5, "overall": 10}


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    text: str


@dataclass
class Site:
    """A served study."""

    store: Store
    port: int

    def ask(self, path: str, form: object = None, **headers: str) -> Reply:
        """GET, or POST where there is a form (a mapping, or raw bytes)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {name.replace("_", "-"): value for name, value in headers.items() if value}
        if form is None:
            connection.request("GET", path, headers=given)
        else:
            own = {
                "Origin": f"http://127.0.0.1:{self.port}",
                "Content-Type": "application/x-www-form-urlencoded",
            }
            body = form if isinstance(form, bytes) else urlencode(form)  # type: ignore[arg-type]
            merged = {
                k: v for k, v in (own | {n.replace("_", "-"): v for n, v in headers.items()}).items() if v
            }
            connection.request("POST", path, body, merged)
        reply = connection.getresponse()
        found = Reply(
            reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read().decode(errors="replace")
        )
        connection.close()
        return found

    def home(self, rater: int = 1) -> str:
        return f"/r/{self.store.token(rater)}"


@pytest.fixture
def site(make_store: Make) -> Iterator[Site]:
    store = make_store(raters=4, captions=2)
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(server.application(store), log_level="error", lifespan="off", ws="none")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield Site(store, listener.getsockname()[1])
    running.should_exit = True
    thread.join(20)


def finish(site: Site, rater: int) -> None:
    """Follow the pages to the end, as a browser without a script."""
    address = site.ask(f"{site.home(rater)}/next").headers["location"]
    while address != site.home(rater):
        page = site.ask(address)
        assert page.status == 200
        form = {"best": 2} if address.endswith("best") else GOOD
        assert all(f'name="{name}"' in page.text for name in form)
        reply = site.ask(address, form)
        assert reply.status == 303
        address = reply.headers["location"]


def test_a_rater_gets_from_the_link_to_the_end(site: Site) -> None:
    first = site.ask(site.home())
    assert first.status == 200 and "Begin" in first.text and f"{site.home()}/next" in first.text
    finish(site, 1)
    assert site.store.progress(1).next is None
    assert "All done" in site.ask(site.home()).text
    assert site.store.progress(2).next == (1, 1)


def test_raters_race_over_http(site: Site) -> None:
    """Four raters at once, two of them in two windows each."""
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda rater: finish(site, rater), [1, 2, 3, 4, 1, 2]))
    assert all(site.store.progress(rater).next is None for rater in (1, 2, 3, 4))
    assert all(answer.overall == 10 for answer in site.store.answers())


def test_pages_say_nothing_of_models_and_load_nothing_from_elsewhere(site: Site) -> None:
    page = site.ask(f"{site.home()}/1/1", Accept_Language="zh")  # English words of the page are no models
    assert not re.search("real|old|plain|sharp", page.text)
    assert set(re.findall(r'(?:src|href|action)="(.)', page.text)) == {"/"}
    assert "caption &lt;" in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert page.headers["referrer-policy"] == "same-origin" and page.headers["cache-control"] == "no-store"
    assert "set-cookie" not in page.headers
    assert not re.search(r"<script(?! src)|style=| on\w+=", page.text)


def test_pictures_and_style_are_served_and_nothing_else_is(site: Site) -> None:
    name = next((site.store.directory / PICTURES).iterdir()).name
    picture = site.ask(f"/pictures/{name}")
    assert picture.status == 200 and picture.headers["content-type"] == "image/png"
    assert site.ask("/static/study.css").status == 200
    assert "--accent" in site.ask("/static/theme.css").text and "/static/theme.css" in site.ask("/").text
    for path in (
        "/pictures/../secret",
        "/pictures/..%2fsecret",
        "/static/report.css",
        "/secret",
        "/study.json",
    ):
        reply = site.ask(path)
        assert reply.status == 404 and "content-security-policy" in reply.headers, path


@pytest.mark.parametrize(
    ("form", "headers", "status"),
    [
        (GOOD, {"Origin": "https://evil.example"}, 403),
        (GOOD, {"Origin": ""}, 403),
        (GOOD, {"Origin": "null"}, 403),
        (GOOD, {"Sec_Fetch_Site": "cross-site"}, 403),
        (GOOD, {"Host": "evil.example"}, 400),
        (GOOD, {"Content_Type": "text/plain"}, 415),
        (GOOD | {"x": "y" * 5000}, {}, 413),
        (b"\xff\xfe=1", {}, 400),
        (b"&".join(b"a%d=1" % n for n in range(99)), {}, 400),
        (GOOD | {"clarity": 6}, {}, 422),
        (GOOD | {"overall": "10 "}, {}, 422),
        (GOOD | {"overall": "１"}, {}, 422),
        ({"clarity": 1}, {}, 422),
        (b"", {}, 422),
    ],
)
def test_a_wrong_post_is_refused_and_nothing_is_saved(
    site: Site, form: object, headers: dict[str, str], status: int
) -> None:
    assert site.ask(f"{site.home()}/1/1", form, **headers).status == status
    assert not site.store.progress(1).scores


def test_what_was_given_is_kept_when_something_is_missing(site: Site) -> None:
    page = site.ask(f"{site.home()}/1/1", {"clarity": 2, "overall": 7})
    assert re.findall(r'name="(\w+)" value="(\d+)" required checked', page.text) == [
        ("clarity", "2"),
        ("overall", "7"),
    ]
    assert 'role="alert"' in page.text


@pytest.mark.parametrize("path", ["/1/9", "/9/1", "/9/best", "/0/1", "/x/1"])
def test_pages_that_are_not_there(site: Site, path: str) -> None:
    assert site.ask(site.home() + path).status == 404


def test_the_best_comes_after_the_scores(site: Site) -> None:
    assert site.ask(f"{site.home()}/1/best").headers["location"] == f"{site.home()}/1/1"
    assert site.ask(f"{site.home()}/1/best", {"best": 1}).status == 409
    assert not site.store.progress(1).choices


def test_a_wrong_token_opens_nothing(site: Site) -> None:
    wrong = site.home()[:-2] + "00"
    assert site.ask(wrong).status == 404
    assert site.ask(f"{wrong}/1/1", GOOD).status == 404


def test_the_language_follows_the_browser_until_it_is_chosen(site: Site) -> None:
    assert "感谢" in site.ask(site.home(), Accept_Language="zh-CN,en;q=0.5").text
    assert "Thank" in site.ask(site.home(), Accept_Language="de,en").text
    reply = site.ask(f"{site.home()}/language", {"to": "zh", "back": f"{site.home()}/1/1"})
    assert reply.headers["location"] == f"{site.home()}/1/1"
    page = site.ask(f"{site.home()}/1/1").text
    assert "清晰度" in page and page.index("描述") < page.index("caption &lt;")
    for elsewhere in ("https://evil.example/", "//evil.example", site.home() + "x"):
        moved = site.ask(f"{site.home()}/language", {"to": "zh", "back": elsewhere})
        assert moved.headers["location"] == site.home()


def test_a_damaged_database_is_told_to_the_rater_kindly(site: Site) -> None:
    path = site.store.directory / "answers.sqlite"
    for extra in ("-wal", "-shm"):
        path.with_name(path.name + extra).unlink(missing_ok=True)
    path.write_bytes(b"broken" * 1000)
    reply = site.ask(site.home())
    assert reply.status == 503 and "Something went wrong" in reply.text


# ---------------------------------------------------------------------------------------------- the command

CLI = [
    sys.executable,
    "-c",
    "import sys; from cogview.cli.app import main; sys.exit(main())",
    "study",
    "serve",
]


def start(directory: Path, port: int, raters: int) -> tuple[subprocess.Popen[str], list[str]]:
    """`cogview study serve` in a process of its own, and the links it prints."""
    command = [*CLI, str(directory), "--raters", str(raters), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENV)
    assert process.stdout
    return process, [process.stdout.readline().split("\t")[1].strip() for _ in range(raters)]


def test_a_killed_server_has_lost_nothing_and_its_links_still_open(make_store: Make) -> None:
    store = make_store(raters=1, captions=2)
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    site, links = Site(store, port), []
    for round in range(2):
        process, printed = start(store.directory, port, 2)
        links.append(printed)
        for slot in (1, 2, 3):
            address = site.ask(f"{site.home()}/next").headers["location"]
            form = {"best": 1} if address.endswith("best") else GOOD
            assert site.ask(address, form).status == 303, (round, slot)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert links[0] == links[1] == [f"http://127.0.0.1:{port}/r/{store.token(rater)}" for rater in (1, 2)]
    assert len(store.progress(1).scores) == 5 and store.progress(1).choices == {1: 1}


def test_ctrl_c_stops_the_server(make_store: Make) -> None:
    process, _ = start(make_store().directory, 0, 2)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "add --url"),
        (["--url", "study.example"], "expected an address"),
        (["--host", "203.0.113.7", "--port", "80"], "cannot listen"),
    ],
)
def test_a_wrong_address_is_one_line(
    make_store: Make, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["study", "serve", str(make_store().directory), *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_nobody_invited_is_one_line(make_store: Make, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "serve", str(make_store(raters=0).directory)]) == 2
    assert "no rater is invited yet" in capsys.readouterr().err
