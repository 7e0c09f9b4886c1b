"""The contenders of the benchmarks: the same checkpoint, each through its usual API, at a given number of threads.

A contender has ``run``, from token ids to the index of a label, and ``read``, from a text to the same. Opening one that
isn't installed raises ImportError; the benchmark then says so and continues without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PREVIOUS = "edge-imdb int8, previous bundle"

OURS = "edge-imdb int8"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# Number of reviews that calibrate OpenVINO's int8.
CALIBRATION = 64


@dataclass
class Contender:
    """``run`` takes token ids with special tokens, ``read`` a cleaned text; ``mib`` is the size of the weights."""

    run: Callable[[list[int]], int] | None
    read: Callable[[str], int]
    mib: float


@dataclass
class Setting:
    """What contenders are opened on.

    ``bundle`` is ours, ``checkpoint`` a folder with the same model in fp32, and ``scratch`` a folder for what is built
    from it. ``texts`` and ``labels`` are train reviews, for calibration and for the linear model. ``previous`` is an
    older bundle of ours to compare with.
    """

    bundle: Path
    checkpoint: Path
    scratch: Path
    texts: Sequence[str]
    labels: Sequence[int]
    previous: Path | None = None


def open_contender(name: str, setting: Setting, threads: int) -> Contender:
    """Raises ImportError if a package is missing."""
    quiet()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return CONTENDERS[name](setting, threads)


def quiet() -> None:
    """Hide the peers' log messages."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The weights are local, so nothing needs to be looked up.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in ("optimum", "transformers", "torch.onnx", "nncf", "torch._dynamo", "torch._inductor"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger().addFilter(lambda record: "pre-process" not in record.getMessage())


def _ours(setting: Setting, threads: int, exact: bool = False) -> Contender:
    from edge_imdb import Sentiment

    model = Sentiment(setting.bundle, provider="cpu", threads=threads, exact=exact)
    # Token ids go straight to the session of the same model, because a second session would double its memory.
    run = model._model.run
    return Contender(
        lambda ids: int(run(ids)[0].argmax()),
        lambda text: int(model.probabilities(text).argmax()),
        model.bundle.size(model.precision) / 2**20,
    )


def _exact(setting: Setting, threads: int) -> Contender:
    return _ours(setting, threads, exact=True)


def _previous(setting: Setting, threads: int) -> Contender:
    if setting.previous is None:
        raise ImportError("an older bundle: give --previous")
    return _ours(dataclasses.replace(setting, bundle=setting.previous), threads)


def _torch_model(setting: Setting, threads: int) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(threads)
    return AutoModelForSequenceClassification.from_pretrained(setting.checkpoint).eval()


def _through_pipeline(model: Any, setting: Setting, mib: float) -> Contender:
    """A model for transformers' pipeline: PyTorch's own, compiled or not, or optimum's."""
    import torch
    from transformers import AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(setting.checkpoint)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    index = classify.model.config.label2id

    def run(ids: list[int]) -> int:
        row = torch.tensor([ids])
        with torch.inference_mode():
            return int(model(input_ids=row, attention_mask=torch.ones_like(row)).logits.argmax())

    length = _max_length(setting)
    return Contender(run, lambda text: index[classify(text, truncation=True, max_length=length)[0]["label"]], mib)


def _eager(setting: Setting, threads: int) -> Contender:
    return _through_pipeline(_torch_model(setting, threads), setting, _mib(setting.checkpoint / "model.safetensors"))


def _compiled(setting: Setting, threads: int) -> Contender:
    import torch

    model = _torch_model(setting, threads)
    model.forward = torch.compile(model.forward, dynamic=True)
    contender = _through_pipeline(model, setting, _mib(setting.checkpoint / "model.safetensors"))
    assert contender.run is not None
    # Compiled now and not in the first round.
    for length in (8, 9, _max_length(setting)):
        contender.run([1] * length)
    contender.read("a film")
    return contender


def _onnx(setting: Setting) -> Path:
    """The fp32 graph as optimum exports it, with the other files that its models need."""
    folder = setting.scratch / "onnx"
    if not folder.exists():
        from optimum.exporters.onnx import main_export

        main_export(
            str(setting.checkpoint),
            folder,
            task="text-classification",
            do_validation=False,
            library_name="transformers",
        )
    return folder


