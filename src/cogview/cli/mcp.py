"""``cogview mcp``: models as tools for agents (Model Context Protocol)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogview.cli.opening import DeviceOption, Place, ThreadsOption, check_model, torch_device, use_threads
from cogview.cli.precision import PrecisionOption
from cogview.errors import CogViewError


def mcp(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="Names (see cogview models) or directories; the first is the default.",
            show_default="pictogram, and pictogram-2 where it is installed",
        ),
    ] = None,
    http: Annotated[
        bool, typer.Option("--http", help="Answer at http://HOST:PORT/mcp; without it over stdin and stdout.")
    ] = False,
    host: Annotated[str, typer.Option(help="With --http, the address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --http; 0 takes a free one.")] = 8001,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --http, ask for one of the keys in this file."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Save images here, and let the agent name files in it."),
    ] = None,
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Offer models to agents as tools: generate_image, edit_image, describe_image, rank_images.

    Examples:

      cogview mcp --folder pictures/

      cogview mcp --http --port 8001
    """
    from cogview.cli.serve import default_models

    names = models or default_models()
    _check_installed()
    from cogview.web.sockets import is_loopback, listen, read_keys

    if not is_loopback(host) and api_key_file is None:
        raise CogViewError(f"--host {host} lets other machines in; add --api-key-file FILE")
    keys = [] if api_key_file is None else read_keys(api_key_file)
    place = Place(device, threads, precision)
    families = [check_model(name) for name in names]
    listener = listen(host, port) if http else None
    from cogview.serving import run
    from cogview.serving.app import Server
    from cogview.serving.guard import Rules
    from cogview.serving.mcp import Tools
    from cogview.serving.mcp_run import serve_http, serve_stdio
    from cogview.serving.metrics import Metrics
    from cogview.serving.served import Models
    from cogview.serving.worker import Worker

    use_threads(threads, *(family.directory for family in families))
    typer.echo(f"loading {', '.join(names)}", err=True)
    metrics = Metrics()
    loaded = Models.load(names, device=torch_device(place), precision=precision)
    server = Server(loaded, Worker(metrics), metrics, Rules(run.hosts_for(host, bool(keys)), keys))
    tools = Tools(server, folder)
    if listener is None:
        serve_stdio(tools)
        return
    name = f"[{host}]" if ":" in host else host
    typer.echo(f"mcp     http://{name}:{listener.getsockname()[1]}/mcp")
    serve_http(tools, listener)


def _check_installed() -> None:
    """CogViewError where the extra is missing."""
    import cogview.serving  # noqa: F401

    try:
        import mcp.server.mcpserver  # noqa: F401
    except ImportError:
        raise CogViewError("this needs the SDK mcp; install it with: pip install 'cogview[mcp]'") from None
