"""Model: an opened bundle, its tokenizer and its session. Pipeline: the base of Sentiment and FillMask."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, UsageError, first_line
from .bundle import CONFIG, EMBEDDED, KEPT_SHARES, MANIFEST, TOKENIZER, Bundle, find_bundle, open_bundle
from .hub import is_repository
from .session import choose_provider, open_session, usable_cores

if TYPE_CHECKING:
    import onnxruntime
    from tokenizers import Tokenizer

PRECISIONS = ("auto", "int8", "fp32")
# The edge graph takes only the first.
INPUTS = ("input_ids", "attention_mask")


class Model:
    """An opened bundle of ``task``: its tokenizer and its session.

    ``model`` is a folder, or a repository of the Hub at ``revision``; None takes $EDGE_IMDB_MODELS/TASK or the embedded
    bundle. ``precision`` ``auto`` prefers int8 on a CPU and fp32 elsewhere, and takes the other one if the bundle has
    only that. ``source`` says where the bundle is from, and ``reason`` why it is used. Raises BundleError, HubError,
    ProviderError, UsageError.
    """

    def __init__(
        self,
        task: str,
        model: str | os.PathLike[str] | None,
        revision: str | None,
        provider: str,
        threads: int | None,
        precision: str,
    ) -> None:
        if precision not in PRECISIONS:
            raise UsageError(f"There is no precision {precision!r}: use {', '.join(PRECISIONS)}.")
        # Of a repository of the Hub: its name, and the commit that its files are from.
        self.repository: tuple[str, str] | None = None
        path, self.reason = find_bundle(task, model)
        self.source = "embedded" if self.reason == "embedded" else str(path)
        if isinstance(model, str) and is_repository(model):
            from .hub import fetch

            path = fetch(model, MANIFEST, revision).parent
            self.repository = (model, path.name)
            self.source = f"{model} at {path.name[:12]}"
        elif revision is not None:
            raise UsageError(
                f"revision is {revision!r}, but {self.source} is not a Hub repository: leave revision out."
            )
        self.bundle: Bundle = open_bundle(path, task)
        if precision == "auto":
            first, second = ("int8", "fp32") if choose_provider(provider) == "cpu" else ("fp32", "int8")
            precision = first if first in self.bundle.graphs else second
        self.precision = precision
        if self.repository is not None:
            for name in (CONFIG, TOKENIZER):
                fetch(self.repository[0], name, self.repository[1])
        self.tokenizer = self._read_tokenizer()
        self._check_length()
        self._provider = provider
        self.threads = usable_cores() if threads is None else threads
        self.session: onnxruntime.InferenceSession | None = self._open_session(self.precision)
        # Opened by the first explanation.
        self._subsets: onnxruntime.InferenceSession | None = None
        self._lock = threading.Lock()
        self._forked = False
        # What each run of the session gets besides the text.
        self._always: dict[str, NDArray[Any]] = {}
        _models.add(self)
        self.output = self._check_graph(self.session)
        self.provider = str(self.session.get_providers()[0])

    def _open_session(self, name: str) -> onnxruntime.InferenceSession:
        if self.repository is not None and name in self.bundle.graphs:
            from .hub import fetch

            for file in self.bundle.needed(name):
                fetch(self.repository[0], file, self.repository[1])
        graph = self.bundle.graph(name)
        weights = self.bundle.weights(name)
        data = None if weights is None else self.bundle.path / weights
        with self._weights_checked(name):
            # The int8 graphs are written node by node for ONNX Runtime's CPU provider; the optimiser would slow them.
            return open_session(graph, self._provider, self.threads, data=data, optimise=name == "fp32")

    @contextlib.contextmanager
    def _weights_checked(self, precision: str) -> Iterator[None]:
        """Hash the weights while the session opens, and raise BundleError before it runs.

        Opening only copies the weights and changes their layout, so it is safe whatever they contain; ``Bundle.graph``
        has already checked their size.
        """
        name = self.bundle.weights(precision)
        if name is None:
            yield
            return
        found: list[BundleError] = []

        def check() -> None:
            try:
                self.bundle.file(name)
            except BundleError as error:
                found.append(error)

        thread = threading.Thread(target=check)
        thread.start()
        try:
            yield
        finally:
            thread.join()
            if found:
                raise found[0]

    def _read_tokenizer(self) -> Tokenizer:
        path = self.bundle.file(TOKENIZER)
        # Imported here, so that `import edge_imdb` and `--help` stay fast.
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(path))
        except BaseException as error:
            # A panic in its Rust code is not an Exception.
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise BundleError(f"{path} is not a tokenizer ({error}): export the bundle again.") from None
        words, rows = tokenizer.get_vocab_size(), self._config().get("vocab_size")
        if not isinstance(rows, int) or words > rows:
            raise BundleError(
                f"{path} has {words} tokens, but {self.bundle.path / CONFIG} has 'vocab_size' {rows!r:.20}: "
                "export the bundle again."
            )
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def _check_length(self) -> None:
        """Raise BundleError if the manifest asks for longer texts than the graph has positions for, by its config."""
        positions = self._config().get("max_position_embeddings")
        early = self.bundle.early_exit
        longest = max(self.bundle.truncation.max_length, early.length if early else 0)
        if isinstance(positions, int) and longest > positions:
            raise BundleError(
                f"{self.bundle.path / MANIFEST} asks for texts of {longest} tokens, but the model has only {positions} "
                f"positions: export the bundle again, from a run with a --max-length of at most {positions}."
            )

    def _config(self) -> dict[str, Any]:
        path = self.bundle.file(CONFIG)
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(config, dict):
                raise ValueError("it is not an object")
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{path} is not valid ({error}): export the bundle again.") from None
        return config

    def _check_graph(self, session: onnxruntime.InferenceSession) -> list[Any]:
        """Check the names of inputs and outputs, and return the shape of the output."""
        outputs = session.get_outputs()
        inputs = {node.name for node in session.get_inputs()}
        self._masked = inputs == set(INPUTS)
        if not (self._masked or inputs == {INPUTS[0]}) or [node.name for node in outputs] != ["logits"]:
            raise BundleError(
                f"The graph of {self.bundle.path} has inputs or outputs other than input_ids, attention_mask and "
                "logits: export the bundle again."
            )
        return list(outputs[0].shape)

    def keep_all(self) -> None:
        """Have the int8 graph drop no tokens, if it would. Raises BundleError if it isn't what the manifest says."""
        assert self.session is not None
        if self.bundle.token_dropping is None or self.precision != "int8":
            return
        ones = np.ones(len(self.bundle.token_dropping), dtype=np.float32)
        optional = {node.name: node.shape for node in self.session.get_overridable_initializers()}
        if optional.get(KEPT_SHARES) != [len(ones)]:
            raise BundleError(
                f"The graph of {self.bundle.path} doesn't drop tokens as its manifest says: export the bundle again."
            )
        self._always = {KEPT_SHARES: ones}

    def run(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """The logits of one text. *Shape:* ``(length,)`` to what the graph gives for a batch of one.

        Raises BundleError if the graph fails on it, UsageError after ``close``.
        """
        session = self._opened()
        if self._forked:
            session = self._reopen()
        # One text per run and no padding, so that a score can't depend on other texts.
        row = np.asarray([ids], dtype=np.int64)
        feed = {"input_ids": row, "attention_mask": np.ones_like(row)} if self._masked else {"input_ids": row}
        return self._outputs(session, ["logits"], {**feed, **self._always})[0]

    def run_subsets(
        self, ids: Sequence[int], kept: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The logits for one text, and what they would be if ``[CLS]`` read only the tokens of each subset.

        *Shape:* ``(length,)`` and ``(subsets, length)`` to ``(1, labels)`` and ``(subsets, labels)``. Source:
        ``edge_graph/subsets.py``. Raises BundleError if the bundle has no graph for it, or the graph can't take it;
        UsageError after ``close``.
        """
        feed: dict[str, NDArray[Any]] = {"input_ids": np.asarray([ids], dtype=np.int64), "kept": kept}
        logits, subsets = self._outputs(self._subsets_session(), ["logits", "subset_logits"], feed)
        return logits, subsets

    def _subsets_session(self) -> onnxruntime.InferenceSession:
        with self._lock:
            self._opened()
            if self._subsets is None:
                if "explain" not in self.bundle.graphs:
                    raise BundleError(
                        f"The bundle {self.bundle.path} has no graph that explains a label: export it again with "
                        "--quantize."
                    )
                session = self._open_session("explain")
                inputs = {node.name for node in session.get_inputs()}
                outputs = [node.name for node in session.get_outputs()]
                if inputs != {"input_ids", "kept"} or outputs != ["logits", "subset_logits"]:
                    raise BundleError(
                        f"The graph of {self.bundle.path} that explains a label has inputs or outputs other than "
                        "input_ids, kept, logits and subset_logits: export the bundle again."
                    )
                self._subsets = session
            return self._subsets

    def _opened(self) -> onnxruntime.InferenceSession:
        if self.session is None:
            raise UsageError(f"The {self.bundle.task} model was closed: make a new one.")
        return self.session

    def _outputs(
        self, session: onnxruntime.InferenceSession, names: list[str], feed: dict[str, NDArray[Any]]
    ) -> list[NDArray[np.float32]]:
        try:
            results: list[NDArray[np.float32]] = session.run(names, feed)
        except Exception as error:
            reason = first_line(error)
            raise BundleError(
                f"The graph of {self.bundle.path} can't read a text of {feed['input_ids'].size} tokens ({reason}): "
                "export the bundle again."
            ) from error
        if not all(np.isfinite(result).all() for result in results):
            raise BundleError(
                f"The graph of {self.bundle.path} gives logits that are not numbers for this text: export it again, "
                "with training reviews that are more like it."
            )
        return results

    def _reopen(self) -> onnxruntime.InferenceSession:
        """Open the session again in a forked process.

        Raises BundleError if the bundle was replaced or altered in the meantime.
        """
        with self._lock:
            if self._forked:
                self.session = self._open_session(self.precision)
                self._forked = False
            assert self.session is not None
            return self.session

    def leave_behind(self) -> None:
        """Called in a new forked process, which doesn't have the threads of the session.

        Anything that waits for these threads, such as closing the session, would wait for ever. So the session is kept
        and never closed, and the next call opens a new one.
        """
        self._lock = threading.Lock()
        if self.session is None or self.threads == 1:
            # A single thread is the caller's own.
            return
        for session in (self.session, self._subsets):
            if session is not None:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        self._subsets = None
        self._forked = True

    def close(self) -> None:
        """Free the session's memory and end its threads, as soon as no other thread uses it any more."""
        self.session = self._subsets = None


# Every open model, so that a forked process can mark them.
_models: weakref.WeakSet[Model] = weakref.WeakSet()


def _leave_behind() -> None:
    for model in list(_models):
        model.leave_behind()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_behind)


class Pipeline:
    """The base of Sentiment and FillMask: everything but the call itself.

    A pipeline is pickled and copied as the arguments that it was made with, so the receiver (a spawned process, a
    joblib worker, a Ray actor) opens the bundle again. The same bundle, by its manifest's sha256, must exist there.
    ``close``, or the end of a ``with`` block, frees the memory.
    """

    _model: Model
    bundle: Bundle
    reason: str
    precision: str

    def __init__(
        self,
        task: str,
        model: str | os.PathLike[str] | None,
        revision: str | None,
        provider: str,
        threads: int | None,
        precision: str,
        behaviour: dict[str, Any],
    ) -> None:
        """``behaviour`` has the other arguments of the constructor, by name."""
        self._model = Model(task, model, revision, provider, threads, precision)
        self.bundle = self._model.bundle
        self.reason = self._model.reason
        self.precision = self._model.precision
        self._arguments = {"provider": provider, "threads": threads, "precision": precision, **behaviour}

    @property
    def provider(self) -> str:
        """The execution provider in use, by ONNX Runtime's name."""
        return self._model.provider

    @property
    def threads(self) -> int | None:
        """The number of threads per text; None if the number of cores is unknown and ONNX Runtime chooses."""
        return self._model.threads

    def close(self) -> None:
        """Free the memory and the threads. Later calls raise UsageError; closing twice does no harm."""
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # The receiver gets this bundle, whatever its environment says. Only the embedded one may be in another place.
        place: Any = None if self.reason == "embedded" else str(self.bundle.path.absolute())
        place = self._model.repository or place
        return _open_again, (type(self), self.bundle.task, place, self._arguments, self.bundle.digest)

    def __repr__(self) -> str:
        labels = f"; {', '.join(self.bundle.labels)}" if self.bundle.labels else ""
        state = "closed" if self._model.session is None else f"{self.precision} on {self.provider}"
        return f"<{type(self).__name__} {self._model.source}: {state}{labels}>"


def _open_again(
    kind: type[Any], task: str, place: str | tuple[str, str] | None, arguments: dict[str, Any], digest: str
) -> Any:
    """Called by unpickling. Raises BundleError if the bundle is missing here or is a different one.

    ``place`` is a folder, a repository of the Hub with its commit, or None for the embedded bundle.
    """
    if isinstance(place, tuple):
        opened = kind(place[0], revision=place[1], **arguments)
    else:
        opened = kind(EMBEDDED / task if place is None else Path(place), **arguments)
    if opened.bundle.digest != digest:
        cure = (
            "install the same version of edge-imdb here and there"
            if place is None
            else "copy the bundle here, or pickle anew"
        )
        raise BundleError(f"The bundle {opened.bundle.path} is not the one that was pickled: {cure}.")
    return opened
