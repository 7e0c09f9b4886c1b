"""Teacher: label texts with any sequence classifier of transformers, in PyTorch, for a small model to learn from.

A teacher is a folder with ``config.json``, safetensors and a tokenizer. Neither code from a repository nor a pickle is
ever run. Importing this module imports neither PyTorch nor transformers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..data.metrics import softmax
from ..data.run_folder import METRICS
from ..data.text import Truncation, clean, is_blank
from ..errors import (
    BundleError,
    EdgeImdbError,
    InputError,
    MissingDependencyError,
    ProviderError,
    UsageError,
    first_line,
)
from ..runtime.bundle import MANIFEST
from ..runtime.hub import CHECKPOINT_FILES, CONFIG
from ..runtime.torch_device import computes_bf16
from ..tasks.sentiment.rows import SentimentRows
from .labels import Labeller, Options, Outcome, versions

if TYPE_CHECKING:
    import torch

HEAD = "ForSequenceClassification"
# Texts that are sorted by length and batched together, and tokens in a batch, padding included. Both belong to the
# result, because the shape of a batch decides the last bits.
WINDOW = 256
_BATCH_TOKENS = {"cpu": 4096, "cuda": 32768}
# Tokens that are read of a text if the checkpoint has no limit.
_LONGEST = 512
# Position embeddings of these models begin behind the padding's.
_OFFSET = (
    "roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "mpnet", "longformer", "xmod",
    "data2vec-text", "ibert", "luke",
)  # fmt: skip
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pyarrow")


def is_teacher(folder: Path) -> bool:
    """Whether ``folder`` is a checkpoint and not a bundle.

    >>> is_teacher(Path("somewhere"))
    False
    """
    return (folder / CONFIG).is_file() and not (folder / MANIFEST).exists()


def check_teacher(folder: Path) -> dict[str, Any]:
    """The configuration of the teacher in ``folder``. Imports nothing.

    Raises BundleError, naming what is wrong and what to do, if the folder isn't a classifier of transformers with
    safetensors, two labels or more, and only transformers' own code.
    """
    if not folder.is_dir():
        raise BundleError(f"There is no folder {folder}: give the folder or the Hub id of a classifier.")
    if (folder / MANIFEST).exists():
        raise BundleError(f"{folder} is a bundle, and a checkpoint of transformers is needed: give another folder.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is not an object")
    except FileNotFoundError:
        raise BundleError(
            f"{folder} is not a checkpoint, because it has no {CONFIG}: give the folder of a classifier."
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{folder / CONFIG} can't be read ({first_line(error)}): copy the checkpoint again."
        ) from None
    architectures = [str(name) for name in config.get("architectures") or []]
    if not any(name.endswith(HEAD) for name in architectures):
        raise BundleError(
            f"{folder} is not a classifier ({', '.join(architectures) or 'no architecture'}; a name that ends in "
            f"{HEAD} is needed): fine-tune it first with `edge-imdb train sentiment --base`."
        )
    labels = labels_of(config)
    if len(labels) < 2:
        raise BundleError(
            f"{folder} has one output, so it is a regression and not a classifier: give a model with two labels or "
            "more."
        )
    if config.get("problem_type") in ("multi_label_classification", "regression"):
        raise BundleError(
            f"{folder} is for {config['problem_type'].replace('_', ' ')}, whose scores are no probabilities of one "
            "label: give a model that gives each text one label."
        )
    if len(set(labels)) < len(labels):
        raise BundleError(f"{folder} has two labels of the same name in id2label: give each a name of its own.")
    if not list(folder.glob("*.safetensors")):
        others = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".h5", ".msgpack"))
        raise BundleError(
            f"{folder} has no .safetensors{f', only {others[0]}' if others else ''}. Other formats are not opened, "
            "because a pickle can run code: save the model again with save_pretrained."
        )
    return config


def labels_of(config: dict[str, Any]) -> list[str]:
    """The labels of a configuration, in the order of the outputs.

    >>> labels_of({"id2label": {"0": "neg", "1": "pos"}})
    ['neg', 'pos']
    """
    names = config.get("id2label")
    if isinstance(names, dict) and names:
        return [str(names[key]) for key in sorted(names, key=int)]
    # Transformers' own default.
    return [f"LABEL_{number}" for number in range(int(config.get("num_labels", 2)))]


def teacher_files(folder: Path) -> list[Path]:
    """The files that decide what a teacher says, in order."""
    return sorted({path for pattern in CHECKPOINT_FILES for path in folder.glob(pattern) if path.is_file()})


def teacher_sha256(folder: Path) -> str:
    """A hash of the names and contents of ``teacher_files``."""
    total = hashlib.sha256()
    for path in teacher_files(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name} {digest}\n".encode())
    return total.hexdigest()


class Teacher:
    """An opened classifier of transformers.

    ``labels`` are in the order of the outputs; ``device`` is ``"cuda"`` or ``"cpu"``, and ``precision`` is ``"bf16"``
    or ``"fp32"``. Texts are cleaned as for a bundle. A text that is too long keeps its head and its tail if our
    training made the checkpoint, whose ``metrics.json`` says how much of each; otherwise it keeps its head, as in
    transformers' pipeline.

    Raises BundleError as ``check_teacher`` does, ProviderError for a device that isn't there, MissingDependencyError.
    """

    def __init__(self, folder: Path, provider: str = "auto", precision: str = "auto") -> None:
        config = check_teacher(folder)
        if precision == "int8":
            raise UsageError("--precision int8 is for bundles: a teacher runs in bf16 or fp32; leave --precision out.")
        self.folder, self.labels = folder, labels_of(config)
        torch, transformers = _import("torch"), _import("transformers")
        self._torch = torch
        self.device = _device(torch, provider)
        self.precision = "bf16" if precision == "auto" and computes_bf16(self.device) else "fp32"
        if config.get("model_type") not in transformers.CONFIG_MAPPING:
            raise BundleError(
                f"{folder} is a {config.get('model_type')}, which transformers {transformers.__version__} doesn't know"
                f"{' without code from its repository, which is never run' if 'auto_map' in config else ''}: use a "
                "newer transformers or another model."
            )
        with _quiet(transformers):
            self._tokenizer = _load(transformers.AutoTokenizer, folder, "tokenizer", trust_remote_code=False)
            self._model, report = _load(
                transformers.AutoModelForSequenceClassification,
                folder,
                "weights",
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        if report["missing_keys"]:
            raise BundleError(
                f"{folder} lacks weights ({sorted(report['missing_keys'])[0]}), so its answers would be random: copy "
                "or fine-tune the model again."
            )
        rows = self._model.get_input_embeddings().weight.shape[0]
        if (largest := max(self._tokenizer.get_vocab().values(), default=0)) >= rows:
            raise BundleError(
                f"The tokenizer of {folder} has the id {largest}, but the model has only {rows} embeddings: copy the "
                "tokenizer that the model was trained with."
            )
        self._model.eval().to(self.device)
        self.max_length = _max_length(config, self._tokenizer, self._model)
        self._truncation = _trained_truncation(folder, self.max_length)

    def probabilities(self, texts: Sequence[str], temperature: float = 1.0) -> NDArray[np.float64]:
        """The probability of each label, softmax(logits / temperature). *Shape:* ``(texts,)`` to ``(texts, labels)``.

        Texts must not be blank. The result depends, in its last bits, on which texts are given together.
        """
        found: NDArray[np.float64] = softmax(self.logits(texts), temperature)
        return found

    def logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """*Shape:* ``(texts,)`` to ``(texts, labels)``. Batches have texts of similar length."""
        torch = self._torch
        ids = [self.encode(text) for text in texts]
        logits = np.empty((len(ids), len(self.labels)))
        try:
            with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
                for rows in batches([len(row) for row in ids], self._budget):
                    logits[rows] = self._run([ids[row] for row in rows]).float().cpu().numpy()
        except torch.cuda.OutOfMemoryError:
            raise EdgeImdbError(
                f"The GPU's memory is too small for {self.folder}: free some of it, or use --provider cpu."
            ) from None
        return logits

    @property
    def _budget(self) -> int:
        # Without a token for padding only texts of the same length could be in one batch.
        return 0 if self._tokenizer.pad_token_id is None else _BATCH_TOKENS[self.device]

    def _run(self, rows: list[list[int]]) -> torch.Tensor:
        longest = max(map(len, rows))
        padding = self._tokenizer.pad_token_id or 0
        ids = self._torch.tensor([row + [padding] * (longest - len(row)) for row in rows], device=self.device)
        mask = self._torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.device)
        logits: torch.Tensor = self._model(input_ids=ids, attention_mask=mask).logits
        return logits

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, with special tokens, cut to the model's length. *Shape:* ``(length,)``."""
        text = clean(text)
        if self._truncation is None:
            cut = self._tokenizer(text, truncation=True, max_length=self.max_length, add_special_tokens=True)
            return list(cut["input_ids"])
        tokens = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return list(self._tokenizer.build_inputs_with_special_tokens(self._truncation.cut(tokens)))


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of at most ``budget`` tokens, padding included, the longest texts first.

    A text that is longer than ``budget`` is a batch by itself.

    >>> list(batches([3, 9, 4, 8], 18))
    [[1, 3], [2, 0]]
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


