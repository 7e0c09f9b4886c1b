"""make_site and build_site: the page's files and bundles, in memory or written to a folder for any web host."""

from __future__ import annotations

import hashlib
import json
import lzma
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..errors import BundleError
from ..output import check_free, staging
from ..runtime.bundle import MANIFEST, TOKENIZER, Bundle, find_bundle, open_bundle
from ..tasks import TASKS

HERE = Path(__file__).parent
INDEX = "site.json"
_PAGES = (
    "index.html",
    "style.css",
    "icon.svg",
    "manifest.webmanifest",
    "app.mjs",
    "worker.mjs",
    "edge-imdb.mjs",
    "attribution.mjs",
    "tokenizer.mjs",
    "text.mjs",
    "tables.mjs",
    "sha256.mjs",
    "files.mjs",
)
_WORKER = "sw.js"
_WASM = "ort-wasm-simd-threaded.wasm"
# Browsers allow threads only with the first two. The content security policy forbids connections to other hosts.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class Site:
    """The files of the site: for each path its content, or the file on the disk that contains it."""

    files: dict[str, bytes | Path]

    def read(self, path: str) -> bytes:
        """The content of a file. Raises KeyError if there is no such file."""
        content = self.files[path]
        return content if isinstance(content, bytes) else content.read_bytes()

    def size(self, path: str) -> int:
        """The size of a file in bytes. Raises KeyError if there is no such file."""
        content = self.files[path]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def make_site(models: dict[str, Path | None]) -> Site:
    """Make the site for the bundles in ``models``, which maps tasks to folders.

    None takes the bundle that commands take by default. Fill-mask may be left out. Raises BundleError if a bundle is
    damaged or lacks a graph that the page needs.

    >>> site = make_site({"sentiment": None})
    >>> "index.html" in site.files
    True
    """
    files: dict[str, bytes | Path] = {name: HERE / "static" / name for name in _PAGES}
    files |= {f"vendor/{name}": content for name, content in runtime_files().items()}
    folders = {}
    for task, model in models.items():
        bundle = open_bundle(find_bundle(task, model, local=True)[0], task)
        folder = f"models/{task}"
        files |= {f"{folder}/{name}": path for name, path in _bundle_files(bundle).items()}
        folders[task] = folder
    listed = {name: {"bytes": len(content), "sha256": _digest(content)} for name, content in _read(files, "vendor/")}
    index = {"version": __version__, "bundles": folders, "files": listed}
    files[INDEX] = (json.dumps(index, indent=1) + "\n").encode()
    # Cached at installation. The runtime's large file is cached with the bundles, when it is first used.
    shell = [name for name in files if not name.startswith("models/") and not name.endswith(".wasm")]
    manifests = [f"{folder}/{MANIFEST}" for folder in folders.values()]
    build = hashlib.sha256()
    for name, content in _read(files, ""):
        if name in shell or name in manifests:
            build.update(f"{name} {_digest(content)}\n".encode())
    worker = (HERE / "static" / _WORKER).read_text(encoding="utf-8")
    worker = worker.replace('const BUILD = "";', f'const BUILD = "{build.hexdigest()[:16]}";')
    worker = worker.replace("const SHELL = [];", f"const SHELL = {json.dumps(['./', *shell, *manifests])};")
    files[_WORKER] = worker.encode()
    return Site(files)


def _read(files: dict[str, bytes | Path], prefix: str) -> list[tuple[str, bytes]]:
    """The names and contents of the files whose names begin with ``prefix``, without weights."""
    return [
        (name, content if isinstance(content, bytes) else content.read_bytes())
        for name, content in files.items()
        if name.startswith(prefix) and not name.endswith("_data")
    ]


def _bundle_files(bundle: Bundle) -> dict[str, Path]:
    """The files of a bundle that the page reads. Each of them is checked."""
    graph = TASKS[bundle.task].page_graph
    assert graph is not None
    if graph not in bundle.graphs:
        raise BundleError(
            f"The bundle {bundle.path} has no {graph} graph, which the page runs: export it again with --quantize."
        )
    weights = bundle.weights(graph)
    names = [TOKENIZER, bundle.graphs[graph], *([weights] if weights else [])]
    bundle.graph(graph)
    return {MANIFEST: bundle.path / MANIFEST, **{name: bundle.file(name) for name in names}}


def runtime_files() -> dict[str, bytes]:
    """The names and contents of the vendored, unpacked files of onnxruntime-web. Raises BundleError if one was altered.

    >>> sorted(runtime_files())
    ['ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm', 'ort.wasm.min.mjs']
    """
    files = {}
    for line in (HERE / "vendor" / "SHA256SUMS").read_text(encoding="ascii").splitlines():
        digest, name = line.split()
        if name == _WASM:
            content = lzma.decompress((HERE / "vendor" / f"{name}.xz").read_bytes())
        else:
            content = (HERE / "vendor" / name).read_bytes()
        if _digest(content) != digest:
            raise BundleError(f"{HERE / 'vendor' / name} differs from its sha256: install edge-imdb again.")
        files[name] = content
    return files


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def build_site(target: Path, models: dict[str, Path | None], *, overwrite: bool = False) -> int:
    """Write the site to ``target``, whole or not at all, for any host of static files. Returns its size in bytes.

    It also writes ``_headers``, which some hosts read. Raises BundleError or OutputError.
    """
    check_free(target, overwrite, "site", INDEX)
    site = make_site(models)
    with staging(target) as folder:
        for name in site.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(site.read(name))
        lines = ["/*", *(f"  {name}: {value}" for name, value in HEADERS.items()), ""]
        (folder / "_headers").write_text("\n".join(lines), encoding="utf-8", newline="\n")
        return sum(site.size(name) for name in site.files)
