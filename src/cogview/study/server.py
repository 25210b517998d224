"""The raters' pages: small HTML forms behind personal links, without accounts, cookies or external resources.

A form's answer is committed before the redirect to the next page. Pages work without JavaScript; with it, an
answer is retried while the server is unreachable. Every page's security policy forbids external content; a
POST must be same-origin and no larger than such a form.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from cogview.errors import CogViewError
from cogview.reports.html import environment
from cogview.study.records import HIGHEST, PICTURES, SCALES, Language
from cogview.study.store import Progress, Store
from cogview.study.translations import SCALE_TEXTS, TEXTS, preferred
from cogview.web.security import SecurityMiddleware, security_headers
from cogview.web.sockets import LOOPBACK, THEME, same_origin

try:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise CogViewError(
        f"the study's pages need {error.name}; install it with: pip install 'cogview[study]'"
    ) from None

if TYPE_CHECKING:
    from starlette.types import ASGIApp

HERE = Path(__file__).parent
STATIC = {
    THEME.name: "text/css; charset=utf-8",
    "study.css": "text/css; charset=utf-8",
    "study.js": "text/javascript; charset=utf-8",
    "study.svg": "image/svg+xml",
}
MAX_BODY = 4096
READ_SECONDS = 60.0  # timeout for receiving a form
HEADERS = security_headers("'self'", "'self'", "same-origin")
Form = dict[str, str]


class Refused(Exception):
    """A request that is answered with a message page: its status, and the key of heading and text."""

    def __init__(self, status: int, heading: str) -> None:
        super().__init__(heading)
        self.status, self.heading = status, heading


async def read_form(request: Request, origins: frozenset[str]) -> Form:
    """Read a same-origin form of at most MAX_BODY bytes; Refused for any other request."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "")
    hosts = {request.headers.get("host", ""), *origins}
    if not (same_origin(origin, hosts) if site is None else site == "same-origin"):
        raise Refused(403, "refused")
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/x-www-form-urlencoded":
        raise Refused(415, "refused")
    body = b""
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise Refused(413, "refused")
    except TimeoutError:
        raise Refused(408, "refused") from None
    try:
        return dict(parse_qsl(body.decode("utf-8"), strict_parsing=bool(body), max_num_fields=16))
    except ValueError as error:
        raise Refused(400, "refused") from error


def read_scores(form: Form) -> dict[str, int]:
    """The scores of a form that are present and in range."""
    texts = {name: form.get(name, "") for name in SCALES}
    return {
        name: int(text)
        for name, text in texts.items()
        if text in {str(number) for number in range(1, HIGHEST[name] + 1)}
    }


