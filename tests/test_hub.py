"""The default path, Hub ids and no files: against a Hub of our own on the loopback interface."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import make_reviews, run_command

pytest.importorskip("datasets", reason="datasets is not installed")

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

    def _missing(self, kind: str) -> None:
        self._answer(b'{"error": "not found"}', 404, X_Error_Code=kind, X_Repo_Commit=COMMIT)

    def _locate(self, path: str) -> tuple[Path, str]:
        """The folder of a repository, and the rest of a path that starts with its kind and name."""
        parts = path.strip("/").split("/")
        kind = parts.pop(0) if parts[0] in ("datasets", "models") else "models"
        return Path(self.server.root, kind, *parts[:2]), "/".join(parts[2:])  # type: ignore[attr-defined]

    @staticmethod
    def _entry(root: Path, path: Path) -> dict[str, object]:
        name = path.relative_to(root).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": COMMIT, "size": 0, "path": name}
        oid = hashlib.sha1(path.read_bytes()).hexdigest()
        return {"type": "file", "oid": oid, "size": path.stat().st_size, "path": name}

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/"):
            repository, rest = self._locate(path[5:])
            if not repository.is_dir():
                return self._missing("RepoNotFound")
            files = sorted(p for p in repository.rglob("*") if p.is_file())
            if rest.startswith("tree/"):
                folder = repository / "/".join(rest.split("/")[2:])
                deep = "recursive=true" in self.path.lower()
                if not folder.is_dir():
                    return self._missing("EntryNotFound")
                return self._json([self._entry(repository, p) for p in sorted(folder.glob("**/*" if deep else "*"))])
            siblings = [{"rfilename": p.relative_to(repository).as_posix()} for p in files]
            name = f"{repository.parent.name}/{repository.name}"
            return self._json({"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})
        repository, rest = self._locate(path)
        file = repository / "/".join(rest.split("/")[2:])
        if not repository.is_dir():
            return self._missing("RepoNotFound")
        if not file.is_file():
            return self._missing("EntryNotFound")
        body = file.read_bytes()
        self._answer(body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        address = f"http://{self.headers['Host']}"
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
        if rest.startswith("commit/"):
            for line in body.decode().splitlines():
                record = json.loads(line)
                if record["key"] == "file":
                    target = repository / record["value"]["path"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(base64.b64decode(record["value"]["content"]))
            commit = f"{address}/{repository.parent.name}/{repository.name}/commit/{COMMIT}"
            return self._json({"commitUrl": commit, "commitOid": COMMIT, "success": True})
        return self._missing("EntryNotFound")


@pytest.fixture
def hub(tmp_path: Path, tiny_bert: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The Hub's root, and the environment that points a command at it."""
    import pyarrow
    import pyarrow.parquet

    root = tmp_path / "hub"
    model = root / "models" / "distilbert" / "distilbert-base-uncased"
    model.mkdir(parents=True)
    for path in tiny_bert.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    data = root / "datasets" / "stanfordnlp" / "imdb"
    (data / "plain_text").mkdir(parents=True)
    configs = "configs:\n- config_name: plain_text\n  data_files:\n"
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for seed, split in enumerate(("train", "test")):
        rows = make_reviews(120, seed)
        labels = pyarrow.array([("neg", "pos").index(label) for _, label in rows])
        table = pyarrow.table({"text": [text for text, _ in rows], "label": labels})
        name = f"plain_text/{split}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), data / name)
        configs += f"  - split: {split}\n    path: plain_text/{split}-*\n"
    (data / "README.md").write_text(f"---\n{configs}---\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.root = root  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_ours",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    yield root, environment
    server.shutdown()


SHORT = ["--max-length", "64", "--epochs", "1", "--validation", "0.2"]


@pytest.mark.slow
def test_train_with_the_hubs_names_downloads_trains_and_uploads(
    hub: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    root, environment = hub
    result = run_command("train", "sentiment", *SHORT, "--push-to-hub", "me/mine", cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert "reviews: 96 train, 24 validation, 120 test" in result.stderr
    uploaded = {path.name for path in (root / "models" / "me" / "mine").rglob("*")}
    assert {"model.safetensors", "README.md", "tokenizer.json", "metrics.json"} <= uploaded
    assert "run.json" not in uploaded
    card = (root / "models" / "me" / "mine" / "README.md").read_text()
    assert "base_model: distilbert/distilbert-base-uncased" in card and "- stanfordnlp/imdb" in card


@pytest.mark.slow
def test_a_failed_upload_keeps_the_run(hub: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    _, environment = hub
    result = run_command("train", "sentiment", *SHORT, "--push-to-hub", "not a name", cwd=tmp_path, env=environment)
    assert result.returncode == 1 and "is whole in" in result.stderr and "Traceback" not in result.stderr
    assert (tmp_path / "runs" / "sentiment" / "model.safetensors").exists()


@pytest.mark.parametrize("arguments", [["train", "sentiment"], ["evaluate"]])
def test_no_network_is_said_with_the_way_out(tmp_path: Path, arguments: list[str]) -> None:
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    result = run_command(*arguments, cwd=tmp_path, env=environment)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("Error: ") and "--base" in message and "--data" in message


@pytest.mark.slow
def test_unknown_names_on_the_hub_are_said(hub: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    _, environment = hub
    result = run_command("train", "sentiment", "--base", "nobody/nothing", cwd=tmp_path, env=environment)
    assert result.returncode == 1 and "nobody/nothing" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "runs" / "sentiment").exists()