class TeacherLabeller:
    """A teacher with the interface of ``Labeller``. ``window`` texts are labelled together, not one by one."""

    window = WINDOW

    def __init__(self, options: Options, folder: Path) -> None:
        rows = options.rows
        if not isinstance(rows, SentimentRows):
            raise UsageError(f"--task is {options.task}, but {folder} is a classifier: leave --task out.")
        for name in ("exact", "sliding_windows", "explain"):
            if getattr(rows, name):
                raise UsageError(
                    f"--{name.replace('_', '-')} is for bundles, and {folder} is a checkpoint of transformers: "
                    "leave it out."
                )
        self.options, self._rows = options, rows
        self._teacher = Teacher(folder, options.runtime.provider, options.runtime.precision)
        self.labels = self._teacher.labels

    def label_all(self, texts: Sequence[str | None]) -> list[Outcome]:
        """An outcome for each text; None gives an empty one. The last bits depend on which texts come together."""
        outcomes = [Outcome(None, None)] * len(texts)
        readable: list[int] = []
        for index, text in enumerate(texts):
            if text is None:
                continue
            if is_blank(text):
                outcomes[index] = Outcome(
                    None, str(InputError("The text is blank: give a text with visible characters."))
                )
            else:
                readable.append(index)
        if readable:
            rows = self._teacher.probabilities([texts[index] for index in readable], self._rows.temperature)  # type: ignore[misc]
            for index, row in zip(readable, rows, strict=True):
                outcomes[index] = (
                    Outcome(self._rows.values(row, self.labels), None)
                    if np.isfinite(row).all()
                    else Outcome(None, "The teacher's scores are not numbers: try --precision fp32.")
                )
        return outcomes

    def identity(self) -> dict[str, Any]:
        """The facts that must agree wherever parts of one job are made."""
        return {
            "task": self.options.task,
            **{name: getattr(self._rows, name) for name in ("min_score", "all_scores", "temperature")},
            "device": self._teacher.device,
            "precision": self._teacher.precision,
            "bundle": teacher_sha256(self._teacher.folder),
            "versions": {"edge-imdb": __version__, **versions(_PACKAGES)},
        }


