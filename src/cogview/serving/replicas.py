"""Ray Serve: replicas of the server on one or more machines, behind one address, with the same HTTP API.

::

    serve run cogview.serving.replicas:app
    serve run deploy/ray/cogview.yaml

Each replica is a complete application (:mod:`cogview.serving.app`) with its own models, queue and compute
thread. Images that are returned as URLs are stored in one actor, so that every replica can send them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.serving.pictures import ImageStore

try:
    import ray
    from ray import serve
except ImportError as error:
    raise CogViewError(
        f"replicas need {error.name}; install it with: pip install 'cogview[replicas]'"
    ) from None

if TYPE_CHECKING:
    from starlette.types import ASGIApp

STORE = "cogview-pictures"  # name of the image store's actor
OTHER_REQUESTS = 64  # concurrent requests besides queued ones: pages, queue status, metrics


class Replicas(Config):
    """``args`` of the application in a Serve config file.

    cpus, gpus: resources of one replica, which computes with one thread per CPU; stop_seconds: time for a
    stopping replica to finish its requests; the other fields are the options of ``cogview serve`` of the same
    names, for one replica.
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
    stop_seconds: float = Field(180, gt=0)


class SharedImageStore(ImageStore):
    """The image store of all replicas: one actor, which lives as long as the cluster."""

    def __init__(self) -> None:
        options = {"name": STORE, "namespace": STORE, "get_if_exists": True, "lifetime": "detached"}
        actor: Any = ray.remote(ImageStore)
        self._actor: Any = actor.options(num_cpus=0, **options).remote()

    def put(self, data: bytes, kind: str) -> str:
        """Store a file; returns its name."""
        return cast(str, ray.get(self._actor.put.remote(data, kind)))

    def get(self, name: str) -> tuple[bytes, str] | None:
        """A file and its media type; None if the name is unknown or expired."""
        return cast("tuple[bytes, str] | None", ray.get(self._actor.get.remote(name)))


def app(args: Replicas) -> serve.Application:
    """The Serve application; each replica loads the models when it starts."""

    def build() -> ASGIApp:
        return replica(args)

    options = {"num_cpus": args.cpus, "num_gpus": args.gpus}
    deployment: Any = serve.deployment(
        serve.ingress(build)(),
        name="cogview",
        num_replicas=args.replicas,
        max_ongoing_requests=args.queue + OTHER_REQUESTS,
        graceful_shutdown_timeout_s=args.stop_seconds,
        ray_actor_options=options,
    )
    return cast(serve.Application, deployment.bind())


def replica(args: Replicas) -> ASGIApp:
    """The application of one replica, with its worker started."""
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
    # Without keys only local host names are accepted: a replica cannot see where Serve's proxy listens.
    rules = Rules(hosts_for("0.0.0.0" if keys else "127.0.0.1"), keys, args.max_upload << 20)
    worker = Worker(metrics, args.queue, args.timeout, args.together)
    worker.start()
    return application(Server(models, worker, metrics, rules, SharedImageStore()))
