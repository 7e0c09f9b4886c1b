"""make_site and build_site: the files of the page with its bundles, in memory, or in a folder for any web host."""

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
# Threads need the first two. No other host is spoken to, by the page's own rule.
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
    """Every file of the site by its path: its content, or the file on the disk that has it."""

    files: dict[str, bytes | Path]

    def read(self, path: str) -> bytes:
        """The content of one file. Raises KeyError if there is none."""
        content = self.files[path]
        return content if isinstance(content, bytes) else content.read_bytes()

    def size(self, path: str) -> int:
        """Its bytes."""
        content = self.files[path]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def make_site(models: dict[str, Path | None]) -> Site:
    """The site for bundles by their tasks; None takes the one that commands take, and fill-mask may be left out.

    Raises BundleError if a bundle is damaged or lacks a graph that the page needs.
    """
    files: dict[str, bytes | Path] = {name: HERE / "static" / name for name in _PAGES}
    files |= {f"vendor/{name}": content for name, content in runtime_files().items()}
    places = {}
    for task, model in models.items():
        bundle = open_bundle(find_bundle(task, model, local=True)[0], task)
        folder = f"models/{task}"
        files |= {f"{folder}/{name}": path for name, path in _bundle_files(bundle).items()}
        places[task] = folder
    listed = {name: {"bytes": len(content), "sha256": _digest(content)} for name, content in _read(files, "vendor/")}
    index = {"version": __version__, "bundles": places, "files": listed}
    files[INDEX] = (json.dumps(index, indent=1) + "\n").encode()
    # The runtime's large file comes with the bundles, when it is needed.
    shell = [name for name in files if not name.startswith("models/") and not name.endswith(".wasm")]
    manifests = [f"{folder}/{MANIFEST}" for folder in places.values()]
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
    """The files below ``prefix`` with their content, weights left out."""
    return [
        (name, content if isinstance(content, bytes) else content.read_bytes())
        for name, content in files.items()
        if name.startswith(prefix) and not name.endswith("_data")
    ]


def _bundle_files(bundle: Bundle) -> dict[str, Path]:
    """What the page reads of a bundle, each file checked."""
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
    """The vendored files of onnxruntime-web, unpacked, by their names. Raises BundleError if one was altered."""
    found = {}
    for line in (HERE / "vendor" / "SHA256SUMS").read_text(encoding="ascii").splitlines():
        digest, name = line.split()
        if name == _WASM:
            content = lzma.decompress((HERE / "vendor" / f"{name}.xz").read_bytes())
        else:
            content = (HERE / "vendor" / name).read_bytes()
        if _digest(content) != digest:
            raise BundleError(f"{HERE / 'vendor' / name} differs from its sha256: install edge-imdb again.")
        found[name] = content
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def build_site(target: Path, models: dict[str, Path | None], *, overwrite: bool = False) -> int:
    """Write the site to ``target``, whole or not at all, for any host of static files. Returns its bytes.

    Beside the site's files goes ``_headers``, which some hosts read. Raises BundleError, OutputError.
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
