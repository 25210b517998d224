"""Keys with names and quotas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cogview.errors import CogViewError
from cogview.serving.api_errors import ApiError
from cogview.serving.guard import Rules
from cogview.serving.quotas import Key, Quotas, read_keys
from tests.serving.conftest import GENERATIONS, Site

Serve = Callable[..., Site]
FILE = """# of the shop
key-of-alice-0123 alice 3/minute;100/day
key-of-nobody-012

key-of-bob-012345 bob
"""


@pytest.fixture
def keys(tmp_path: Path) -> list[Key]:
    (tmp_path / "keys.txt").write_text(FILE, encoding="utf-8")
    return read_keys(tmp_path / "keys.txt")


def test_a_file_of_keys_is_read(keys: list[Key]) -> None:
    assert [(key.secret[:8], key.name) for key in keys] == [
        ("key-of-a", "alice"),
        ("key-of-n", ""),
        ("key-of-b", "bob"),
    ]
    assert [[(one.amount, one.get_expiry()) for one in key.limits] for key in keys] == [
        [(3, 60), (100, 86_400)],
        [],
        [],
    ]
    assert "key-of-alice" not in repr(keys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected API keys"),
        ("short alice", "line 1: expected API keys of 16"),
        ("# one\nkey-of-alice-0123 alice many", "line 2: 'many' is no quota"),
        ("key-of-alice-0123 alice\nkey-of-alice-0124 alice", "two keys have the name alice"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "keys.txt").write_text(text, encoding="utf-8")
    with pytest.raises(CogViewError, match=words) as caught:
        read_keys(tmp_path / "keys.txt")
    assert "\n" not in str(caught.value) and "key-of" not in str(caught.value)


def test_a_request_beyond_a_quota_counts_nothing(keys: list[Key]) -> None:
    quotas = Quotas()
    quotas.charge(keys[0], 2)
    with pytest.raises(ApiError, match="3 images every minute") as caught:
        quotas.charge(keys[0], 2)
    assert caught.value.status == 429 and 1 <= int(caught.value.headers["Retry-After"]) <= 60
    quotas.charge(keys[0], 1)
    with pytest.raises(ApiError, match="more than this key may ever request"):
        quotas.charge(keys[0], 4)
    for _ in range(200):
        quotas.charge(keys[1], 10)


def test_pictures_of_a_key_are_counted_whatever_way_they_are_asked_for(serve: Serve, keys: list[Key]) -> None:
    site = serve(rules=Rules(keys=keys))
    alice, bob = ({"Authorization": f"Bearer {keys[i].secret}"} for i in (0, 2))
    asked = {"prompt": "a red circle", "n": 2}
    assert site.ask(GENERATIONS, {"prompt": "a red circle", "n": 9}, **alice).status == 429
    assert site.ask(GENERATIONS, asked, **alice).status == 200
    over = site.ask("/sdapi/v1/txt2img", {"prompt": "a red circle", "batch_size": 2}, **alice)
    assert over.status == 429
    over = site.ask(GENERATIONS, asked, **alice)
    assert (over.status, over.error["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(over.headers["retry-after"]) <= 60
    assert site.ask(GENERATIONS, asked, **bob).status == 200
    metrics = site.server.metrics
    assert [metrics.value("cogview_asked_total", key=name) for name in ("alice", "bob")] == [2, 2]
    assert keys[0].secret not in metrics.text()
