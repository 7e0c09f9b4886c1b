"""read_tokenizer: the tokenizer of a bundle, checked against the model's configuration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..errors import BundleError, first_line, raised_by
from .bundle import CONFIG, MANIFEST, TOKENIZER
from .source import Source

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def read_tokenizer(source: Source) -> Tokenizer:
    """Read tokenizer.json and config.json, and return the tokenizer, which neither truncates nor pads.

    Raises BundleError if the tokenizer can't be read or has more tokens than the model, or if edge.json asks for longer
    texts than the model has positions for; HubError if a file can't be fetched.

    >>> read_tokenizer(Source("sentiment", None, None)).encode("great film").tokens
    ['[CLS]', 'great', 'film', '[SEP]']
    """
    source.fetch(CONFIG, TOKENIZER)
    path = source.bundle.file(TOKENIZER)
    # Imported here, so that `import edge_imdb` and `--help` stay fast.
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except BaseException as error:
        # tokenizers raises a plain Exception, or a PanicException from its Rust code, which is a BaseException.
        if not raised_by(error, "tokenizers", "pyo3_runtime"):
            raise
        raise BundleError(f"{path} is not a tokenizer ({first_line(error)}): export the bundle again.") from None
    config = _read_config(source)
    words, rows = tokenizer.get_vocab_size(), config.get("vocab_size")
    if not isinstance(rows, int) or words > rows:
        raise BundleError(
            f"{path} has {words} tokens, but {source.bundle.path / CONFIG} has 'vocab_size' {rows!r:.20}: "
            "export the bundle again."
        )
    _check_length(source, config)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _check_length(source: Source, config: dict[str, Any]) -> None:
    bundle, positions = source.bundle, config.get("max_position_embeddings")
    longest = max(bundle.truncation.max_length, bundle.early_exit.length if bundle.early_exit else 0)
    if isinstance(positions, int) and longest > positions:
        raise BundleError(
            f"{bundle.path / MANIFEST} asks for texts of {longest} tokens, but the model has only {positions} "
            f"positions: export the bundle again, from a run with a --max-length of at most {positions}."
        )


def _read_config(source: Source) -> dict[str, Any]:
    path = source.bundle.file(CONFIG)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is not an object")
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not valid ({error}): export the bundle again.") from None
    return config
