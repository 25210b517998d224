"""Ray Serve: copies of the server on one machine or many, behind one address, with the same HTTP API.

::

    serve run cogview.serving.replicas:app
    serve run deploy/ray/cogview.yaml

Each replica is the whole application (:mod:`cogview.serving.app`) with models, queue and computing thread of
its own. Images that are answered by address lie in one actor, so that every replica can send them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.serving.pictures import Shelf

try:
    import ray
    from ray import serve
except ImportError as error:
    raise CogViewError(
        f"replicas need {error.name}; install it with: pip install 'cogview[replicas]'"
    ) from None

if TYPE_CHECKING:
    from starlette.types import ASGIApp

SHELF = "cogview-pictures"  # the actor's name
LOOKS = 64  # requests beside those of the queue: pages, places in the queue, metrics


class Replicas(Config):
    """``args`` of the application in a Serve config file.

    cpus, gpus: of one replica, which computes with as many threads as it has CPUs; the rest are the options
    of ``cogview serve`` with these names, each for one replica.
    """

    models: tuple[str, ...] = Field(("pictogram",), min_length=1)
    replicas: int = Field(2, ge=1)
    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0)
    queue: int = Field(32, ge=1, le=10_000)
    timeout: float = Field(300, ge=1)
    together: int = Field(16, ge=1, le=1024)
    alias: tuple[str, ...] = ()
    max_upload: int = Field(16, ge=1, le=1024)
    api_key_file: Path | None = None
    stop_seconds: float = Field(180, gt=0)  # for a replica that stops to finish what it has taken


class SharedShelf(Shelf):
    """The shelf of all replicas: one actor, which lives as long as the cluster."""

    def __init__(self) -> None:
        options = {"name": SHELF, "namespace": SHELF, "get_if_exists": True, "lifetime": "detached"}
        actor: Any = ray.remote(Shelf)
        self._actor: Any = actor.options(num_cpus=0, **options).remote()

    def put(self, data: bytes, kind: str) -> str:
        """Keep a file; its name."""
        return cast(str, ray.get(self._actor.put.remote(data, kind)))

    def get(self, name: str) -> tuple[bytes, str] | None:
        """A file and its media type; None where there is none, or not any more."""
        return cast("tuple[bytes, str] | None", ray.get(self._actor.get.remote(name)))


def app(args: Replicas) -> serve.Application:
    """The Serve application; each replica reads the models when it starts."""

    def build() -> ASGIApp:
        return replica(args)

    options = {"num_cpus": args.cpus, "num_gpus": args.gpus}
    deployment: Any = serve.deployment(
        serve.ingress(build)(),
        name="cogview",
        num_replicas=args.replicas,
        max_ongoing_requests=args.queue + LOOKS,
        graceful_shutdown_timeout_s=args.stop_seconds,
        ray_actor_options=options,
    )
    return cast(serve.Application, deployment.bind())


def replica(args: Replicas) -> ASGIApp:
    """One replica's application, its worker started."""
    import torch

    from cogview.serving.app import Server, application
    from cogview.serving.guard import Rules
    from cogview.serving.metrics import Metrics
    from cogview.serving.openai.names import parse_aliases
    from cogview.serving.quotas import read_keys
    from cogview.serving.run import hosts_for
    from cogview.serving.served import Models
    from cogview.serving.worker import Worker

    torch.set_num_threads(max(1, round(args.cpus)))
    keys = [] if args.api_key_file is None else read_keys(args.api_key_file)
    models, metrics = Models.load(args.models), Metrics()
    models.aliases = parse_aliases(args.alias, models.by_name)
    # Without keys this machine alone: Serve's proxy decides where it listens, which a replica does not see.
    rules = Rules(hosts_for("0.0.0.0" if keys else "127.0.0.1"), keys, args.max_upload << 20)
    worker = Worker(metrics, args.queue, args.timeout, args.together)
    worker.start()
    return application(Server(models, worker, metrics, rules, SharedShelf()))