def _optimum(folder: Path, setting: Setting, threads: int, name: str) -> Contender:
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSequenceClassification

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = ORTModelForSequenceClassification.from_pretrained(folder, file_name=name, session_options=options)
    return _through_pipeline(model, setting, _mib(folder / name))


def _optimum_fp32(setting: Setting, threads: int) -> Contender:
    return _optimum(_onnx(setting), setting, threads, "model.onnx")


def _optimum_int8(setting: Setting, threads: int) -> Contender:
    from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer

    folder = setting.scratch / "optimum-int8"
    if not folder.exists():
        recipe = AutoQuantizationConfig.avx512_vnni(is_static=False)
        ORTQuantizer.from_pretrained(_onnx(setting), file_name="model.onnx").quantize(
            save_dir=folder, quantization_config=recipe
        )
        for file in ("config.json", *TOKENIZER_FILES):
            if (setting.checkpoint / file).exists():
                shutil.copy(setting.checkpoint / file, folder)
    return _optimum(folder, setting, threads, "model_quantized.onnx")


def _tokenise(setting: Setting) -> Callable[[str], list[int]]:
    """The tokenizer for peers without a pipeline: it keeps the head only, as transformers does."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(setting.checkpoint / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_max_length(setting))
    return lambda text: tokenizer.encode(text).ids


def _openvino(setting: Setting, threads: int, int8: bool, precision: str | None) -> Contender:
    import openvino

    tokenise = _tokenise(setting)
    core = openvino.Core()
    source = _onnx(setting) / "model.onnx"
    if int8:
        target = setting.scratch / "openvino-int8.xml"
        if not target.exists():
            import nncf

            nncf.set_log_level(logging.ERROR)
            texts = [text for text in setting.texts if text][:CALIBRATION] or ["a film"]
            rows = nncf.Dataset([tokenise(text) for text in texts], lambda ids: _masked(ids))
            model = nncf.quantize(
                core.read_model(source), rows, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(texts)
            )
            openvino.save_model(model, target, compress_to_fp16=False)
        source = target
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if precision:
        options["INFERENCE_PRECISION_HINT"] = precision
    compiled = core.compile_model(source, "CPU", options)
    request = compiled.create_infer_request()

    def run(ids: list[int]) -> int:
        return int(next(iter(request.infer(_masked(ids)).values())).argmax())

    size = _mib(source.with_suffix(".bin")) if int8 else _mib(source)
    return Contender(run, lambda text: run(tokenise(text)), size)


def _max_length(setting: Setting) -> int:
    config = json.loads((setting.checkpoint / "config.json").read_text(encoding="utf-8"))
    return int(config["max_position_embeddings"])


def _masked(ids: list[int]) -> dict[str, Any]:
    row = np.array([ids])
    return {"input_ids": row, "attention_mask": np.ones_like(row)}


def _ctranslate2(setting: Setting, threads: int) -> Contender:
    import ctranslate2
    from safetensors.numpy import load_file

    folder = setting.scratch / "ctranslate2"
    if not folder.exists():
        from transformers import AutoModelForSequenceClassification

        # Its converter takes only the encoder.
        encoder = setting.scratch / "encoder"
        AutoModelForSequenceClassification.from_pretrained(setting.checkpoint).distilbert.save_pretrained(encoder)
        for file in TOKENIZER_FILES:
            if (setting.checkpoint / file).exists():
                shutil.copy(setting.checkpoint / file, encoder)
        ctranslate2.converters.TransformersConverter(str(encoder)).convert(str(folder), quantization="int8")
    encoder = ctranslate2.Encoder(str(folder), device="cpu", compute_type="int8", intra_threads=threads)
    weights = load_file(setting.checkpoint / "model.safetensors")
    tokenise = _tokenise(setting)

    def run(ids: list[int]) -> int:
        hidden = np.array(encoder.forward_batch([ids]).last_hidden_state)[0, 0]
        pooled = np.maximum(weights["pre_classifier.weight"] @ hidden + weights["pre_classifier.bias"], 0)
        return int((weights["classifier.weight"] @ pooled + weights["classifier.bias"]).argmax())

    return Contender(run, lambda text: run(tokenise(text)), _mib(folder / "model.bin"))


def _linear(setting: Setting, threads: int) -> Contender:
    """TF-IDF of words, bigrams and trigrams with logistic regression, fitted on the train reviews."""
    import pickle

    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len(set(setting.labels)) < 2:
        raise ImportError("its train reviews: give --data")
    # This is our own file, written a minute ago to our own temporary folder.
    stored = setting.scratch / "linear.pickle"
    if not stored.exists():
        vectorizer = TfidfVectorizer(ngram_range=(1, 3), min_df=3, sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        model = make_pipeline(vectorizer, LogisticRegression(C=30, max_iter=200))
        model.fit(list(setting.texts), list(setting.labels))
        stored.write_bytes(pickle.dumps(model))
    model = pickle.loads(stored.read_bytes())
    return Contender(None, lambda text: int(model.predict([text])[0]), _mib(stored))


CONTENDERS: dict[str, Callable[[Setting, int], Contender]] = {
    OURS: _ours,
    "edge-imdb int8, --exact": _exact,
    PREVIOUS: _previous,
    "transformers pipeline (PyTorch eager)": _eager,
    "transformers pipeline (torch.compile)": _compiled,
    "optimum, fp32": _optimum_fp32,
    "optimum, int8 (avx512_vnni)": _optimum_int8,
    "OpenVINO, fp32": lambda setting, threads: _openvino(setting, threads, False, "f32"),
    "OpenVINO, int8 (NNCF), fp32 for the rest": lambda setting, threads: _openvino(setting, threads, True, "f32"),
    "OpenVINO, int8 (NNCF), as it chooses": lambda setting, threads: _openvino(setting, threads, True, None),
    "CTranslate2, int8": _ctranslate2,
    "scikit-learn, TF-IDF of trigrams": _linear,
}


def random_checkpoint(folder: Path, bundle: Path, dim: int | None = None) -> Path:
    """A DistilBERT with random weights and the bundle's tokenizer; ``dim`` is its width, by default the bundle's."""
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    quiet()
    config = DistilBertConfig(**json.loads((bundle / "config.json").read_text(encoding="utf-8")))
    if dim is not None:
        config.dim, config.hidden_dim, config.n_layers, config.n_heads = dim, 4 * dim, 6, 12
    torch.manual_seed(0)
    model = DistilBertForSequenceClassification(config).eval()
    with torch.no_grad():
        # A fresh model's biases are all 0, and exporters merge equal weights.
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    for file in TOKENIZER_FILES:
        if (bundle / file).exists():
            shutil.copy(bundle / file, folder)
    return folder


def bundle_checkpoint(folder: Path, bundle: Path) -> Path:
    """The weights that ``bundle`` computes with, in fp32, and its tokenizer. Raises ImportError."""
    from edge_imdb.edge_graph.read import write_checkpoint
    from edge_imdb.runtime.bundle import open_bundle

    folder.mkdir()
    write_checkpoint(open_bundle(bundle, "sentiment"), folder)
    for file in TOKENIZER_FILES:
        if (bundle / file).exists():
            shutil.copy(bundle / file, folder)
    return folder


def edge_bundle(folder: Path, checkpoint: Path, bundle: Path) -> Path:
    """A bundle like ``bundle`` with the weights of another checkpoint and without an early exit."""
    from edge_imdb.edge_graph.write import write_edge
    from edge_imdb.runtime.bundle import GRAPHS, open_bundle, write_manifest

    like = open_bundle(bundle, "sentiment")
    (folder / "onnx").mkdir(parents=True)
    for file in ("config.json", *TOKENIZER_FILES):
        if (checkpoint / file).exists():
            shutil.copy(checkpoint / file, folder)
    write_edge(checkpoint, folder / GRAPHS["int8"], "sentiment", calibration=[[101, *range(2000, 2100), 102]])
    write_manifest(
        folder,
        task="sentiment",
        behaviour={
            "labels": like.labels,
            "truncation": like.truncation.as_dict(),
            "calibration": {"temperature": like.temperature},
        },
        quantization=None,
        metrics={},
        versions={},
    )
    return folder


def _mib(path: Path) -> float:
    return path.stat().st_size / 2**20
