"""A Hub of our own on the loopback interface, which speaks as much of the real one as huggingface_hub needs."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's interface as downloading and uploading take, over the folders in ``server.root``."""

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._answer(json.dumps(value).encode())

    def _refused(self, status: int, message: str) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(json.dumps({"error": message}).encode(), status)

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _missing(self, kind: str) -> None:
        self._answer(b'{"error": "not found"}', 404, X_Error_Code=kind, X_Repo_Commit=COMMIT)

    def _locate(self, path: str) -> tuple[Path, str]:
        """The folder of a repository, and the rest of a path that starts with its kind and name."""
        parts = path.strip("/").split("/")
        kind = parts.pop(0) if parts[0] in ("datasets", "models") else "models"
        return Path(self.server.root, kind, *parts[:2]), "/".join(parts[2:])  # type: ignore[attr-defined]

    def _commits(self, repository: Path) -> list[str]:
        """The commits of a repository, the last one first; COMMIT is that of one that was there from the start."""
        kept = self.server.commits / repository.relative_to(self.server.root)  # type: ignore[attr-defined]
        return [path.name for path in sorted(kept.glob("*"), reverse=True)] or [COMMIT]

    def _revision(self, repository: Path, revision: str) -> tuple[Path, str] | None:
        """The folder and the commit of a revision."""
        commits = self._commits(repository)
        if revision in ("main", commits[0]):
            return repository, commits[0]
        kept = self.server.commits / repository.relative_to(self.server.root)  # type: ignore[attr-defined]
        return (kept / revision, revision) if revision in commits else None

    @staticmethod
    def _entry(root: Path, path: Path) -> dict[str, object]:
        name = path.relative_to(root).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": COMMIT, "size": 0, "path": name}
        oid = hashlib.sha1(path.read_bytes()).hexdigest()
        return {"type": "file", "oid": oid, "size": path.stat().st_size, "path": name}

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")  # type: ignore[attr-defined]
        if path == "/api/whoami-v2":
            if self._token() not in ("hf_ours", "hf_read"):
                return self._refused(401, "Invalid user token.")
            role = "read" if self._token() == "hf_read" else "write"
            return self._json(
                {
                    "type": "user",
                    "name": "me",
                    "orgs": [{"type": "org", "name": "ours"}],
                    "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role}},
                }
            )
        if path.startswith("/api/"):
            repository, rest = self._locate(path[5:])
            if not repository.is_dir():
                return self._missing("RepoNotFound")
            if rest.startswith("revision/") and self._revision(repository, rest.split("/")[1]) is None:
                return self._missing("RevisionNotFound")
            files = sorted(p for p in repository.rglob("*") if p.is_file())
            if rest.startswith("tree/"):
                folder = repository / "/".join(rest.split("/")[2:])
                deep = "recursive=true" in self.path.lower()
                if not folder.is_dir():
                    return self._missing("EntryNotFound")
                return self._json([self._entry(repository, p) for p in sorted(folder.glob("**/*" if deep else "*"))])
            siblings = [{"rfilename": p.relative_to(repository).as_posix()} for p in files]
            name = f"{repository.parent.name}/{repository.name}"
            return self._json(
                {"id": name, "sha": self._commits(repository)[0], "private": False, "tags": [], "siblings": siblings}
            )
        repository, rest = self._locate(path)
        if not repository.is_dir():
            return self._missing("RepoNotFound")
        if repository.name == "gated":
            return self._missing("GatedRepo")
        found = self._revision(repository, rest.split("/")[1])
        if found is None:
            return self._missing("RevisionNotFound")
        folder, commit = found
        file = folder / "/".join(rest.split("/")[2:])
        if not file.is_file():
            return self._missing("EntryNotFound")
        body = file.read_bytes()
        self._answer(body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=commit)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        address = f"http://{self.headers['Host']}"
        if self._token() != "hf_ours":
            return self._refused(401, "Invalid username or password.")
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization', 'me')}/{wanted['name']}"
            Path(self.server.root, "models", name).mkdir(parents=True, exist_ok=True)  # type: ignore[attr-defined]
            return self._json({"url": f"{address}/{name}", "name": name, "id": "1"})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        repository, rest = self._locate(path[5:])
        if rest.startswith("paths-info/"):
            from urllib.parse import parse_qs

            wanted_paths = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
            return self._json(
                [self._entry(repository, repository / p) for p in wanted_paths if (repository / p).is_file()]
            )
        if rest.startswith("preupload/"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        if rest.startswith("commit/") and repository.name == "full":
            return self._answer(b'{"error": "Your storage is full."}', 403)
        if rest.startswith("commit/"):
            for line in body.decode().splitlines():
                record = json.loads(line)
                if record["key"] == "file":
                    target = repository / record["value"]["path"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(base64.b64decode(record["value"]["content"]))
            name = repository.relative_to(self.server.root)  # type: ignore[attr-defined]
            kept = self.server.commits / name  # type: ignore[attr-defined]
            commit = f"{len(list(kept.glob('*'))) + 1:040x}"
            shutil.copytree(repository, kept / commit)
            url = f"{address}/{repository.parent.name}/{repository.name}/commit/{commit}"
            return self._json({"commitUrl": url, "commitOid": commit, "success": True})
        return self._missing("EntryNotFound")


@contextlib.contextmanager
def serving(root: Path) -> Iterator[ThreadingHTTPServer]:
    """A running Hub over ``root``/models/USER/REPO and ``root``/datasets/USER/REPO; ``asked`` has what it was asked."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.root, server.commits, server.asked = root, root.parent / "commits", []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment_of(server: ThreadingHTTPServer, home: Path) -> dict[str, str]:
    """What points a process at that Hub, its cache in ``home``."""
    return {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_ours",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
