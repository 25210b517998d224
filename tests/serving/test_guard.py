"""Who is let in: hosts, keys, other sites' pages, lengths; and what every answer carries."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from cogview.serving.guard import Rules
from cogview.serving.quotas import Key
from cogview.serving.run import hosts_for
from cogview.web.sockets import answers_to, is_loopback
from tests.serving.conftest import GENERATIONS, Site, png

Serve = Callable[..., Site]
KEY = "a-key-of-more-than-16"


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/models", "/studio/studio.js", "/nowhere"])
def test_answers_carry_headers_that_forbid_foreign_content(site: Site, path: str) -> None:
    headers = site.ask(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert headers["x-content-type-options"] == "nosniff" and "server" not in headers


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:9", 200), ("[::1]:9", 200), ("evil.example", 421), ("[", 421)],
)
def test_only_our_names_are_answered_to(site: Site, host: str, status: int) -> None:
    """A page elsewhere may have its name lead to this machine; it still asks for that name."""
    assert site.ask("/v1/models", Host=host).status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 200),
    ],
)
def test_other_sites_pages_cannot_post(site: Site, headers: dict[str, str], status: int) -> None:
    reply = site.ask(GENERATIONS, {"prompt": "a red circle"}, **headers)
    assert reply.status == status and "access-control-allow-origin" not in reply.headers


def test_a_key_is_needed_where_keys_are(serve: Serve) -> None:
    site = serve(rules=Rules(keys=[Key("another-key-that-is-right"), Key(KEY)]))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
        refused = site.ask("/v1/models", **headers)
        assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
        assert refused.headers["www-authenticate"] == "Bearer"
    assert site.ask("/v1/models", Authorization=f"Bearer {KEY}").status == 200
    assert site.ask("/metrics").status == site.ask("/openapi.json").status == 401
    for path in ("/healthz", "/", "/studio/studio.css", "/studio/theme.css"):
        assert site.ask(path).status == 200
    for path in ("/healthz", "/"):  # monitors ask for the head alone
        assert (found := site.ask(path, method="HEAD")).status == 200 and not found.body


@pytest.mark.parametrize("told", [True, False])
def test_long_bodies_are_not_read(serve: Serve, told: bool) -> None:
    """Whether their length is told or they come in pieces."""
    site = serve(rules=Rules(max_upload=50_000))
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    body = head + b"x" * 60_000 + b"\r\n--b--\r\n"
    connection = site.connect()
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    if told:
        connection.request("POST", "/v1/captions", body, headers)
    else:
        pieces = (body[i : i + 1000] for i in range(0, len(body), 1000))
        connection.request("POST", "/v1/captions", pieces, headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    assert site.send("/v1/captions", {"max_length": 2}, image=png()).status == 200


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b"])
def test_bodies_that_do_not_come_are_not_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("cogview.serving.forms.READ_SECONDS", 0.2)
    connection = site.connect()
    connection.putrequest("POST", "/v1/captions" if "form" in kind else GENERATIONS)
    connection.putheader("Content-Type", kind)
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"--b\r\n" if "form" in kind else b'{"prom')
    assert connection.getresponse().status == 408


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nowhere", "GET", 404),
        ("/studio/..%2fapp.py", "GET", 404),
        ("/studio/app.py", "GET", 404),
        (GENERATIONS, "GET", 405),
        ("/v1/models", "DELETE", 405),
    ],
)
def test_what_there_is_not(site: Site, path: str, method: str, status: int) -> None:
    reply = site.ask(path, method=method)
    assert reply.status == status and reply.error["message"]


def test_loopback_addresses_are_known() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.com")))
    assert hosts_for("0.0.0.0") == {"*"} and "evil.example" not in hosts_for("127.0.0.1")


def test_without_a_key_only_addresses_and_own_names_are_answered_to() -> None:
    names = hosts_for("0.0.0.0", keys=False)
    asked = (
        "10.0.0.7:8000",
        "[fe80::1]:80",
        "localhost",
        socket.gethostname(),
        "evil.example",
        "",
        "a b",
        "[",
    )
    assert [answers_to(names, host) for host in asked] == [True, True, True, True, False, False, False, False]


@pytest.mark.parametrize(
    "origin", ["http://[", "http://]", "//", "null", "http://127.0.0.1:99999999999", "\x80"]
)
def test_a_malformed_origin_is_another_site(site: Site, origin: str) -> None:
    reply = site.ask(GENERATIONS, {"prompt": "a"}, Origin=origin)
    assert (reply.status, reply.error["code"]) == (403, "cross_site")
    assert reply.headers["x-content-type-options"] == "nosniff"
