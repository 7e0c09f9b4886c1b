"""The part of transformers' Pipeline that both tasks share: its attributes, and the meaning of its arguments.

TransformersInterface, CallOptions, Device, ModelView, TokenizerView, provider_of, is_cut, check_length, check_options.
docs/coming-from.md lists what differs from transformers.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypedDict

from ..data.inputs import check_count
from ..errors import UsageError
from ..runtime.bundle import CONFIG
from ..runtime.model import Pipeline

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class _Unset(Enum):
    """The type of UNSET: an enum, so that a pickled UNSET is still the same object."""

    UNSET = "UNSET"


# The value of an argument that was not given, where None has its own meaning.
UNSET: Any = _Unset.UNSET
_ANY: Any = object()
_CUT = ("longest_first", "only_first")

# Arguments that transformers passes to the tokenizer: the values that change no result here, and what to do otherwise.
# The graph takes one text per run, so there is no padding, and it needs no further tensors.
_TOKENIZER = {
    "padding": ((True, False, "longest", "max_length", "do_not_pad"), "use True, False, 'longest' or 'max_length'"),
    "pad_to_multiple_of": (_ANY, ""),
    "padding_side": (_ANY, ""),
    "return_tensors": (_ANY, ""),
    "return_attention_mask": (_ANY, ""),
    "return_token_type_ids": (_ANY, ""),
    "clean_up_tokenization_spaces": (_ANY, ""),
    "verbose": (_ANY, ""),
    "add_special_tokens": ((True,), "the model needs [CLS] and [SEP], so leave it out"),
    "is_split_into_words": ((False,), "join the words with spaces instead"),
    "split_special_tokens": ((False,), "leave it out"),
    "stride": ((0,), "use Sentiment(sliding_windows=True) to read a long text in windows"),
    "return_overflowing_tokens": ((False,), "use Sentiment(sliding_windows=True) to read a long text in windows"),
    "return_offsets_mapping": ((False,), "use pipe.tokenizer.encode(text).offsets"),
    "return_special_tokens_mask": ((False,), "use pipe.tokenizer.encode(text).special_tokens_mask"),
    "return_length": ((False,), "use len(pipe.tokenizer.encode(text).ids)"),
    "truncation_side": ((), "leave it out; long texts are cut as the model was trained"),
    "text_pair": ((), "pairs of texts are not supported"),
}
# The same for the arguments of transformers.pipeline() and of its classes.
_CONSTRUCTOR = {
    "framework": (("pt", "tf", "onnx"), "leave it out; ONNX Runtime executes the model"),
    "trust_remote_code": (_ANY, ""),
    "use_fast": ((True,), "leave it out; the tokenizer is always the fast one"),
    "torch_dtype": (("auto",), "use precision='fp32' or precision='int8'"),
    "dtype": (("auto",), "use precision='fp32' or precision='int8'"),
    "device_map": (("auto", "cpu"), "use device or provider"),
    "tokenizer": ((), "leave it out; a bundle contains its tokenizer"),
    "config": ((), "leave it out; a bundle contains its configuration"),
    "token": ((), "log in with `hf auth login`, or set HF_TOKEN"),
    "use_auth_token": ((), "log in with `hf auth login`, or set HF_TOKEN"),
    "model_kwargs": ((), "leave it out; use provider, threads and precision"),
    "feature_extractor": ((), "leave it out"),
    "image_processor": ((), "leave it out"),
    "processor": ((), "leave it out"),
    "modelcard": ((), "leave it out"),
    "args_parser": ((), "leave it out"),
    "binary_output": ((False,), "leave it out"),
    "pipeline_class": ((), "leave it out"),
}


class CallOptions(TypedDict, total=False):
    """Arguments of a call that don't change the type of its result."""

    function_to_apply: str | None
    truncation: bool | str | None
    max_length: int | None
    padding: bool | str | None
    batch_size: int | None
    num_workers: int | None
    workers: int


@dataclass(frozen=True)
class Device:
    """Where a model runs, with the fields of ``torch.device``.

    >>> str(Device("cuda", 0)), str(Device("cpu", None))
    ('cuda:0', 'cpu')
    """

    type: str
    index: int | None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


class ModelView(NamedTuple):
    """What other libraries read of ``pipe.model``: its configuration, its name and its device."""

    config: SimpleNamespace
    name_or_path: str
    device: Device


