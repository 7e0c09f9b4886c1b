"""check_checkpoint: say in a sentence why a folder can't be opened as a checkpoint of transformers.

Only the names, the sizes and the headers of the files are read, so this needs neither PyTorch nor transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import BaseModelError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Files that hold weights in other formats; all but the last two can run code when they are opened.
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
# The files from which a tokenizer can be made.
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "spm.model", "sentencepiece.bpe.model")
_LFS = b"version https://git-lfs"
# safetensors' own limit on the size of a header.
_HEADER_LIMIT = 100_000_000


def check_checkpoint(folder: Path, option: str = "--base") -> None:
    """Check that ``folder`` has a configuration, whole weights as safetensors, and a tokenizer.

    ``option`` is the option that named the folder, for the messages. A file that transformers would have to unpickle
    doesn't count as weights. Raises BaseModelError.

    >>> check_checkpoint(Path("no-such-folder"))
    Traceback (most recent call last):
    edge_imdb.errors.BaseModelError: There is no folder no-such-folder: check the path given with --base.
    """
    if not folder.exists():
        raise BaseModelError(f"There is no folder {folder}: check the path given with {option}.")
    if not folder.is_dir():
        if folder.suffix == ".gguf":
            raise BaseModelError(f"{folder} is a GGUF file: give the folder of its checkpoint in safetensors.")
        raise BaseModelError(
            f"{folder} is not a checkpoint, because it has no config.json: give the folder of one with {option}."
        )
    config = folder / "config.json"
    if not config.is_file():
        raise BaseModelError(f"{folder} is not a checkpoint, because it has no config.json: {_instead(folder, option)}")
    model_type = _object(config).get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise BaseModelError(f"{config} names no model_type: give the folder of a checkpoint of transformers.")
    _check_weights(folder)
    tokenizers = [folder / name for name in _TOKENIZERS if (folder / name).is_file()]
    if not tokenizers:
        raise BaseModelError(f"{folder} has no tokenizer: copy the tokenizer.json of its model into it.")
    for path in tokenizers:
        _refuse_pointer(path)
        if path.suffix == ".json":
            _object(path)


def _instead(folder: Path, option: str) -> str:
    """What to do about a folder without a configuration."""
    if (folder / "adapter_config.json").is_file():
        return "it is a PEFT adapter; merge it into its model (merge_and_unload) and give the folder of the result."
    if any(folder.glob("*.gguf")):
        return "it has a GGUF file; give the folder of the same model in safetensors."
    if not any(folder.iterdir()):
        return f"it is empty; give the folder of a checkpoint with {option}."
    return f"give the folder of a checkpoint with {option}."


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises BaseModelError."""
    _refuse_pointer(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaseModelError(f"{path} can't be read ({error.strerror}): check its permissions.") from None
    except (ValueError, RecursionError) as error:
        raise BaseModelError(f"{path} is not valid JSON ({error}): download the checkpoint again.") from None
    if not isinstance(found, dict):
        raise BaseModelError(f"{path} is not a JSON object: download the checkpoint again.")
    return found


def _refuse_pointer(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS))
    except OSError as error:
        raise BaseModelError(f"{path} can't be read ({error.strerror}): check its permissions.") from None
    if start == _LFS:
        raise BaseModelError(f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` in its folder.")


def _check_weights(folder: Path) -> None:
    if (folder / WEIGHTS).is_file():
        _check_safetensors(folder / WEIGHTS)
        return
    index = folder / INDEX
    if index.is_file():
        shards = _object(index).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
            raise BaseModelError(f"{index} lists no weights: download the checkpoint again.")
        for name in sorted(set(shards.values())):
            if Path(name).name != name or not (folder / name).is_file():
                raise BaseModelError(f"{folder} has no {name}, which {INDEX} names: download the checkpoint again.")
            _check_safetensors(folder / name)
        return
    others = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
    if others:
        raise BaseModelError(
            f"{folder} has its weights in {others[0]} alone, and edge-imdb reads only safetensors, which can't run "
            "code: save the model again with save_pretrained(folder, safe_serialization=True)."
        )
    if any(folder.glob("*.gguf")):
        raise BaseModelError(f"{folder} has its weights as GGUF: give the folder of the same model in safetensors.")
    if (folder / "adapter_config.json").is_file():
        raise BaseModelError(
            f"{folder} is a PEFT adapter: merge it into its model (merge_and_unload) and give the folder of the result."
        )
    raise BaseModelError(f"{folder} has no {WEIGHTS}: download the checkpoint again, with its weights.")


def _check_safetensors(path: Path) -> None:
    """Check that a file is as long as its header says. Source: the format's description in safetensors' README."""
    _refuse_pointer(path)
    damaged = f"{path} is not a whole safetensors file"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if size >= 8 and length <= min(size - 8, _HEADER_LIMIT) else None
    except OSError as error:
        raise BaseModelError(f"{path} can't be read ({error.strerror}): check its permissions.") from None
    if header is None:
        raise BaseModelError(f"{damaged}: it has {size} bytes and was truncated; download it again.")
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
        raise BaseModelError(f"{damaged}: its header can't be read; download it again.") from None
    if not ends:
        raise BaseModelError(f"{path} has no tensors: download it again.")
    if size != whole:
        raise BaseModelError(f"{damaged}: it has {size} bytes and its header says {whole}; download it again.")
