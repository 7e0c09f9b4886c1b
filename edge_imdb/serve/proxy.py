"""Target: the path of a request, whatever its form, and the address under which its client knows the server."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import UsageError

# The proxies that are trusted by default, as uvicorn trusts them: those on this machine.
LOCAL = "127.0.0.1,::1"
# The key of the scope under which Target leaves the prefix of the paths, "" if there is none.
_PREFIX = "edge_imdb.prefix"
# A target such as http://example.org/predict, which clients send to a proxy (RFC 9112, section 3.2.2).
_ABSOLUTE = re.compile(r"(?i:https?)://([^/]*)(.*)", re.DOTALL)
_PORTS = {"http": "80", "https": "443"}
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")
_ROOT = re.compile(r"(/[A-Za-z0-9._~!$&()*+,;=:@-]+)*")


class Target:
    """ASGI middleware that gives ``app`` plain paths, and the scheme, host and client that a trusted proxy names.

    - A target in absolute form becomes its path, and its authority the Host header.
    - ``root_path``, or the X-Forwarded-Prefix of a trusted proxy, is taken off the path, whether or not the proxy has
      already done so.
    - Repeated slashes and one at the end are dropped, unless the path is one of ``paths``.
    - X-Forwarded-For, -Proto, -Host and -Port, or Forwarded (RFC 7239), of a trusted proxy give the client, the scheme
      and the host.

    Arguments:
        paths: the paths that the server has.
        folders: prefixes, such as ``/web/``, below which paths stay as they are.
        root_path: the path below which a proxy serves this server, "" for none.
        trusted: what ``trusted_proxies`` made of ``--forwarded-allow-ips``.
    """

    def __init__(
        self,
        app: ASGIApp,
        paths: Collection[str],
        folders: tuple[str, ...] = (),
        root_path: str = "",
        trusted: Trusted | None = None,
    ) -> None:
        self._app = app
        self._paths = frozenset(paths)
        self._folders = folders
        self._root_path = root_path
        self._trusted = trusted or Trusted("")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == "*" and scope["method"] == "OPTIONS":
            # The whole server (RFC 9110, section 9.3.7).
            headers = [(b"allow", b"GET, HEAD, POST, OPTIONS"), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body"})
        else:
            await self._app(self._resolved(dict(scope)), receive, send)

    def _resolved(self, scope: dict[str, Any]) -> dict[str, Any]:
        prefix = self._root_path
        absolute = _ABSOLUTE.fullmatch(scope["path"])
        if absolute:
            scope["path"] = absolute[2] or "/"
            others = [header for header in scope["headers"] if header[0] != b"host"]
            scope["headers"] = [(b"host", absolute[1].encode("ascii", "replace")), *others]
        client = scope.get("client")
        if client is not None and client[0] in self._trusted:
            standard = _forwarded(scope)
            scheme = (_first(scope, b"x-forwarded-proto") or next(iter(standard["proto"]), "")).lower()
            if scheme in _PORTS:
                scope["scheme"] = scheme
            host = _first(scope, b"x-forwarded-host") or next(iter(standard["host"]), "") or _first(scope, b"host")
            port = _first(scope, b"x-forwarded-port")
            if port.isdecimal() and port != _PORTS.get(scope["scheme"]) and not re.search(r":\d+$", host):
                host = f"{host}:{port}"
            if _HOST.fullmatch(host):
                others = [header for header in scope["headers"] if header[0] != b"host"]
                scope["headers"] = [(b"host", host.encode()), *others]
            path = _first(scope, b"x-forwarded-prefix").rstrip("/")
            if path and _ROOT.fullmatch(path):
                prefix = path
            address = self._trusted.client(_values(scope, b"x-forwarded-for") or standard["for"])
            if address:
                scope["client"] = (address, 0)
        scope[_PREFIX] = prefix
        scope["path"] = self._path(scope["path"], prefix)
        return scope

    def _path(self, path: str, prefix: str) -> str:
        if path in self._paths:
            return path
        if prefix and (path == prefix or path.startswith(prefix + "/")):
            path = path.removeprefix(prefix) or "/"
        if path in self._paths or path.startswith(self._folders):
            return path
        path = re.sub("/{2,}", "/", path)
        return path if path in self._paths or path.startswith(self._folders) else path.rstrip("/") or "/"


def prefix_of(scope: Scope) -> str:
    """The path below which clients reach the server, "" if it is the root of its host."""
    return str(scope.get(_PREFIX, ""))


def url_of(scope: Scope) -> str:
    """The address of the server as its client knows it, without a slash at the end."""
    host = _first(scope, b"host")
    if not _HOST.fullmatch(host):
        address, port = scope.get("server") or ("127.0.0.1", None)
        address = f"[{address}]" if ":" in address else address
        host = f"{address}:{port}" if port else address
    return f"{scope.get('scheme', 'http')}://{host}{prefix_of(scope)}"


class Trusted:
    """The proxies whose X-Forwarded headers the server reads: addresses and networks, separated by commas.

    ``*`` trusts every client, "" nobody. Raises UsageError.

    >>> "10.1.2.3" in Trusted("127.0.0.1, 10.0.0.0/8"), "192.0.2.1" in Trusted("127.0.0.1")
    (True, False)
    """

    def __init__(self, addresses: str) -> None:
        entries = [entry.strip() for entry in addresses.split(",") if entry.strip()]
        self._everyone = "*" in entries
        self._networks = []
        for entry in entries:
            if entry == "*":
                continue
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                raise UsageError(
                    f"--forwarded-allow-ips has {entry!r}, which is not an address: give addresses or networks, "
                    "separated by commas, such as 127.0.0.1,10.0.0.0/8, or * for every client."
                ) from None

    def __contains__(self, address: str) -> bool:
        if self._everyone:
            return True
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        # A socket that listens on :: sees IPv4 clients as ::ffff:127.0.0.1.
        mapped = getattr(parsed, "ipv4_mapped", None)
        return any(candidate in network for network in self._networks for candidate in (parsed, mapped) if candidate)

    def client(self, forwarded: list[str]) -> str:
        """The address of the client by X-Forwarded-For: the last that is no trusted proxy. "" if there is none.

        Every proxy appends the address that it saw, so what stands before an untrusted address may be invented.
        """
        addresses = [address for entry in forwarded if (address := _address(entry))]
        if self._everyone:
            return addresses[0] if addresses else ""
        for address in reversed(addresses):
            if address not in self:
                return address
        return addresses[0] if addresses else ""


def checked_root_path(path: str) -> str:
    """``--root-path`` with a slash before it and none after it; "" for the root. Raises UsageError.

    >>> checked_root_path("imdb/")
    '/imdb'
    """
    stripped = path.strip().strip("/")
    found = f"/{stripped}" if stripped else ""
    if not _ROOT.fullmatch(found):
        raise UsageError(f"--root-path {path!r} is not a path: give the part after the host, such as /imdb.")
    return found


def _values(scope: Scope, name: bytes) -> list[str]:
    """The elements of a header that is a list, of all its lines."""
    lines = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return [element.strip() for line in lines for element in line.split(",") if element.strip()]


def _forwarded(scope: Scope) -> dict[str, list[str]]:
    """The parameters of the Forwarded header, in the order of its elements."""
    found: dict[str, list[str]] = {"for": [], "proto": [], "host": []}
    for element in _values(scope, b"forwarded"):
        for pair in element.split(";"):
            name, _, value = pair.strip().partition("=")
            if name.lower() in found:
                found[name.lower()].append(value.strip('"'))
    return found


def _first(scope: Scope, name: bytes) -> str:
    return next(iter(_values(scope, name)), "")


def _address(entry: str) -> str:
    """An element of X-Forwarded-For without its port, "" if it isn't an address."""
    host = entry
    if entry.startswith("["):
        host = entry[1:].partition("]")[0]
    elif entry.count(":") == 1:
        host = entry.partition(":")[0]
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ""
