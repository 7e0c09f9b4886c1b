"""make_app: the paths of the server, from the request's body to the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
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
from .encoding import decode_body, in_utf8
from .errors import ClientGone, RequestError, as_request_error, error_body
from .guard import HEALTH, WEB, Guard, error_headers, send_json
from .openapi import docs_page, openapi
from .page import Page
from .proxy import Target, Trusted, prefix_of, url_of
from .state import State
from .tokens import ENDPOINTS
from .work import Job, Work

_ROOT = "Hugging Face inference API: the path that InferenceClient(base_url) posts to"
_SAGEMAKER = "SageMaker: as /"
# Paths of TEI and of OpenAI's API that this server can't answer, with the sentence that says so.
_EMBEDDINGS = "This server has no embedding model: POST a text to /predict to classify it."
_ELSEWHERE = {
    **dict.fromkeys(("/embed", "/embed_all", "/embed_sparse", "/embeddings", "/v1/embeddings"), _EMBEDDINGS),
    **dict.fromkeys(("/rerank", "/similarity"), "This server has no model that compares texts: see /docs."),
    **dict.fromkeys(
        ("/v1/chat/completions", "/v1/completions", "/v1/responses"),
        "This server has no model that generates text: POST a text to /predict to classify it.",
    ),
}
# The memory for bodies, as a number of bodies of the largest size.
_BODIES = 32


class Inference:
    """An ASGI application for a path that runs a model."""

    def __init__(self, state: State, task: str, endpoint: Endpoint) -> None:
        self._state = state
        self._task = task
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state, work = self._state, self._state.work
        if work is None:
            raise RequestError(503, "The model is still loading: try again in a second.", 1)
        body = await self._body(scope, receive)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        body = decode_body(body, headers.get(b"content-encoding", ""), state.limits.max_body)
        body = in_utf8(body, headers.get(b"content-type", ""))
        request: Request = self._endpoint.parse(body, state.models[self._task], state.limits)
        del body
        job = work.submit(self._endpoint.queue or self._task, request.calls, request.weight)
        gone = asyncio.create_task(_cancel_when_gone(receive, work, job))
        try:
            results = await job.future
        except InputError as error:
            if len(job.results) == 1:
                raise
            raise type(error)(f"Text {job.failed + 1} of {len(job.results)}: {error}") from None
        finally:
            gone.cancel()
        warning = [] if request.warning is None else [(b"x-warning", request.warning.encode())]
        await send_json(send, request.answer(results), headers=warning)

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
    """Wait until the client closes its connection, and cancel the texts of its job that still wait."""
    while (await receive())["type"] != "http.disconnect":
        pass
    work.cancel(job)


def make_app(
    state: State,
    key: str | None = None,
    open_metrics: bool = False,
    origins: tuple[str, ...] = (),
    access_log: bool = True,
    root_path: str = "",
    trusted: Trusted | None = None,
) -> ASGIApp:
    """The whole server as an ASGI application.

    Arguments:
        key, open_metrics, access_log: those of Guard.
        origins: the websites whose pages may call the server; ``*`` allows all.
        root_path, trusted: those of Target.
    """
    inference: dict[str, tuple[str, Endpoint]] = {}
    # In the order of the registry, so that "/" doesn't depend on the order of --task.
    for name in (name for name in TASKS if name in state.tasks):
        for endpoint in TASKS[name].http.endpoints:
            inference.setdefault("/", (name, replace(endpoint, path="/", summary=_ROOT)))
            inference[endpoint.path] = (name, endpoint)
        sagemaker = TASKS[name].http.invocations or replace(TASKS[name].http.endpoints[0], summary=_SAGEMAKER)
        inference.setdefault("/invocations", (name, replace(sagemaker, path="/invocations")))
        for endpoint in ENDPOINTS:
            inference.setdefault(endpoint.path, (name, endpoint))
    with_page = all(name in state.tasks for name in TASKS if TASKS[name].page_needs)
    document = openapi(inference, state.limits, key is not None, with_page)

    async def health(request: HTTPRequest) -> Response:
        if not state.ready or state.stopping:
            return _error(_unhealthy(state))
        return JSONResponse({"status": "ok"})

    async def home(request: HTTPRequest) -> Response:
        """As TEI, "/" answers probes; a person with a browser gets to the page about the server."""
        if "text/html" not in request.headers.get("accept", ""):
            return await health(request)
        # Relative unless the prefix is known, because a proxy may have taken one off.
        prefix = prefix_of(request.scope)
        return RedirectResponse(f"{prefix}/docs" if prefix else "docs", 307)

    def info_of(task: str) -> Callable[[HTTPRequest], Any]:
        async def info(request: HTTPRequest) -> Response:
            return JSONResponse(_info(state, task)) if state.ready else _error(_unhealthy(state))

        return info

    async def metrics(request: HTTPRequest) -> Response:
        page, kind = state.metrics.page()
        return Response(page, headers={"Content-Type": kind})

    async def described(request: HTTPRequest) -> Response:
        prefix = prefix_of(request.scope)
        return JSONResponse({**document, "servers": [{"url": prefix}]} if prefix else document)

    async def docs(request: HTTPRequest) -> Response:
        return HTMLResponse(docs_page(document, url_of(request.scope)))

    def elsewhere_of(sentence: str) -> Callable[[HTTPRequest], Any]:
        async def elsewhere(request: HTTPRequest) -> Response:
            # The status and the type of TEI for a model of another kind, in its shape and in OpenAI's.
            error = RequestError(424, sentence)
            content = {**error_body(error), "message": sentence, "code": error.status, "type": error.error_type}
            return JSONResponse(content, error.status)

        return elsewhere

    pages: dict[str, Callable[[HTTPRequest], Any]] = {
        **dict.fromkeys(HEALTH, health),
        "/": home,
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
    elsewhere = {path: sentence for path, sentence in _ELSEWHERE.items() if path not in inference}
    routes += [Route(path, elsewhere_of(sentence), methods=["POST"]) for path, sentence in elsewhere.items()]
    if with_page:
        page = Page(state)
        routes.append(Route(f"{WEB}{{path:path}}", page.answer, methods=["GET"]))
        routes.append(Route(WEB.rstrip("/"), page.home, methods=["GET"]))
        pages[WEB] = page.answer
    handlers = {EdgeImdbError: _refused, HTTPException: _no_such_path, Exception: _failed}
    starlette = Starlette(routes=routes, exception_handlers=handlers)
    # Target has resolved slashes at the end; a redirect would be absolute, and a POST might lose its body by it.
    starlette.router.redirect_slashes = False
    queues = {path: endpoint.queue or task for path, (task, endpoint) in inference.items()}
    app: ASGIApp = Guard(starlette, state, queues, {*pages, *elsewhere}, key, open_metrics, access_log)
    if origins:
        # Around Guard, so that a page may read refusals too, and its preflight needs no key. Any header is allowed,
        # because clients send their own, and no credentials of the browser are ever sent along.
        options: dict[str, Any] = {}
        if "allow_private_network" in signature(CORSMiddleware).parameters:
            # For browsers that ask before a page from the internet calls a server in a private network.
            options["allow_private_network"] = True
        exposed = ("Retry-After", "X-Warning")
        app = CORSMiddleware(app, origins, ("GET", "HEAD", "POST"), ("*",), expose_headers=exposed, **options)
    return Target(app, {*queues, *pages, *elsewhere}, (WEB,) if with_page else (), root_path, trusted)


def _unhealthy(state: State) -> RequestError:
    return RequestError(503, "The server is shutting down." if state.stopping else "The model is still loading.", 1)


def _info(state: State, task: str) -> dict[str, Any]:
    """The answer of text-embeddings-inference's /info, with null in the fields that don't apply here."""
    model = state.models[task]
    bundle, limits = model.bundle, state.limits
    return {
        "model_id": f"edge-imdb/{task}",
        "served_model_name": f"edge-imdb/{task}",
        "model_sha": None,
        "model_dtype": model.precision,
        "model_type": TASKS[task].http.model_type(bundle),
        "model_pipeline_tag": TASKS[task].pipeline_tag,
        "max_concurrent_requests": limits.max_connections,
        "max_input_length": bundle.truncation.max_length,
        "max_batch_tokens": bundle.truncation.max_length,
        "max_batch_requests": None,
        "max_client_batch_size": limits.max_texts,
        "auto_truncate": True,
        "tokenization_workers": state.work.workers if state.work else 0,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }


async def _refused(request: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, EdgeImdbError)
    return _error(as_request_error(error))


async def _failed(request: HTTPRequest, error: Exception) -> Response:
    """Starlette sends this answer and raises the error again, so that Guard logs it."""
    return _error(RequestError(500, "The server failed on this request: see its log."))


async def _no_such_path(request: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {
        404: "There is nothing at this path: see /docs.",
        405: "This path doesn't take that method: see /docs.",
    }
    sentence = sentences.get(error.status_code, error.detail)
    return _error(RequestError(error.status_code, sentence), dict(error.headers or {}))


def _error(error: RequestError, headers: dict[str, str] | None = None) -> Response:
    own = {name.decode(): value.decode() for name, value in error_headers(error)}
    return JSONResponse(error_body(error), error.status, {**own, **(headers or {})})
