"""What this project's servers share: where they listen, by default at this machine alone; their theme."""

from __future__ import annotations

import socket
from pathlib import Path

from cogview.errors import CogViewError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
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