class TokenizerView:
    """The ``tokenizers.Tokenizer`` of a bundle, with the names that transformers gives to the same things.

    Called with a text or with a list of texts, it returns ``{"input_ids", "attention_mask"}``, neither padded nor cut.
    Everything else, such as ``encode`` and ``decode``, is that of ``tokenizers.Tokenizer``.

    >>> from edge_imdb import FillMask
    >>> tokenizer = FillMask().tokenizer
    >>> tokenizer.mask_token, tokenizer.mask_token_id
    ('[MASK]', 103)
    >>> tokenizer("great film")
    {'input_ids': [101, 2307, 2143, 102], 'attention_mask': [1, 1, 1, 1]}
    """

    cls_token, sep_token, mask_token, pad_token, unk_token = "[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]"
    is_fast = True

    def __init__(self, tokenizer: Tokenizer, model_max_length: int) -> None:
        self.backend_tokenizer, self.model_max_length = tokenizer, model_max_length

    def __call__(self, text: str | Iterable[str], add_special_tokens: bool = True) -> dict[str, list[Any]]:
        if isinstance(text, str):
            ids: list[Any] = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
            return {"input_ids": ids, "attention_mask": [1] * len(ids)}
        encodings = self.backend_tokenizer.encode_batch(list(text), add_special_tokens=add_special_tokens)
        return {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [[1] * len(encoding.ids) for encoding in encodings],
        }

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "backend_tokenizer":
            raise AttributeError(name)
        if name.endswith("_token_id") and hasattr(type(self), name[:-3]):
            return self.backend_tokenizer.token_to_id(getattr(self, name[:-3]))
        return getattr(self.backend_tokenizer, name)

    @property
    def vocab_size(self) -> int:
        """The number of tokens, without those that were added after training."""
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=False))

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """The id of a token, or the ids of several; that of ``[UNK]`` for an unknown token."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        found = self.backend_tokenizer.token_to_id(tokens)
        return self.unk_token_id if found is None else found

    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> Any:
        """The token of an id, or the tokens of several."""
        if not isinstance(ids, Iterable):
            return self.backend_tokenizer.id_to_token(int(ids))
        return [self.backend_tokenizer.id_to_token(int(index)) for index in ids]

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, without special tokens."""
        return list(self.backend_tokenizer.encode(text, add_special_tokens=False).tokens)


class TransformersInterface(Pipeline):
    """The attributes and methods that code for transformers reads, beside the call itself."""

    # The first is the default of ``task``.
    TASK_NAMES: ClassVar[tuple[str, ...]]
    framework = "onnx"
    task: str

    def _accept(
        self,
        task: str | None,
        batch_size: int | None,
        num_workers: int | None,
        unsupported: Mapping[str, Any],
    ) -> None:
        """Check the arguments of the constructor that change nothing. Raises UsageError."""
        if task is not None and task not in self.TASK_NAMES:
            raise UsageError(f"task is {task!r:.80}: {type(self).__name__} does {', '.join(self.TASK_NAMES)}.")
        self.task = task or self.TASK_NAMES[0]
        check_options(type(self).__name__, unsupported, _CONSTRUCTOR)
        check_batches(batch_size, num_workers)
        # Under transformers' names, as its own tests read them.
        self._batch_size, self._num_workers = batch_size, num_workers

    @property
    def device(self) -> Device:
        """Where the model runs.

        >>> from edge_imdb import Sentiment
        >>> Sentiment(device="cpu").device.type
        'cpu'
        """
        name = self.provider.removesuffix("ExecutionProvider").lower()
        return Device("cuda", 0) if name in ("cuda", "tensorrt") else Device(name, None)

    @functools.cached_property
    def tokenizer(self) -> TokenizerView:
        """The tokenizer of the bundle, with transformers' names for the special tokens."""
        return TokenizerView(self._model.tokenizer, self.bundle.truncation.max_length)

    @functools.cached_property
    def model(self) -> ModelView:
        """The configuration, the name and the device of the model.

        >>> from edge_imdb import Sentiment
        >>> Sentiment().model.config.id2label
        {0: 'neg', 1: 'pos'}
        """
        config = json.loads(self.bundle.file(CONFIG).read_text(encoding="utf-8"))
        if self.bundle.labels:
            names = dict(enumerate(self.bundle.labels))
            config |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
            config |= {"num_labels": len(names), "problem_type": "single_label_classification"}
        return ModelView(SimpleNamespace(**config), self._model.source.name, self.device)

    def predict(self, inputs: Any) -> Any:
        """The same as a call, under scikit-learn's name.

        >>> from edge_imdb import Sentiment
        >>> [result["label"] for result in Sentiment().predict(["great film", "what a bore"])]
        ['pos', 'neg']
        """
        return self(inputs)  # type: ignore[operator]

    def transform(self, inputs: Any) -> Any:
        """The same as a call, under scikit-learn's name."""
        return self(inputs)  # type: ignore[operator]


