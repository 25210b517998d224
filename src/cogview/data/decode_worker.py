"""The decoding process of :mod:`cogview.data.decoders`: ``python -m cogview.data.decode_worker``.

It reads pickled settings and images (from its parent process) on standard input, and writes a result for
each. Decoders are large C libraries: in a separate process they may hang, crash or exhaust memory without
affecting the build. It does not import PyTorch, so it is cheap to restart.
"""

from __future__ import annotations

import os
import pickle
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from cogview.data.filters import difference_hash
from cogview.data.images import BadImage, Limits, byte_count, decode, square
from cogview.data.shards import Preprocessing

READY = ("ready",)


def answer(data: bytes | Path, limits: Limits, preprocessing: Preprocessing) -> tuple[object, ...]:
    """("good", pixels, conversions, bytes of the file, shorter side, hash) or ("bad", reason, message).

    The hash is None unless near-duplicates are filtered.
    """
    try:
        decoded = decode(data, limits)
        pixels = square(decoded.image, preprocessing)
    except BadImage as error:
        return ("bad", error.reason, str(error))
    except MemoryError:
        return ("bad", "too much memory", f"decoding needs more than {limits.max_memory >> 20:,} MiB")
    look = None if limits.filters.near_duplicates is None else difference_hash(decoded.image)
    return ("good", pixels, decoded.conversions, byte_count(data), min(decoded.image.size), look)


def limit_memory(most: int) -> None:
    """Limit the address space of this process to ``most`` bytes, if the system supports it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with suppress(OSError, ValueError):  # macOS refuses a limit below what libraries have reserved
        resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))


def main() -> None:
    """Decode images until the standard input ends."""
    requests, answers = sys.stdin.buffer, _own_output()
    limits, preprocessing = pickle.load(requests)
    limit_memory(limits.max_memory)
    _send(answers, READY)
    while True:
        try:
            data = pickle.load(requests)
        except EOFError:
            return
        _send(answers, answer(data, limits, preprocessing))


def _own_output() -> BinaryIO:
    """The standard output, reserved for results: output of decoders is redirected to standard error."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return output


def _send(answers: BinaryIO, value: object) -> None:
    pickle.dump(value, answers, protocol=pickle.HIGHEST_PROTOCOL)
    answers.flush()


if __name__ == "__main__":
    main()
