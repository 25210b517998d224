"""Bytes, JSON and YAML made hostile; the same random generator gives the same."""

# ruff: noqa: E501 - a list of hostile values
from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

RAW = "@@raw:"  # marks a text that stands in JSON as it is, without quotes
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 10**6, 10**9, 2**31, 2**63, 2**64 - 1, 10**30, -(10**18),
    0.0, -0.5, 0.1, 1e30, 1e-300, "", "a", "0", "1e9", "..", "../..", "../../../../etc/passwd", "/dev/zero",
    "/dev/stdin", "a\x00b", "x" * 300, "x" * 5000, "\u202e\u0000\u0007", "红" * 200, "{caption}{style}{0}{a.b}",
    "%s%n", "a/b", "a\nb", ".", "-", "--help", [], [[]], [1], [10**6, 0], [0, 0], [1, 2, 3, 4, 5, 6, 7, 8, 9] * 9,
    {}, {"a": 1}, {"": {}}, [None], [[[[[[[[1]]]]]]]], RAW + "9" * 5000, RAW + "-" + "9" * 4301,
    RAW + "1e999", RAW + "-1e999", RAW + "NaN", RAW + "Infinity", RAW + '"\\ud800"', RAW + '"\\u0000"',
    RAW + "[" * 3000 + "]" * 3000, RAW + "[" * 90000, RAW + '{"a":' * 800 + "1" + "}" * 800, RAW + "0x10", RAW + "",
    RAW + "1" + "0" * 400, RAW + "0." + "1" * 9000, RAW + "1E400000", RAW + '"' + "a" * 100000 + '"',
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested data."""
    yield at
    if isinstance(value, dict):
        for name, own in value.items():
            yield from places(own, (*at, name))
    elif isinstance(value, list):
        for number, own in enumerate(value[:40]):
            yield from places(own, (*at, number))


def mutated(value: Any, chance: random.Random, count: int | None = None) -> Any:
    """Nested data with some places changed."""
    value = copy.deepcopy(value)
    for _ in range(count or chance.choice([1, 1, 1, 2, 4])):
        where = chance.choice(list(places(value)))
        if not where:
            if chance.random() < 0.1:
                value = hostile(chance)
            continue
        inside = value
        for step in where[:-1]:
            inside = inside[step]
        _change(inside, where[-1], chance)
    return value


def hostile(chance: random.Random) -> Any:
    """A value that nobody expects."""
    return copy.deepcopy(chance.choice(VALUES))


def _change(inside: Any, key: Any, chance: random.Random) -> None:
    way = chance.random()
    old = inside[key]
    if way < 0.55:
        inside[key] = hostile(chance)
    elif way < 0.75 and isinstance(old, int | float) and not isinstance(old, bool):
        inside[key] = chance.choice(
            [old + 1, old - 1, -old, old * 2, old * 1000, old * 10**6, old / 2, old // 2 or 1]
        )
    elif way < 0.85 and isinstance(inside, dict):
        del inside[key]
    elif way < 0.93 and isinstance(inside, dict):
        inside[
            chance.choice(["", "x", "__class__", "a.b", "\x00", "k" * 2000, str(key) + " ", "kind", "format"])
        ] = old
    elif isinstance(old, list):
        inside[key] = old * chance.choice([0, 2, 50])
    elif isinstance(old, str):
        inside[key] = chance.choice([old[::-1], old * 100, old[:-1], old.upper(), old + "\n", "../" + old])


def as_json(value: Any, chance: random.Random | None = None) -> bytes:
    """JSON, its raw parts unquoted; perhaps broken as a text."""
    text = json.dumps(value, ensure_ascii=chance is None or chance.random() < 0.5)
    while (at := text.find(f'"{RAW}')) >= 0:
        end = at + 1
        while text[end] != '"' or (text[end - 1] == "\\" and text[end - 2] != "\\"):
            end += 1
        raw = json.loads(text[at : end + 1])[len(RAW) :]
        text = text[:at] + raw + text[end + 1 :]
    data = text.encode("utf-8", "surrogatepass")
    if chance is not None and chance.random() < 0.1:
        return broken(data, chance)
    return data


def broken(data: bytes, chance: random.Random) -> bytes:
    """Bytes with some of them changed, lost or repeated."""
    found = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        size = len(found)
        if not size:
            return bytes(found)
        at, way = chance.randrange(size), chance.randrange(9)
        span = min(size - at, chance.choice([1, 2, 4, 8, 64, 1024]))
        if way == 0:
            found[at] ^= 1 << chance.randrange(8)
        elif way == 1:
            found[at] = chance.randrange(256)
        elif way == 2:
            del found[at:]
        elif way == 3:
            del found[at : at + span]
        elif way == 4:
            found[at:at] = chance.randbytes(span)
        elif way == 5:
            found[at : at + span] = bytes([chance.choice([0, 0xFF, 0x7F, 0x80])]) * span
        elif way == 6:
            found[at:at] = found[at : at + span] * chance.choice([1, 2, 100])
        elif way == 7:
            found[at : at + span] = chance.randbytes(span)
        else:
            found += chance.randbytes(span)
    return bytes(found)


def in_head(data: bytes, chance: random.Random, head: int = 512) -> bytes:
    """Bytes changed near the beginning only, where formats say their sizes."""
    return broken(data[:head], chance) + data[head:] if chance.random() < 0.5 else broken(data, chance)
