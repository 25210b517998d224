"""Where the servers of this project listen: by default at this machine alone."""

from __future__ import annotations

import socket

from cogview.errors import CogViewError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; CogViewError where the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise CogViewError(
            f"cannot listen at {host}:{port} ({error.strerror or error}); give another --host or --port"
        ) from error
