"""``cogview mcp``: offer models as tools for agents (Model Context Protocol)."""

from __future__ import annotations

from pathlib import Path

import typer

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.options import Address, grouped
from cogview.cli.serve import MODELS, default_models
from cogview.config import Config, option
from cogview.errors import CogViewError
from cogview.pipelines.task_requests import ComputeOptions, use_threads


class Offer(Config):
    """The models to offer, and to whom."""

    models: tuple[str, ...] = MODELS
    http: bool = option(False, "Serve at http://HOST:PORT/mcp instead of over stdin and stdout.")
    api_key_file: Path | None = option(
        None, "With --http, require one of the keys in this file.", metavar="FILE"
    )
    folder: Path | None = option(
        None, "Save images in this folder, and let the agent read images in it.", metavar="DIR"
    )


@grouped(port=8001)
def mcp(offer: Offer, address: Address, place: ComputeOptions) -> None:
    """Offer models to agents as tools: generate_image, edit_image, describe_image, rank_images.

    Examples:

      cogview mcp --folder pictures/

      cogview mcp --http --port 8001
    """
    names, host = list(offer.models) or default_models(), address.host
    _check_installed()
    from cogview.serving.quotas import read_keys
    from cogview.web.sockets import is_loopback, listen, url_of

    if not is_loopback(host) and offer.api_key_file is None:
        raise CogViewError(f"--host {host} lets other machines in; add --api-key-file FILE")
    keys = [] if offer.api_key_file is None else read_keys(offer.api_key_file)
    families = [ModelBundle.find(name) for name in names]
    listener = listen(host, address.port) if offer.http else None
    from cogview.serving import run
    from cogview.serving.app import Server
    from cogview.serving.guard import Rules
    from cogview.serving.mcp_run import serve_http, serve_stdio
    from cogview.serving.mcp_tools import Tools
    from cogview.serving.metrics import Metrics
    from cogview.serving.served import Models
    from cogview.serving.worker import Worker

    use_threads(place.threads, *(family.directory for family in families))
    typer.echo(f"loading {', '.join(names)}", err=True)
    metrics = Metrics()
    loaded = Models.load(names, device=place.torch_device(), precision=place.precision)
    server = Server(loaded, Worker(metrics), metrics, Rules(run.hosts_for(host, bool(keys)), keys))
    tools = Tools(server, offer.folder)
    if listener is None:
        serve_stdio(tools)
        return
    typer.echo(f"mcp     {url_of(host, listener)}/mcp")
    serve_http(tools, listener)


def _check_installed() -> None:
    """Raises CogViewError if the extra is not installed."""
    import cogview.serving  # noqa: F401

    try:
        import mcp.server.mcpserver  # noqa: F401
    except ImportError:
        raise CogViewError("this needs the SDK mcp; install it with: pip install 'cogview[mcp]'") from None
