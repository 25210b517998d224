"""The server as replicas of Ray Serve: the same API, the same images, and nothing lost when one is killed."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cogview import CogView
from tests.serving.conftest import GENERATIONS, Reply, Site, until

pytest.importorskip("ray.serve", reason="the extra `replicas` is not installed", exc_type=ImportError)
import ray
from ray import serve

from cogview.serving.replicas import Replicas, app

pytestmark = pytest.mark.slow
KEY = "sk-0123456789abcdef"


@pytest.fixture(scope="module")
def site(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two replicas of a tiny family, which ask for a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(f"{KEY} desk\n", "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app(Replicas(models=(str(family),), cpus=0.5, api_key_file=keys)))
        yield Site(None, port)  # type: ignore[arg-type]  # it runs in other processes
    finally:
        serve.shutdown()
        ray.shutdown()
        patch.undo()


def draw(site: Site, **asked: Any) -> Reply:
    body = {"prompt": "a red circle", "seed": 7, **asked}
    return site.ask(GENERATIONS, body, Authorization=f"Bearer {KEY}")


def replicas() -> list[str]:
    """The names of the actors that answer."""
    names = [str(one["name"]) for one in ray.util.list_named_actors(all_namespaces=True)]
    return [name for name in names if name.startswith("SERVE_REPLICA") and "#cogview#" in name]


def test_replicas_answer_as_the_server_does(site: Site, family: Path) -> None:
    assert len(replicas()) == 2
    images = CogView.from_pretrained(family).generate("a red circle", n=2, seed=7)
    assert draw(site, n=2).files == [image.png() for image in images]
    refused = site.ask(GENERATIONS, {"prompt": "a red circle"})
    assert refused.status == 401 and refused.error["code"] == "invalid_api_key"
    assert refused.headers["content-security-policy"]
    assert draw(site, no_such_field=1).error["code"] == "unknown_parameter"


def test_an_image_answered_by_address_is_found_by_every_replica(site: Site) -> None:
    """By either of two replicas; of 12 requests one or the other would miss it but once in 2,000 runs."""
    address = draw(site, response_format="url").json["data"][0]["url"]
    path = "/v1/pictures/" + address.rpartition("/")[2]
    assert {site.ask(path).status for _ in range(12)} == {200}
    assert site.ask(path).body == draw(site).files[0]


def test_images_are_streamed(site: Site) -> None:
    found = draw(site, stream=True, partial_images=1)
    assert found.headers["content-type"].startswith("text/event-stream")
    names = [line for line in found.body.decode().splitlines() if line.startswith("event: ")]
    assert names[-1] == "event: image_generation.completed" and len(names) > 1


def test_a_killed_replica_is_replaced_and_nothing_is_lost(site: Site) -> None:
    """Requests that fail are asked again, as OpenAI's client does; every one is answered, and the same."""
    before = replicas()
    expected = draw(site).files
    ray.kill(ray.get_actor(before[0], namespace="serve"), no_restart=True)
    for _ in range(10):
        answer = draw(site)
        for wait in (1, 2, 4):
            if answer.status == 200:
                break
            assert answer.status >= 500
            time.sleep(wait)
            answer = draw(site)
        assert answer.files == expected
    until(lambda: len(set(replicas()) - {before[0]}) == 2)
