"""Listening sockets, and checks of Host and Origin headers, for the servers."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from pathlib import Path

from cogview.errors import CogViewError

ADDRESSES = "[addresses]"  # among accepted host names: any IP address
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HOST = re.compile(
    r"(?:(?P<name>[A-Za-z0-9._-]{1,255})|\[(?P<address>[0-9A-Fa-f:.]{2,45})\])(?::[0-9]{1,5})?"
)
THEME = Path(__file__).parent / "theme.css"  # shared by all pages


def host_of(header: str) -> str | None:
    """The name or address in a ``Host`` header, in lower case; None if the header is invalid."""
    match = _HOST.fullmatch(header)
    return None if match is None else (match["name"] or match["address"]).lower()


def answers_to(names: frozenset[str], header: str) -> bool:
    """Whether a ``Host`` header names one of these hosts ("*": any name; ADDRESSES: any IP address)."""
    name = host_of(header)
    if name is None:
        return False
    return "*" in names or name in names or (ADDRESSES in names and _is_address(name))


def same_origin(origin: str, hosts: Collection[str]) -> bool:
    """Whether an ``Origin`` header is that of one of these hosts, given with their ports."""
    scheme, mark, rest = origin.partition("://")
    return bool(mark) and scheme.lower() in ("http", "https") and host_of(rest) is not None and rest in hosts


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def url_of(host: str, listener: socket.socket) -> str:
    """The URL of a server's pages, without a slash at the end."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises CogViewError if the address is not available."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise CogViewError(
            f"cannot listen at {host}:{port} ({reason}); give another --host or --port"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
