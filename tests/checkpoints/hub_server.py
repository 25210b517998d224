"""A hub for the tests: the part of Hugging Face's protocol that its client uses to push and fetch models."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
import yaml
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from cogview.web.sockets import listen

CHECKED = {"license", "library_name", "pipeline_tag", "language", "tags"}


@dataclass
class Hub:
    """Repositories: commits (newest last), each with all its files; branches by name."""

    token: str
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)  # repository, commit, file
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.commits.get(repository, {})
        commit = self.branches.get(repository, {}).get(revision, revision)
        return (commit, commits[commit]) if commit in commits else None

    def commit(self, repository: str, branch: str, files: dict[str, bytes]) -> str:
        before = self.find(repository, branch)
        files = (before[1] if before else {}) | files
        name = hashlib.sha1(json.dumps(sorted(files)).encode() + b"".join(files.values())).hexdigest()
        self.commits.setdefault(repository, {})[name] = files
        self.branches.setdefault(repository, {})[branch] = name
        return name


def application(hub: Hub) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def noted(request: Request, call_next: Any) -> Response:
        hub.asked.append(f"{request.method} {request.url.path}")
        writes = request.method == "POST" and not request.url.path.endswith("validate-yaml")
        if writes and request.headers.get("authorization") != f"Bearer {hub.token}":
            return JSONResponse({"error": "no such token"}, 401)
        found: Response = await call_next(request)
        return found

    @app.post("/api/repos/create")
    async def create(request: Request) -> JSONResponse:
        body = await request.json()
        name = "/".join(filter(None, [body.get("organization"), body["name"]]))
        if name in hub.commits:
            return JSONResponse({"error": "exists", "url": f"{request.base_url}{name}"}, 409)
        hub.commit(name, "main", {".gitattributes": b""})
        return JSONResponse({"url": f"{request.base_url}{name}", "name": name})

    @app.post("/api/models/{owner}/{name}/branch/{branch}")
    async def create_branch(owner: str, name: str, branch: str) -> JSONResponse:
        repository = f"{owner}/{name}"
        hub.branches[repository].setdefault(branch, hub.branches[repository]["main"])
        return JSONResponse({})

    @app.post("/api/validate-yaml")
    async def validate(request: Request) -> JSONResponse:
        """As the hub: the card has to begin with metadata, and what people look for should be there."""
        text = (await request.json())["content"]
        if not text.startswith("---\n"):
            return JSONResponse({"errors": [{"message": "no metadata"}], "warnings": []}, 400)
        told = yaml.safe_load(text.split("---\n")[1])
        warnings = [{"message": f"no {name}"} for name in sorted(CHECKED - set(told))]
        return JSONResponse({"errors": [], "warnings": warnings})

    @app.post("/api/models/{owner}/{name}/preupload/{revision}")
    async def preupload(request: Request) -> JSONResponse:
        files = (await request.json())["files"]
        told = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
        return JSONResponse({"files": told})

    @app.post("/api/models/{owner}/{name}/commit/{revision}")
    async def commit(owner: str, name: str, revision: str, request: Request) -> JSONResponse:
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        files = {
            one["value"]["path"]: base64.b64decode(one["value"]["content"])
            for one in lines
            if one["key"] == "file"
        }
        made = hub.commit(f"{owner}/{name}", revision, files)
        address = f"{request.base_url}{owner}/{name}/commit/{made}"
        return JSONResponse({"success": True, "commitOid": made, "commitUrl": address})

    @app.get("/api/models/{owner}/{name}/revision/{revision}")
    async def information(owner: str, name: str, revision: str) -> JSONResponse:
        repository = f"{owner}/{name}"
        found = hub.find(repository, revision)
        if found is None:
            kind = "RevisionNotFound" if repository in hub.commits else "RepoNotFound"
            return JSONResponse({"error": kind}, 404, {"X-Error-Code": kind})
        names = [{"rfilename": one} for one in found[1]]
        return JSONResponse({"id": repository, "modelId": repository, "sha": found[0], "siblings": names})

    @app.get("/api/models/{owner}/{name}/tree/{revision}")
    async def tree(owner: str, name: str, revision: str) -> JSONResponse:
        found = hub.find(f"{owner}/{name}", revision)
        files = found[1].items() if found else ()
        return JSONResponse(
            [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in files
            ]
        )

    @app.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    async def resolve(owner: str, name: str, revision: str, path: str) -> Response:
        found = hub.find(f"{owner}/{name}", revision)
        if found is None or path not in found[1]:
            return JSONResponse({"error": "EntryNotFound"}, 404, {"X-Error-Code": "EntryNotFound"})
        data = found[1][path]
        etag = hashlib.sha256(data).hexdigest()
        return Response(data, headers={"X-Repo-Commit": found[0], "ETag": f'"{etag}"'})

    return app


@contextmanager
def hub_server(token: str) -> Iterator[tuple[str, Hub]]:
    """A hub in the background: its address, and what it holds."""
    hub, listener = Hub(token), listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(hub), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", hub
    finally:
        server.should_exit = True
        thread.join()
