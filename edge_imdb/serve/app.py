"""make_app: the paths of the server, from the request's body to the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HTTPRequest
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import __version__
from ..errors import EdgeImdbError, InputError
from ..tasks import TASKS
from ..tasks.http import Endpoint, Request
from .errors import ClientGone, RequestError, error_body, status_of
from .guard import WEB, Guard, error_headers, send_json
from .openapi import docs_page, openapi
from .page import Page
from .state import State
from .work import Job, Work

_ROOT = "Hugging Face inference API: what InferenceClient(base_url) posts to"
# How many of the largest bodies may be in memory at a time.
_BODIES = 32


class Inference:
    """An ASGI application for one path on which texts are worked on."""

    def __init__(self, state: State, task: str, endpoint: Endpoint) -> None:
        self._state = state
        self._task = task
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state, work = self._state, self._state.work
        if work is None:
            raise RequestError(503, "The model is still loading: try again in a second.", 1)
        body = await self._body(scope, receive)
        request: Request = self._endpoint.parse(body, state.models[self._task], state.limits)
        del body
        job = work.submit(self._task, request.calls, request.weight)
        gone = asyncio.create_task(_cancel_when_gone(receive, work, job))
        try:
            results = await job.future
        except InputError as error:
            if len(job.results) == 1:
                raise
            raise InputError(f"Text {job.failed + 1} of {len(job.results)}: {error}") from None
        finally:
            gone.cancel()
        await send_json(send, request.answer(results))

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The request's body. Raises RequestError if it is too large, ClientGone if the client goes away."""
        state, most = self._state, self._state.limits.max_body
        too_large = RequestError(413, f"The body is larger than {most} bytes: send less at once.")
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if int(length) > most:
            raise too_large
        parts: list[bytes] = []
        size, more = 0, True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                more = message.get("more_body", False)
                size += len(part)
                state.buffered += len(part)
                if size > most:
                    raise too_large
                if state.buffered > _BODIES * most:
                    raise RequestError(429, "The server holds too many large requests: try again in 1 s.", 1)
                parts.append(part)
        finally:
            state.buffered -= size
        return parts[0] if len(parts) == 1 else b"".join(parts)


async def _cancel_when_gone(receive: Receive, work: Work, job: Job) -> None:
    """Wait until the client closes its connection; then what it waits for never runs."""
    while (await receive())["type"] != "http.disconnect":
        pass
    work.cancel(job)


def make_app(
    state: State,
    key: str | None = None,
    open_metrics: bool = False,
    origins: tuple[str, ...] = (),
    access_log: bool = True,
) -> ASGIApp:
    """The whole server as an ASGI application; the arguments are those of Guard, and ``origins`` that CORS allows."""
    inference: dict[str, tuple[str, Endpoint]] = {}
    # In the order of the registry, so that "/" doesn't depend on the order of --task.
    for name in (name for name in TASKS if name in state.tasks):
        for endpoint in TASKS[name].http.endpoints:
            inference.setdefault("/", (name, replace(endpoint, path="/", summary=_ROOT)))
            inference[endpoint.path] = (name, endpoint)
    with_page = all(name in state.tasks for name in TASKS if TASKS[name].page_needs)
    document = openapi(inference, state.limits, key is not None, with_page)

    async def health(request: HTTPRequest) -> Response:
        if not state.ready or state.stopping:
            sentence = "The server is shutting down." if state.stopping else "The model is still loading."
            return JSONResponse(error_body(503, sentence), 503, {"Retry-After": "1"})
        return JSONResponse({"status": "ok"})

    def info_of(task: str) -> Callable[[HTTPRequest], Any]:
        async def info(request: HTTPRequest) -> Response:
            if not state.ready:
                return JSONResponse(error_body(503, "The model is still loading."), 503, {"Retry-After": "1"})
            return JSONResponse(_info(state, task))

        return info

    async def metrics(request: HTTPRequest) -> Response:
        page, kind = state.metrics.page()
        return Response(page, headers={"Content-Type": kind})

    async def described(request: HTTPRequest) -> Response:
        return JSONResponse(document)

    async def docs(request: HTTPRequest) -> Response:
        return HTMLResponse(docs_page(document))

    async def home(request: HTTPRequest) -> Response:
        return RedirectResponse("/docs", 307)

    pages: dict[str, Callable[[HTTPRequest], Any]] = {
        "/health": health,
        "/info": info_of(state.tasks[0]),
        "/metrics": metrics,
        "/docs": docs,
        "/api-doc/openapi.json": described,
    }
    for task in state.tasks:
        pages |= {f"/models/{task}/health": health, f"/models/{task}/info": info_of(task)}
    routes = [
        Route(path, Inference(state, task, endpoint), methods=["POST"]) for path, (task, endpoint) in inference.items()
    ]
    routes += [Route(path, page, methods=["GET"]) for path, page in pages.items()]
    routes.append(Route("/", home, methods=["GET"]))
    if with_page:
        page = Page(state)
        routes.append(Route(f"{WEB}{{path:path}}", page.answer, methods=["GET"]))
        routes.append(Route(WEB.rstrip("/"), page.home, methods=["GET"]))
        pages[WEB] = page.answer
    handlers = {EdgeImdbError: _refused, HTTPException: _no_such_path}
    app: ASGIApp = Starlette(routes=routes, exception_handlers=handlers)
    tasks = {path: task for path, (task, _) in inference.items()}
    app = Guard(app, state, tasks, pages, key, open_metrics, access_log)
    if origins:
        # Outermost, so that a browser may read refusals too, and its preflight needs no key.
        headers = ["Authorization", "Content-Type"]
        app = CORSMiddleware(app, origins, ["GET", "POST"], headers, expose_headers=["Retry-After"])
    return app


def _info(state: State, task: str) -> dict[str, Any]:
    """What text-embeddings-inference's /info answers, without the fields that don't apply here."""
    model = state.models.get(task)
    if model is None:
        raise RequestError(503, "The model is still loading.", 1)
    bundle, limits = model.bundle, state.limits
    return {
        "model_id": f"edge-imdb/{task}",
        "model_sha": None,
        "model_dtype": model.precision,
        "model_type": TASKS[task].http.model_type(bundle),
        "model_pipeline_tag": TASKS[task].pipeline_tag,
        "max_concurrent_requests": limits.max_connections,
        "max_input_length": bundle.truncation.max_length,
        "max_batch_tokens": bundle.truncation.max_length,
        "max_client_batch_size": limits.max_texts,
        "auto_truncate": True,
        "tokenization_workers": state.work.workers if state.work else 0,
        "version": __version__,
    }


async def _refused(request: HTTPRequest, error: Exception) -> Response:
    if isinstance(error, RequestError):
        headers = {name.decode(): value.decode() for name, value in error_headers(error)}
        return _error(error.status, str(error), headers)
    assert isinstance(error, EdgeImdbError)
    return _error(status_of(error), str(error))


async def _no_such_path(request: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {
        404: "There is nothing at this path: see /docs.",
        405: "This path doesn't take that method: see /docs.",
    }
    return _error(error.status_code, sentences.get(error.status_code, error.detail), dict(error.headers or {}))


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    content = error_body(status, sentence.encode("utf-8", "replace").decode())
    return JSONResponse(content, status, headers)
