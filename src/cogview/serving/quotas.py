"""API keys with names and quotas: who asks, and how many images in a minute or a day.

A file of keys has one on each line: the key, then what it is called in the metrics, then its quotas as in
``60/minute;1000/day`` (the notation of the package `limits`). Name and quotas may be left out.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from limits import RateLimitItem, parse_many
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from cogview.errors import CogViewError
from cogview.files import read_text
from cogview.serving.api_errors import OVERLOADED, ApiError

SHORTEST = 16  # characters of a key
MAX_KEYS = 1 << 20  # bytes of a file of keys


@dataclass(frozen=True)
class Key:
    """A key. name: what the metrics call it, never the key itself; limits: all of them hold."""

    secret: str = field(repr=False)
    name: str = ""
    limits: tuple[RateLimitItem, ...] = ()


def read_keys(path: Path) -> list[Key]:
    """The keys in a file; CogViewError where there is none, a short one, or a name that stands twice."""
    try:
        lines = read_text(path, MAX_KEYS).splitlines()
    except CogViewError as error:
        raise CogViewError(f"{error}: not a file of keys") from error
    keys = [
        _key(line, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    ]
    if not keys:
        raise CogViewError(f"{path}: expected API keys of {SHORTEST} characters or more, one on each line")
    names = [key.name for key in keys if key.name]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CogViewError(f"{path}: two keys are called {twice}")
    return keys


def _key(line: str, place: str) -> Key:
    secret, name, quotas = [*line.split(maxsplit=2), "", ""][:3]
    if len(secret) < SHORTEST:
        raise CogViewError(f"{place}: expected API keys of {SHORTEST} characters or more, one on each line")
    try:
        return Key(secret, name, tuple(parse_many(quotas)) if quotas else ())
    except ValueError:
        raise CogViewError(f"{place}: {quotas!r} is no quota; write, say, 60/minute;1000/day") from None


def matching(keys: Sequence[Key], secret: str) -> Key | None:
    """The key that was given; takes as long for a wrong one."""
    given, found = hashlib.sha256(secret.encode()).digest(), None
    for key in keys:
        if hmac.compare_digest(given, hashlib.sha256(key.secret.encode()).digest()):
            found = key
    return found


class Quotas:
    """What every key has used, of windows that move with the time."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def charge(self, key: Key, pictures: int) -> None:
        """Count images; ApiError 429 where a limit would be passed, and then nothing is counted."""
        for limit in key.limits:
            if pictures > limit.amount:
                message = f"{pictures} pictures are more than this key may ever ask for at once: {limit}"
                raise ApiError(429, message, kind=OVERLOADED, code="rate_limit_exceeded")
            if not self._limiter.test(limit, key.secret, cost=pictures):
                freed = self._limiter.get_window_stats(limit, key.secret).reset_time
                message = f"this key may have {limit.amount} pictures every {_period(limit)}; try again later"
                later = max(1, math.ceil(freed - time.time()))
                raise ApiError(429, message, kind=OVERLOADED, code="rate_limit_exceeded", retry_after=later)
        for limit in key.limits:
            self._limiter.hit(limit, key.secret, cost=pictures)


def _period(limit: RateLimitItem) -> str:
    name = limit.GRANULARITY.name
    return name if limit.multiples == 1 else f"{limit.multiples} {name}s"


@dataclass(frozen=True)
class Caller:
    """Whose request is being answered, and what that key has used."""

    key: Key
    quotas: Quotas

    def charge(self, pictures: int) -> None:
        """Count images of this key; ApiError 429 beyond its quota."""
        self.quotas.charge(self.key, pictures)


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
