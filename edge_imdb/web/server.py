"""make_server and open_browser: serve the site over HTTP to a browser on this machine."""

from __future__ import annotations

import os
import threading
import webbrowser
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import UsageError
from .site import HEADERS, Site

_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "wasm": "application/wasm",
    "webmanifest": "application/manifest+json",
}
# Browsers that run in the terminal. They have no WebAssembly, so the page doesn't work in them.
_CONSOLE_BROWSERS = {"www-browser", "lynx", "w3m", "links", "links2", "elinks", "browsh"}


def kind_of(name: str) -> str:
    """The content type of a file of the site.

    >>> kind_of("static/app.mjs")
    'text/javascript; charset=utf-8'
    """
    return _KINDS.get(name.rpartition(".")[2], "application/octet-stream")


def make_server(site: Site, host: str, port: int) -> ThreadingHTTPServer:
    """Make a server for ``site`` that listens on ``host`` and ``port``; its ``serve_forever`` runs it.

    Port 0 takes any free port. Raises UsageError if the port is taken or can't be used.

    >>> from edge_imdb.web.site import make_site
    >>> server = make_server(make_site({"sentiment": None}), "127.0.0.1", 0)
    >>> server.server_address[0]
    '127.0.0.1'
    >>> server.server_close()
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Seconds. A client that opens a connection and sends nothing must not occupy a thread for ever.
        timeout = 60

        def do_GET(self) -> None:
            self._answer(True)

        def do_HEAD(self) -> None:
            self._answer(False)

        def _answer(self, with_content: bool) -> None:
            name = unquote(urlsplit(self.path).path).lstrip("/") or "index.html"
            exists = name in site.files
            content = site.read(name) if exists else b"There is no such file.\n"
            self.send_response(200 if exists else 404)
            kind = kind_of(name) if exists else "text/plain"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-cache")
            for header, value in HEADERS.items():
                self.send_header(header, value)
            self.end_headers()
            if with_content:
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        # On Windows, SO_REUSEADDR would let two servers listen on one port.
        allow_reuse_address = os.name == "posix"

        def handle_error(self, request: Any, client_address: Any) -> None:
            # A browser that closes the connection before it has the whole answer is not an error.
            pass

    try:
        return Server((host, port), Handler)
    except OSError as error:
        raise UsageError(f"{host}:{port} can't be used ({error.strerror}): give another --port or --host.") from None


def open_browser(address: str, say: Callable[[str], None]) -> None:
    """Open ``address`` in the user's browser, in a thread, so that the caller can serve the page meanwhile.

    Some browsers block until they are closed, among them those in ``$BROWSER``. If there is no browser, or if it runs
    in the terminal, ``say`` gets a sentence that asks the user to open the address.
    """
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        say(f"no browser was found: open {address} in one")
        return
    name = Path(str(getattr(browser, "name", ""))).name
    if name in _CONSOLE_BROWSERS:
        say(f"{name} can't show the page, which needs WebAssembly: open {address} in another browser")
        return

    def run() -> None:
        if not webbrowser.open(address):
            say(f"the browser didn't start: open {address} in one")

    threading.Thread(target=run, daemon=True).start()
