"""Errors of the HTTP API: a status, and a body in the format of OpenAI's API."""

from __future__ import annotations

from typing import Any

INVALID_REQUEST_ERROR, RATE_LIMIT_ERROR, SERVER_ERROR = (
    "invalid_request_error",
    "rate_limit_error",
    "server_error",
)


class ApiError(Exception):
    """An error response.

    status: HTTP status; kind, code, param: as in OpenAI's errors (kind is its ``type``); retry_after: seconds
    after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID_REQUEST_ERROR,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, " ".join(message.split()), kind
        self.code, self.param, self.retry_after = code, param, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """``{"error": {...}}``."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After, where a retry can succeed; X-Should-Retry; the authentication scheme.

        OpenAI's clients repeat every request that fails with 500 or more, unless X-Should-Retry is false.
        """
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status >= 500 and self.retry_after is None:
            headers["X-Should-Retry"] = "false"
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})
