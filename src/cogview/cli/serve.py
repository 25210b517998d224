"""``cogview serve``: serve models over HTTP, with the studio in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cogview.checkpoints.bundle import ModelBundle, installed
from cogview.cli.options import DETERMINISTIC, Address, grouped
from cogview.config import Config, option
from cogview.errors import CogViewError
from cogview.pipelines.task_requests import DecodeOptions, use_threads

if TYPE_CHECKING:
    from cogview.serving.labelling import Labelling
    from cogview.serving.quotas import Key

DEFAULT, EDITOR = "pictogram", "pictogram-2"
MODELS = option(
    (),
    "Names (see cogview models) or directories; the first is the default.",
    argument=True,
    metavar="MODEL...",
    shown="pictogram, and pictogram-2 if installed",
)


class Serving(Config):
    """The models to serve, and the server's limits and features."""

    models: tuple[str, ...] = MODELS
    lora: str | None = option(None, "An adapter for the model (see cogview generate).", metavar="DIR")
    deterministic: bool = DETERMINISTIC
    queue: int = option(32, "Maximum number of waiting requests.", ge=1, le=10_000)
    timeout: float = option(
        300, "Cancel a request after this time without progress.", metavar="SECONDS", ge=1
    )
    together: int = option(16, "Maximum number of images of several requests in one batch.", ge=1, le=1024)
    alias: tuple[str, ...] = option(
        (),
        "Another name for a model, as in dall-e-3=pictogram; may be repeated. OpenAI's names need none.",
        metavar="NAME=MODEL",
        repeated=True,
    )
    max_upload: int = option(16, "Maximum size of an upload.", metavar="MB", ge=1, le=1024)
    drain: float = option(
        0, "After SIGTERM, accept requests this long with /readyz 503, then drain.", metavar="SECONDS", ge=0
    )
    traces: bool = option(False, "Send OpenTelemetry traces to OTEL_EXPORTER_OTLP_ENDPOINT.")
    train: Path | None = option(
        None, "Let users train models on uploaded images, which are stored in this folder.", metavar="DIR"
    )
    check: bool = option(False, "Load the models, check that the port is free, and exit.")


class Labels(Config):
    """How images are labelled as generated."""

    content_producer: str | None = option(
        None, "Who is responsible for the images, for the AIGC label in their files.", metavar="NAME"
    )
    visible_label: bool = option(False, "Write AI生成 on images of 128 pixels and more.")
    c2pa_certificate: Path | None = option(
        None, "Sign images (C2PA) with this certificate, PEM.", metavar="FILE"
    )
    c2pa_key: Path | None = option(None, "Private key of the certificate, PEM.", metavar="FILE")

    def labelling(self) -> Labelling:
        """The server's labelling; raises CogViewError if only one of certificate and key is given."""
        from cogview.checkpoints.provenance import Label
        from cogview.serving.labelling import Labelling
        from cogview.signing import Signer

        certificate, key, producer = self.c2pa_certificate, self.c2pa_key, self.content_producer
        if (certificate is None) != (key is None):
            raise CogViewError("--c2pa-certificate and --c2pa-key go together")
        signer = None if certificate is None or key is None else Signer(certificate, key)
        label = Label() if producer is None else Label(producer)
        return Labelling(label, self.visible_label, signer)


class Access(Config):
    """Who may connect."""

    api_key_file: Path | None = option(
        None, "Require one of the keys in this file: lines of KEY NAME 60/minute;1000/day.", metavar="FILE"
    )
    without_key: bool = option(False, "Let other machines connect without a key.")

    def keys(self, host: str) -> list[Key]:
        """The API keys; raises CogViewError if other machines could connect without any unintentionally."""
        from cogview.serving.quotas import read_keys
        from cogview.web.sockets import is_loopback

        if not is_loopback(host) and self.api_key_file is None and not self.without_key:
            raise CogViewError(
                f"--host {host} lets other machines in; add --api-key-file FILE, or --without-key if anyone "
                "may use the server"
            )
        return [] if self.api_key_file is None else read_keys(self.api_key_file)


@grouped()
def serve(serving: Serving, address: Address, access: Access, labels: Labels, place: DecodeOptions) -> None:
    """Serve models over HTTP: an API compatible with OpenAI's, and a studio in the browser.

    Examples:

      cogview serve

      cogview serve pictogram models/mine --port 8080

      cogview serve --host 0.0.0.0 --api-key-file keys.txt

    SIGTERM and Ctrl-C finish the images in progress, then stop.
    """
    names, lora = list(serving.models) or default_models(), serving.lora
    if lora is not None and len(names) > 1:
        raise CogViewError("--lora needs a single model; serve the others separately")
    import cogview.serving  # noqa: F401  (raises CogViewError at once if libraries are missing)
    from cogview.web.sockets import is_loopback, listen, url_of

    keys, host = access.keys(address.host), address.host
    if serving.train is not None and not keys and not is_loopback(host):
        raise CogViewError("--train lets anyone who connects fill this disk: add --api-key-file FILE")
    families = [ModelBundle.find(name) for name in names]
    if lora is not None:
        families[0].adapter(lora)
    listener, labelling = listen(host, address.port), labels.labelling()
    typer.echo(f"loading {', '.join(names)}: this takes some seconds, more on a busy machine", err=True)
    from cogview.serving import run
    from cogview.serving.app import Server
    from cogview.serving.guard import Rules
    from cogview.serving.metrics import Metrics
    from cogview.serving.openai.names import parse_aliases
    from cogview.serving.served import Models
    from cogview.serving.tracing import start_exporting
    from cogview.serving.trainings import Trainings
    from cogview.serving.worker import Worker

    trainings = None if serving.train is None else Trainings(serving.train)
    use_threads(place.threads, *(family.directory for family in families))
    options: dict[str, Any] = {
        "device": place.torch_device(),
        "precision": place.precision,
        "deterministic": serving.deterministic,
        "decoding": place.decoding,
        "lora": lora,
    }
    loaded, metrics = Models.load(names, **options), Metrics()
    loaded.aliases = parse_aliases(list(serving.alias), loaded.by_name)
    rules = Rules(run.hosts_for(host, bool(keys)), keys, serving.max_upload << 20)
    worker = Worker(metrics, serving.queue, serving.timeout, serving.together)
    if trainings is not None:
        trainings.serve_in(loaded)
    server = Server(
        loaded, worker, metrics, rules, labelling=labelling, drain=serving.drain, trainings=trainings
    )
    if serving.traces:
        start_exporting()
    url = url_of(host, listener)
    typer.echo(f"studio  {url}/")
    typer.echo(f"api     {url}/v1")
    if serving.check:
        listener.close()
        return
    typer.echo(f"serving {', '.join(loaded.by_name)}; Ctrl-C stops", err=True)
    run.serve(server, listener)


def default_models() -> list[str]:
    """The default model, and the one that can edit, if it is installed."""
    return [DEFAULT, *([EDITOR] if EDITOR in installed() else [])]
