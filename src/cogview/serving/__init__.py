"""The HTTP server and the studio: models behind an API of the OpenAI Images shape, and a page that uses it.

One thread computes (:mod:`~cogview.serving.worker`); requests wait in a queue of limited length and are given
up when their client goes or their time is over. What an image shows never depends on who else asked.
"""

from cogview.errors import CogViewError

try:
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import python_multipart  # noqa: F401  (reads forms)
    import uvicorn  # noqa: F401
except ImportError as error:
    raise CogViewError(
        f"the server needs {error.name}; install it with: pip install 'cogview[serve]'"
    ) from None
