"""Source and Graph: where the files of a bundle come from, and how each is fetched and checked before it is used."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from ..data.threads import start
from ..errors import BundleError, UsageError
from .bundle import MANIFEST, Bundle, find_bundle, open_bundle
from .hub import fetch, is_repository


class Source:
    """The files of the bundle for ``task``: in a folder, or fetched from a repository on the Hub when they are needed.

    ``model`` is a folder, or a repository of the Hub at ``revision``; None means $EDGE_IMDB_MODELS/TASK or the embedded
    bundle. ``name`` is the folder, or the repository and the commit, or ``"embedded"``. ``reason`` says why this bundle
    is used. ``repository`` is the name and the commit of a repository, None for a folder.

    Raises BundleError if there is no valid bundle, HubError if it can't be fetched, UsageError if ``revision`` is given
    for a folder.

    >>> source = Source("sentiment", None, None)
    >>> source.name, source.bundle.labels
    ('embedded', ['neg', 'pos'])
    >>> source.file("config.json").name
    'config.json'
    """

    def __init__(self, task: str, model: str | os.PathLike[str] | None, revision: str | None) -> None:
        self.repository: tuple[str, str] | None = None
        path, self.reason = find_bundle(task, model)
        self.name = "embedded" if self.reason == "embedded" else str(path)
        if isinstance(model, str) and is_repository(model):
            path = fetch(model, MANIFEST, revision).parent
            self.repository = (model, path.name)
            self.name = f"{model} at {path.name[:12]}"
        elif revision is not None:
            raise UsageError(f"revision is {revision!r}, but {self.name} is not a Hub repository: leave revision out.")
        self.bundle: Bundle = open_bundle(path, task)

    def file(self, name: str) -> Path:
        """The path of one file, after its size and sha256 were checked. Raises BundleError or HubError."""
        self.fetch(name)
        return self.bundle.file(name)

    def fetch(self, *names: str) -> None:
        """Download files that are not in the local cache yet, if the bundle is on the Hub. Raises HubError."""
        if self.repository is not None:
            for name in names:
                fetch(self.repository[0], name, self.repository[1])

    def graph(self, name: str) -> Graph:
        """The graph ``name``: ``int8``, ``fp32`` or another one of the bundle. Nothing is read yet."""
        return Graph(self, name)


class Graph:
    """One graph of a bundle, for an executor to open. Two objects for the same graph of one Source are equal.

    ``optimise`` is False for the int8 graphs. They are written node by node for ONNX Runtime's CPU provider, and its
    optimiser would slow them down.

    >>> graph = Source("sentiment", None, None).graph("int8")
    >>> with graph.opening() as (path, weights):
    ...     print(path.is_file())
    True
    """

    def __init__(self, source: Source, name: str) -> None:
        self._source, self.name = source, name
        self.bundle = source.bundle
        self.optimise = name == "fp32"

    @contextlib.contextmanager
    def opening(self) -> Iterator[tuple[Path, Path | None]]:
        """The paths of the graph and of the file with its weights, None if the weights are in the graph itself.

        Open the graph within the ``with`` block, and run it only after the block. The graph is checked before the
        block. The weights are hashed in a thread during the block, because hashing them takes as long as opening them.
        Opening only copies the weights and changes their layout, which is safe whatever they contain, and
        ``Bundle.graph`` has already checked their size.

        Raises BundleError if a file is missing or altered, or if the graph takes weights from another file; HubError
        if a file can't be fetched.
        """
        bundle = self.bundle
        if self.name in bundle.graphs:
            self._source.fetch(*bundle.needed(self.name))
        path = bundle.graph(self.name)
        weights = bundle.weights(self.name)
        if weights is None:
            yield path, None
            return
        altered: list[BundleError] = []

        def check() -> None:
            try:
                bundle.file(weights)
            except BundleError as error:
                altered.append(error)

        thread = threading.Thread(target=check)
        start(thread)
        try:
            yield path, bundle.path / weights
        finally:
            thread.join()
            if altered:
                raise altered[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and (self._source, self.name) == (other._source, other.name)

    def __hash__(self) -> int:
        return hash((self._source, self.name))

    def __repr__(self) -> str:
        return f"<Graph {self.name} of {self.bundle.path}>"