class Pages:
    """The pages of one study. ``origins``: further hosts, besides the requested one, of the pages."""

    def __init__(self, store: Store, origins: frozenset[str] = frozenset()) -> None:
        self.store, self.study, self.origins = store, store.study, origins
        self.groups = {group.key: group for group in self.study.groups}
        self.names = {name for group in self.study.groups for name in group.pictures.values()}
        self.templates = environment("cogview.study")

    # ---------------------------------------------------------------------------------------- plumbing

    def handler(
        self, respond: Callable[[Request, Progress, Form], Response]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint behind a personal link; ``respond`` runs in a thread, with the form of a POST."""

        async def endpoint(request: Request) -> Response:
            try:
                form = await read_form(request, self.origins) if request.method == "POST" else {}
                return await run_in_threadpool(self._respond, respond, request, form)
            except Refused as refused:
                return await run_in_threadpool(self.message, request, refused.status, refused.heading)
            except ClientDisconnect:
                return Response(status_code=400)
            except CogViewError:
                return await run_in_threadpool(self.message, request, 503, "trouble")

        return endpoint

    def _respond(
        self, respond: Callable[[Request, Progress, Form], Response], request: Request, form: Form
    ) -> Response:
        rater = self.store.rater(request.path_params["token"])
        if rater is None:
            raise Refused(404, "no_link")
        return respond(request, self.store.progress(rater), form)

    def render(self, template: str, language: Language, status: int = 200, **values: Any) -> Response:
        """Render a page; adds the values that every template needs."""
        common = {
            "t": TEXTS[language],
            "scales": SCALE_TEXTS[language],
            "highest": HIGHEST,
            "language": language,
            "title": self.study.title,
            "size": self.study.size,
            "home": "",
            "total": 0,
            "answered": 0,
            "problem": "",
        }
        html = self.templates.get_template(template).render(common | values)
        return HTMLResponse(html, status)

    def message(self, request: Request, status: int, heading: str) -> Response:
        """A page with only a message."""
        language = preferred(request.headers.get("accept-language", ""))
        texts = TEXTS[language]
        return self.render(
            "message.html", language, status, heading=texts[heading], text=texts[f"{heading}_text"]
        )

    def _page(self, request: Request, progress: Progress, template: str, **values: Any) -> Response:
        """Render a page for a rater."""
        steps = progress.steps
        return self.render(
            template,
            self._language(request, progress),
            home=self._home(progress.rater),
            here=request.url.path,
            rater=progress.rater,
            positions=progress.positions,
            total=len(steps),
            answered=sum(map(progress.answered, steps)),
            **values,
        )

    def _language(self, request: Request, progress: Progress) -> Language:
        return progress.language or preferred(request.headers.get("accept-language", ""))

    def _home(self, rater: int) -> str:
        return f"/r/{self.store.token(rater)}"

    def _link(self, progress: Progress, step: tuple[int, int | None] | None) -> str:
        home = self._home(progress.rater)
        return f"{home}/{step[0]}/{step[1] or 'best'}" if step else home

    def _go_on(self, request: Request, progress: Progress) -> Response:
        """Redirect to the first step without an answer; a JSON response for the page's script."""
        link = self._link(progress, progress.next)
        if request.headers.get("accept") == "application/json":
            return JSONResponse({"next": link})
        return RedirectResponse(link, 303)

    def _step(self, request: Request, progress: Progress) -> tuple[int, int | None]:
        """The step in the request's path; Refused if there is none."""
        step = (int(request.path_params["position"]), request.path_params.get("slot"))
        if step not in progress.steps:
            raise Refused(404, "no_page")
        return step

    def _context(self, request: Request, progress: Progress, step: tuple[int, int | None]) -> dict[str, Any]:
        """Template values of a group's pages: captions, the rater's language first; images; the back link."""
        position, steps = step[0], progress.steps
        slots = progress.slots(position)
        shown = [progress.shown[position, slot] for slot in range(1, slots + 1)]
        group, index = self.groups[shown[0].caption], steps.index(step)
        language = self._language(request, progress)
        captions = sorted(group.captions.items(), key=lambda item: (item[0] != language, item[0]))
        return {
            "position": position,
            "slots": slots,
            "captions": captions,
            "pictures": [group.pictures[image.model] for image in shown],
            "scored": [slot for slot in range(1, slots + 1) if (position, slot) in progress.scores],
            "back": self._link(progress, steps[index - 1] if index else None),
        }

    # ---------------------------------------------------------------------------------------- pages

    def intro(self, request: Request, progress: Progress, form: Form) -> Response:
        """The introduction, or thanks at the end."""
        slots, finished = progress.slots(1), progress.next is None
        return self._page(request, progress, "intro.html", slots=slots, finished=finished)

    def go_on(self, request: Request, progress: Progress, form: Form) -> Response:
        """Redirect to where the rater left off."""
        return self._go_on(request, progress)

    def score(self, request: Request, progress: Progress, form: Form) -> Response:
        """One image and its four scores."""
        position, slot = self._step(request, progress)
        assert slot
        values: Mapping[str, int] = progress.scores.get((position, slot), {})
        if request.method == "POST":
            values = read_scores(form)
            if len(values) == len(SCALES):
                self.store.score(progress.rater, position, slot, values)
                return self._go_on(request, self.store.progress(progress.rater))
        context = self._context(request, progress, (position, slot))
        missing = TEXTS[self._language(request, progress)]["missing"]
        response = self._page(
            request,
            progress,
            "score.html",
            **context,
            slot=slot,
            picture=context["pictures"][slot - 1],
            values=values,
            problem=missing if request.method == "POST" else "",
        )
        response.status_code = 422 if request.method == "POST" else 200
        return response

    def best(self, request: Request, progress: Progress, form: Form) -> Response:
        """All images of a caption, for choosing the best."""
        position, _ = step = self._step(request, progress)
        slots = progress.slots(position)
        if any((position, slot) not in progress.scores for slot in range(1, slots + 1)):
            if request.method == "POST":
                raise Refused(409, "early")
            return self._go_on(request, progress)
        problem = ""
        if request.method == "POST":
            problem, slot = "missing_best", form.get("best", "")
            if slot in {str(number) for number in range(1, slots + 1)}:
                self.store.choose(progress.rater, position, int(slot))
                return self._go_on(request, self.store.progress(progress.rater))
        context = self._context(request, progress, step)
        texts = TEXTS[self._language(request, progress)]
        values = {"best": progress.choices[position]} if position in progress.choices else {}
        response = self._page(
            request,
            progress,
            "best.html",
            **context,
            values=values,
            problem=texts[problem] if problem else "",
        )
        response.status_code = 422 if problem else 200
        return response

    def set_language(self, request: Request, progress: Progress, form: Form) -> Response:
        """Change the language and redirect back."""
        home, back = self._home(progress.rater), form.get("back", "")
        if form.get("to") in ("en", "zh"):
            self.store.set_language(progress.rater, form["to"])  # type: ignore[arg-type]
        return RedirectResponse(back if back == home or back.startswith(f"{home}/") else home, 303)

    # ---------------------------------------------------------------------------------------- other paths

    def front(self, request: Request) -> Response:
        """The page for visitors without a personal link."""
        return self.message(request, 200, "no_link")

    def static(self, request: Request) -> Response:
        """Style sheets and scripts."""
        name = request.path_params["name"]
        if name not in STATIC:
            return self.message(request, 404, "no_page")
        path = THEME if name == THEME.name else HERE / "static" / name
        return FileResponse(path, media_type=STATIC[name], headers={"Cache-Control": "max-age=3600"})

    def picture(self, request: Request) -> Response:
        """An image; its random name is only known to raters who were shown it."""
        name = request.path_params["name"]
        if name not in self.names:
            return self.message(request, 404, "no_page")
        headers = {"Cache-Control": "private, max-age=604800, immutable"}
        return FileResponse(self.store.directory / PICTURES / name, media_type="image/png", headers=headers)

    def missing(self, request: Request, error: Exception) -> Response:
        """Any other path or method."""
        return self.message(request, getattr(error, "status_code", 404), "no_page")

    def trouble(self, request: Request, error: Exception) -> Response:
        """An unexpected error; the script tries again."""
        return self.message(request, 500, "trouble")


def application(store: Store, hosts: tuple[str, ...] = LOOPBACK, url: str | None = None) -> ASGIApp:
    """The ASGI application of a study.

    Args:
        hosts: allowed host names ("*" for any), besides that of ``url``.
        url: the public address for raters, if it is not the server's own.
    """
    public = urlsplit(url or "")
    pages = Pages(store, frozenset({public.netloc} - {""}))
    link, both = "/r/{token}", ["GET", "POST"]
    routes = [
        Route("/", pages.front),
        Route("/static/{name}", pages.static),
        Route("/pictures/{name}", pages.picture),
        Route(link, pages.handler(pages.intro)),
        Route(f"{link}/next", pages.handler(pages.go_on)),
        Route(f"{link}/language", pages.handler(pages.set_language), methods=["POST"]),
        Route(f"{link}/{{position:int}}/best", pages.handler(pages.best), methods=both),
        Route(f"{link}/{{position:int}}/{{slot:int}}", pages.handler(pages.score), methods=both),
    ]
    handlers: dict[Any, Any] = {404: pages.missing, 405: pages.missing, 500: pages.trouble}
    app = Starlette(routes=routes, exception_handlers=handlers)
    names = frozenset(name.lower() for name in (*hosts, public.hostname or hosts[0]))
    return SecurityMiddleware(app, names, HEADERS)


def serve(store: Store, listener: socket.socket, hosts: tuple[str, ...], url: str | None) -> None:
    """Serve until interrupted."""
    try:
        import uvicorn

        from cogview.web.connections import protocol
    except ImportError:
        raise CogViewError(
            "serving a study needs uvicorn; install it with: pip install 'cogview[study]'"
        ) from None
    config = uvicorn.Config(
        application(store, hosts, url),
        log_level="warning",
        access_log=False,  # paths contain the raters' tokens
        server_header=False,
        http=protocol(HEADERS),
        timeout_keep_alive=10,
        timeout_graceful_shutdown=5,
        ws="none",
        lifespan="off",
    )
    with store.attached():
        uvicorn.Server(config).run(sockets=[listener])


def check_address(host: str, url: str | None) -> None:
    """Raise CogViewError if links to ``host``, or below ``url``, would not work."""
    if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise CogViewError(f"--url {url}: expected an address such as https://study.example")
    if url is None and host in ("0.0.0.0", "::"):
        raise CogViewError(f"--host {host} is no name for links; add --url http://NAME:PORT")
