"""API keys, each with a name and quotas of images per minute or day.

A key file has one key on each line: the key, its name in the metrics, and its quotas, such as
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
from cogview.serving.api_errors import RATE_LIMIT_ERROR, ApiError

MIN_KEY_LENGTH = 16  # characters of a key
MAX_KEY_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Key:
    """An API key. name: its label in the metrics, never the key itself; limits: its quotas; all apply."""

    secret: str = field(repr=False)
    name: str = ""
    limits: tuple[RateLimitItem, ...] = ()


def read_keys(path: Path) -> list[Key]:
    """The keys in a file; raises CogViewError if there is none, one is too short, or a name is used twice."""
    try:
        lines = read_text(path, MAX_KEY_FILE_BYTES).splitlines()
    except CogViewError as error:
        raise CogViewError(f"{error}: not a key file") from error
    keys = [
        _key(line, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    ]
    if not keys:
        raise CogViewError(
            f"{path}: expected API keys of {MIN_KEY_LENGTH} characters or more, one on each line"
        )
    names = [key.name for key in keys if key.name]
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise CogViewError(f"{path}: two keys have the name {duplicate}")
    return keys


def _key(line: str, place: str) -> Key:
    secret, name, quotas = [*line.split(maxsplit=2), "", ""][:3]
    if len(secret) < MIN_KEY_LENGTH:
        raise CogViewError(
            f"{place}: expected API keys of {MIN_KEY_LENGTH} characters or more, one on each line"
        )
    try:
        return Key(secret, name, tuple(parse_many(quotas)) if quotas else ())
    except ValueError:
        raise CogViewError(f"{place}: {quotas!r} is no quota; write, say, 60/minute;1000/day") from None


def find_key(keys: Sequence[Key], secret: str) -> Key | None:
    """The key with this secret, or None; takes the same time in either case."""
    digest, match = hashlib.sha256(secret.encode()).digest(), None
    for key in keys:
        if hmac.compare_digest(digest, hashlib.sha256(key.secret.encode()).digest()):
            match = key
    return match


class Quotas:
    """Usage of every key, counted in moving windows."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def charge(self, key: Key, images: int) -> None:
        """Count images; raises ApiError 429 if a quota would be exceeded, and counts nothing then."""
        code = "rate_limit_exceeded"
        for limit in key.limits:
            if images > limit.amount:
                message = f"{images} images are more than this key may ever request at once: {limit}"
                raise ApiError(429, message, kind=RATE_LIMIT_ERROR, code=code)
            if not self._limiter.test(limit, key.secret, cost=images):
                reset = self._limiter.get_window_stats(limit, key.secret).reset_time
                message = (
                    f"this key may request {limit.amount} images every {_period(limit)}; try again later"
                )
                seconds = max(1, math.ceil(reset - time.time()))
                raise ApiError(429, message, kind=RATE_LIMIT_ERROR, code=code, retry_after=seconds)
        for limit in key.limits:
            self._limiter.hit(limit, key.secret, cost=images)


def _period(limit: RateLimitItem) -> str:
    name = limit.GRANULARITY.name
    return name if limit.multiples == 1 else f"{limit.multiples} {name}s"


@dataclass(frozen=True)
class Caller:
    """The API key of the current request, and the usage of all keys."""

    key: Key
    quotas: Quotas

    def charge(self, images: int) -> None:
        """Count images of this key; raises ApiError 429 beyond its quota."""
        self.quotas.charge(self.key, images)


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