def open_labeller(options: Options) -> Labeller | TeacherLabeller:
    """The model that ``options`` name: a bundle, or a classifier of transformers. Raises the errors of either."""
    if options.runtime.model is not None and is_teacher(folder := Path(options.runtime.model)):
        return TeacherLabeller(options, folder)
    return Labeller(options)


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name:
            raise
        raise MissingDependencyError(
            f"A teacher needs {name}, which is not installed: pip install 'edge-imdb[teacher]' "
            "(in a clone: pip install '.[teacher]')."
        ) from error


def _device(torch: Any, provider: str) -> str:
    if provider not in ("auto", "cpu", "cuda"):
        raise ProviderError(f"A teacher runs in PyTorch, which has no provider {provider!r}: use auto, cpu or cuda.")
    if provider == "cuda" and not torch.cuda.is_available():
        raise ProviderError("PyTorch finds no CUDA GPU here: leave --provider out, or install PyTorch with CUDA.")
    return "cuda" if provider != "cpu" and torch.cuda.is_available() else "cpu"


def _load(loader: Any, folder: Path, what: str, **options: Any) -> Any:
    """``loader.from_pretrained``, whose many errors become one sentence."""
    try:
        return loader.from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:
        if isinstance(error, ImportError):
            raise MissingDependencyError(f"The {what} of {folder} can't be read: {first_line(error)}.") from error
        raise BundleError(
            f"The {what} of {folder} can't be read ({type(error).__name__}: {first_line(error)[:200]}): copy the "
            "checkpoint again."
        ) from error


class _quiet:
    """Silence transformers' warnings and progress bars."""

    def __init__(self, transformers: Any) -> None:
        self._logging = transformers.utils.logging
        self._restore: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        level, bars = self._logging.get_verbosity(), self._logging.is_progress_bar_enabled()

        def restore() -> None:
            self._logging.set_verbosity(level)
            if bars:
                self._logging.enable_progress_bar()

        self._restore = restore
        self._logging.set_verbosity_error()
        self._logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        self._restore()


def _max_length(config: dict[str, Any], tokenizer: Any, model: Any) -> int:
    """The longest text that the model reads, in tokens, special tokens included."""
    limits = [tokenizer.model_max_length]
    # DeBERTa's positions are relative, unless it says otherwise.
    absolute = config.get("position_biased_input", True) is not False
    positions = getattr(model.config, "max_position_embeddings", None)
    if absolute and isinstance(positions, int) and positions > 0:
        padding = getattr(model.config, "pad_token_id", None)
        offset = (1 if padding is None else padding) + 1 if config["model_type"] in _OFFSET else 0
        limits.append(positions - offset)
    limit = min(limits)
    # A tokenizer without a limit has 10^30.
    return int(limit) if limit < 1 << 20 else _LONGEST


def _trained_truncation(folder: Path, max_length: int) -> Truncation | None:
    """How our training cut long texts; None for a checkpoint that it didn't make."""
    try:
        cut = json.loads((folder / METRICS).read_text(encoding="utf-8"))["truncation"]
        return Truncation(min(int(cut["max_length"]), max_length), float(cut["head_ratio"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
