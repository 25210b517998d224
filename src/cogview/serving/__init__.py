"""The HTTP server and the studio: models behind an OpenAI-compatible Images API, and a web page that uses it.

One thread computes (:mod:`~cogview.serving.worker`). Requests wait in a queue of limited length and are
cancelled when their client disconnects or their time limit expires. An image never depends on the other
requests that are computed at the same time.
"""

from cogview.errors import CogViewError

try:
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import python_multipart  # noqa: F401  (parses forms)
    import uvicorn  # noqa: F401
except ImportError as error:
    raise CogViewError(
        f"the server needs {error.name}; install it with: pip install 'cogview[serve]'"
    ) from None
