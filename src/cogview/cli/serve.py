"""``cogview serve``: models over HTTP, and the studio, a page to draw with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogview.cli.opening import (
    DecodingOption,
    DeviceOption,
    Place,
    ThreadsOption,
    check_model,
    torch_device,
    use_threads,
)
from cogview.cli.precision import PrecisionOption
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.serving.labelling import Labelling

DEFAULT, EDITS = "pictogram", "pictogram-2"


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="Names (see cogview models) or directories; the first is the default.",
            show_default="pictogram, and pictogram-2 where it is installed",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; the default is this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ask for one of the keys in this file, one on each line."),
    ] = None,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Listen to other machines without asking for a key.")
    ] = False,
    queue: Annotated[int, typer.Option(min=1, max=10_000, help="Requests that may wait.")] = 32,
    timeout: Annotated[
        float,
        typer.Option(min=1, metavar="SECONDS", help="A request is given up after so long without progress."),
    ] = 300,
    together: Annotated[
        int, typer.Option(min=1, max=1024, help="Pictures of several requests to draw in one batch.")
    ] = 16,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MODEL",
            help="Another name of a model, as in dall-e-3=pictogram; may come again. OpenAI's need none.",
        ),
    ] = None,
    content_producer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Who answers for the pictures, for the AIGC label in their files."),
    ] = None,
    visible_label: Annotated[
        bool, typer.Option("--visible-label", help="Write AI生成 on pictures of 128 pixels and more.")
    ] = False,
    c2pa_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Sign pictures (C2PA) with this certificate, PEM.")
    ] = None,
    c2pa_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of that, PEM.")] = None,
    max_upload: Annotated[int, typer.Option(min=1, max=1024, metavar="MB", help="The largest upload.")] = 16,
    precision: PrecisionOption = "fp32",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Exactly the same whatever else is drawn; slower.")
    ] = False,
    decoding: DecodingOption = "auto",
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    check: Annotated[
        bool, typer.Option("--check", help="Read the models, see that the port is free, and stop.")
    ] = False,
    lora: Annotated[
        str | None, typer.Option(metavar="DIR", help="An adapter for the model (see cogview generate).")
    ] = None,
) -> None:
    """Serve models over HTTP: an API of the OpenAI Images shape, and a page to draw with.

    Examples:

      cogview serve

      cogview serve pictogram models/mine --port 8080

      cogview serve --host 0.0.0.0 --api-key-file keys.txt

    SIGTERM and Ctrl-C finish what is being drawn, then stop.
    """
    names = models or default_models()
    if lora is not None and len(names) > 1:
        raise CogViewError("--lora goes with one model; serve the others apart")
    import cogview.serving  # noqa: F401  (refused at once where libraries are missing)
    from cogview.web.sockets import is_loopback, listen, read_keys

    if not is_loopback(host) and api_key_file is None and not without_key:
        raise CogViewError(
            f"--host {host} lets other machines in; add --api-key-file FILE, or --without-key if all may draw"
        )
    labelling = _labelling(content_producer, visible_label, c2pa_certificate, c2pa_key)
    keys = [] if api_key_file is None else read_keys(api_key_file)
    place = Place(device, threads, precision, decoding)
    families = [check_model(name) for name in names]
    if lora is not None:
        families[0].adapter(lora)
    listener = listen(host, port)
    typer.echo(f"loading {', '.join(names)}: some seconds, and more on a busy machine", err=True)
    from cogview.serving import run
    from cogview.serving.app import Server
    from cogview.serving.guard import Rules
    from cogview.serving.metrics import Metrics
    from cogview.serving.openai.names import parse_aliases
    from cogview.serving.served import Models
    from cogview.serving.worker import Worker

    use_threads(threads, *(family.directory for family in families))
    options: dict[str, Any] = {
        "device": torch_device(place),
        "precision": precision,
        "deterministic": deterministic,
        "decoding": decoding,
        "lora": lora,
    }
    loaded, metrics = Models.load(names, **options), Metrics()
    loaded.aliases = parse_aliases(alias or [], loaded.by_name)
    rules = Rules(run.hosts_for(host, bool(keys)), keys, max_upload << 20)
    server = Server(loaded, Worker(metrics, queue, timeout, together), metrics, rules, labelling=labelling)
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listener.getsockname()[1]}"
    typer.echo(f"studio  {address}/")
    typer.echo(f"api     {address}/v1")
    if check:
        listener.close()
        return
    typer.echo(f"serving {', '.join(loaded.by_name)}; Ctrl-C stops", err=True)
    run.serve(server, listener)


def _labelling(producer: str | None, visible: bool, certificate: Path | None, key: Path | None) -> Labelling:
    from cogview.labels import Label
    from cogview.serving.labelling import Labelling
    from cogview.signing import Signer

    if (certificate is None) != (key is None):
        raise CogViewError("--c2pa-certificate and --c2pa-key go together")
    signer = None if certificate is None or key is None else Signer(certificate, key)
    label = Label() if producer is None else Label(producer)
    return Labelling(label, visible, signer)


def default_models() -> list[str]:
    """The default model, and beside it the one that edits, where there is one."""
    from cogview.checkpoints.bundle import installed

    return [DEFAULT, *([EDITS] if EDITS in installed() else [])]
