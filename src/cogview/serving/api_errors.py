"""What a request is refused with: a status, and the body that clients of the OpenAI API expect."""

from __future__ import annotations

from typing import Any

BAD, OVERLOADED, OURS = "invalid_request_error", "rate_limit_error", "server_error"


class ApiError(Exception):
    """A refusal.

    status: of HTTP; kind, code, param: as in OpenAI's errors; retry_after: seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = BAD,
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
        told = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": told}

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After, where trying again makes sense; what to authenticate with.

        OpenAI's clients repeat every request that fails with 500 or more, unless they are asked not to.
        """
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status >= 500 and self.retry_after is None:
            found["X-Should-Retry"] = "false"
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})
