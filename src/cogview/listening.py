"""What this project's servers share: where they listen, by default at this machine alone; their theme."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

from cogview.errors import CogViewError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_KEYS = 1 << 20  # bytes of a file of keys
THEME = Path(__file__).parent / "theme.css"  # of the pages of all


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; CogViewError where the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (while")[0]
        raise CogViewError(
            f"cannot listen at {host}:{port} ({why}); give another --host or --port"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(path: Path) -> list[str]:
    """The keys in a file, one a line; CogViewError where there is none, or a short one."""
    try:
        lines = path.read_bytes()[:MAX_KEYS].decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise CogViewError(f"{path}: cannot be read as a file of keys ({why})") from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys or min(map(len, keys)) < 16:
        raise CogViewError(f"{path}: expected API keys of 16 characters or more, one on each line")
    return keys
