"""Loaded: what Sentiment and FillMask share: a bundle found and checked, its tokenizer, a session on its graph."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .bundle import TOKENIZER, Bundle, find_bundle, open_bundle
from .errors import BundleError, UsageError
from .session import choose_provider, open_session

if TYPE_CHECKING:
    import onnxruntime
    from tokenizers import Tokenizer

PRECISIONS = ("auto", "int8", "fp32")
# The edge graph takes the first alone.
INPUTS = ("input_ids", "attention_mask")
CONFIG = "config.json"


class Loaded:
    """A bundle of ``task``, its tokenizer and its session. Raises BundleError, ProviderError, UsageError.

    ``model`` None takes $EDGE_IMDB_MODELS/TASK, ./models/TASK, or the embedded bundle. ``precision`` ``auto`` is int8
    on a CPU and fp32 elsewhere, whichever there is.
    """

    def __init__(
        self, task: str, model: str | os.PathLike[str] | None, provider: str, threads: int | None, precision: str
    ) -> None:
        if precision not in PRECISIONS:
            raise UsageError(f"There is no precision {precision!r}: use {', '.join(PRECISIONS)}.")
        path, self.reason = find_bundle(task, model)
        self.bundle: Bundle = open_bundle(path, task)
        if precision == "auto":
            first, second = ("int8", "fp32") if choose_provider(provider) == "cpu" else ("fp32", "int8")
            precision = first if first in self.bundle.graphs else second
        self.precision = precision
        self.tokenizer = self._read_tokenizer()
        self._provider, self._threads = provider, threads
        self.session = self._open_session()
        # One thread needs no others, which a fork would leave behind.
        self._process = None if threads == 1 else os.getpid()
        self._lock = threading.Lock()
        self.output = self._check_graph()

    def _open_session(self) -> onnxruntime.InferenceSession:
        graph = self.bundle.graph(self.precision)
        with self._weights_checked(self.precision):
            # The int8 graph is written for ONNX Runtime's CPU provider node by node: its optimiser would make it
            # slower.
            return open_session(graph, self._provider, self._threads, optimise=self.precision != "int8")

    @contextlib.contextmanager
    def _weights_checked(self, precision: str) -> Iterator[None]:
        """Hash the weights beside a graph while the session opens, and raise BundleError before it runs.

        Opened they are only copied and laid out anew, whatever they hold; ``Bundle.graph`` checks their size before.
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
            # A panic of its Rust code is no Exception.
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise BundleError(f"{path} is no tokenizer ({error}): export the bundle again.") from None
        words, rows = tokenizer.get_vocab_size(), self._config().get("vocab_size")
        if not isinstance(rows, int) or words > rows:
            raise BundleError(
                f"{path} has {words} tokens where {self.bundle.path / CONFIG} has 'vocab_size' {rows!r:.20}: "
                "export the bundle again."
            )
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def _config(self) -> dict[str, Any]:
        path = self.bundle.file(CONFIG)
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(config, dict):
                raise ValueError("it is no object")
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{path} is not valid ({error}): export the bundle again.") from None
        return config

    def _check_graph(self) -> list[Any]:
        """The shape of the output, after the names of inputs and outputs were checked."""
        outputs = self.session.get_outputs()
        inputs = {node.name for node in self.session.get_inputs()}
        self._masked = inputs == set(INPUTS)
        if not (self._masked or inputs == {INPUTS[0]}) or [node.name for node in outputs] != ["logits"]:
            raise BundleError(
                f"The graph of {self.bundle.path} has other inputs or outputs than input_ids, attention_mask and "
                "logits: export the bundle again."
            )
        return list(outputs[0].shape)

    def run(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """The logits for one text. *Shape:* ``(length,)`` to what the graph gives for a batch of one.

        Raises BundleError where the graph can't take it.
        """
        if self._process not in (None, os.getpid()):
            self._reopen()
        # One text a run and no padding, so that a score can't depend on the texts beside it.
        row = np.asarray([ids], dtype=np.int64)
        feed = {"input_ids": row, "attention_mask": np.ones_like(row)} if self._masked else {"input_ids": row}
        try:
            result: NDArray[np.float32] = self.session.run(["logits"], feed)[0]
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise BundleError(
                f"The graph of {self.bundle.path} can't read a text of {row.size} tokens ({reason}): "
                "export the bundle again."
            ) from error
        if not np.isfinite(result).all():
            raise BundleError(
                f"The graph of {self.bundle.path} gives logits that are no numbers for this text: export it again, "
                "from reviews that are like it."
            )
        return result

    def _reopen(self) -> None:
        """Open the session anew in a process that was forked: its threads stayed behind in the other.

        Raises BundleError where the bundle was replaced or altered since.
        """
        with self._lock:
            if self._process == os.getpid():
                return
            # Never to be closed, for that would wait for those threads.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.session))
            self.session = self._open_session()
            self._process = os.getpid()

    @property
    def provider(self) -> str:
        """The execution provider that the session got, as ONNX Runtime calls it."""
        return str(self.session.get_providers()[0])