def provider_of(device: Any, provider: str) -> str:
    """The execution provider for transformers' argument ``device``; ``provider`` if that is None.

    ``device`` is -1, ``"cpu"``, 0, ``"cuda"``, ``"cuda:0"`` or a ``torch.device``. As in transformers, 0 is the GPU if
    there is one. Raises UsageError for other devices, and if ``provider`` asks for a different one.

    >>> provider_of(-1, "auto"), provider_of("cuda:0", "auto"), provider_of(0, "auto")
    ('cpu', 'cuda', 'auto')
    """
    if device is None:
        return provider
    kind, index = getattr(device, "type", None), getattr(device, "index", None)
    if isinstance(device, str):
        kind, _, number = device.partition(":")
        index = int(number) if number.isdecimal() else None if not number else -1
    elif isinstance(device, int) and not isinstance(device, bool):
        kind, index = ("cpu", None) if device == -1 else ("auto", device)
    if kind not in ("cpu", "cuda", "auto") or index not in (None, 0):
        other = "; for another GPU, set CUDA_VISIBLE_DEVICES" if kind in ("cuda", "auto") else ""
        raise UsageError(
            f"device is {str(device)!r:.80}: use 'cpu' or 'cuda'{other}; for other hardware, use provider instead."
        )
    if provider not in ("auto", kind):
        raise UsageError(f"device is {str(device)!r:.80}, but provider is {provider!r:.80}: give only one of them.")
    return str(kind)


def is_cut(truncation: bool | str | None) -> bool:
    """Whether a text that is too long is cut, by transformers' argument ``truncation``; None is True here.

    Raises UsageError for an unknown value.

    >>> is_cut("only_first"), is_cut("do_not_truncate")
    (True, False)
    """
    if truncation is None or truncation is True or truncation in _CUT:
        return True
    if truncation is False or truncation == "do_not_truncate":
        return False
    if truncation == "only_second":
        raise UsageError("truncation is 'only_second', but pairs of texts are not supported: use True.")
    raise UsageError(
        f"truncation is {truncation!r:.80}: use True, False, 'longest_first', 'only_first' or 'do_not_truncate'."
    )


def check_length(max_length: int | None, longest: int, stacklevel: int = 4) -> int:
    """The number of tokens that a text is cut to: ``max_length``, or ``longest`` if that is less or None.

    Warns if ``max_length`` is over ``longest``, the most that the model reads. Raises UsageError if it is no count.

    >>> check_length(128, 384), check_length(None, 384)
    (128, 384)
    """
    if max_length is None:
        return longest
    if (length := check_count("max_length", max_length)) > longest:
        warnings.warn(
            f"max_length is {length}, but this model reads at most {longest} tokens, so longer texts are cut to that.",
            UserWarning,
            stacklevel=stacklevel,
        )
    return min(length, longest)


def check_batches(batch_size: int | None, num_workers: int | None) -> None:
    """Raise UsageError unless ``batch_size`` is a count or None, and ``num_workers`` is 0, a count or None."""
    if batch_size is not None:
        check_count("batch_size", batch_size)
    if num_workers is not None and (isinstance(num_workers, bool) or num_workers != 0):
        check_count("num_workers", num_workers)


def check_options(owner: str, given: Mapping[str, Any], known: Mapping[str, tuple[Any, str]] = _TOKENIZER) -> None:
    """Accept the arguments that change no result. Raises UsageError for those that can't be honoured.

    Raises TypeError for an unknown name, as Python does.

    >>> check_options("Sentiment", {"padding": "max_length", "return_tensors": "pt"})
    >>> check_options("Sentiment", {"is_split_into_words": True})
    Traceback (most recent call last):
    edge_imdb.errors.UsageError: Sentiment can't do is_split_into_words=True: join the words with spaces instead.
    """
    for name, value in given.items():
        if name not in known:
            raise TypeError(f"{owner} got an unexpected keyword argument {name!r}")
        accepted, instead = known[name]
        if value is not None and accepted is not _ANY and not any(value is one or value == one for one in accepted):
            raise UsageError(f"{owner} can't do {name}={value!r:.80}: {instead}.")
