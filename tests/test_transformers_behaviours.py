"""The behaviours that transformers' own pipeline tests check, asked of a transformers pipeline and of ours.

Both get the same call; the kind of the result must be the same: lists, dicts and iterators, their lengths and keys, or
the exception. SAME has the calls of transformers' tests (tests/pipelines/test_pipelines_text_classification.py,
test_pipelines_fill_mask.py and test_pipelines_common.py) and of its documentation. DIFFERENT has every deliberate
difference, with both results; docs/coming-from.md explains each.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_imdb import FillMask, Sentiment
from edge_imdb.errors import InputError, UsageError
from edge_imdb.runtime.bundle import EMBEDDED

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PAGE = Path(__file__).resolve().parents[1] / "docs" / "coming-from.md"
TEXT, OTHER = "HuggingFace is in", "Paris is in France"
LONG = "a great film with a dull plot " * 200
MASK = "This is a [MASK]"


class Peer:
    """A transformers pipeline with random weights, the tokenizer of our bundle and our labels."""

    def __init__(self, kind: type[Any], task: str) -> None:
        config = transformers.DistilBertConfig(
            vocab_size=30522, dim=8, hidden_dim=8, n_layers=1, n_heads=2, id2label={0: "neg", 1: "pos"}
        )
        self._model = kind(config).eval()
        self._tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(EMBEDDED / task / "tokenizer.json"),
            **{f"{name.lower()}_token": f"[{name}]" for name in ("CLS", "SEP", "MASK", "PAD", "UNK")},
            model_input_names=["input_ids", "attention_mask"],
        )
        self._task = {"sentiment": "text-classification"}.get(task, task)

    def __call__(self, **options: Any) -> Any:
        return transformers.pipeline(self._task, model=self._model, tokenizer=self._tokenizer, **options)


@pytest.fixture(scope="module")
def both() -> dict[str, tuple[Callable[..., Any], Callable[..., Any]]]:
    """For each task: what makes a pipeline of transformers, and one of ours."""
    transformers.logging.set_verbosity_error()
    return {
        "sentiment": (
            Peer(transformers.DistilBertForSequenceClassification, "sentiment"),
            lambda **options: Sentiment(EMBEDDED / "sentiment", threads=1, **options),
        ),
        "fill-mask": (
            Peer(transformers.DistilBertForMaskedLM, "fill-mask"),
            lambda **options: FillMask(EMBEDDED / "fill-mask", threads=1, **options),
        ),
    }


def form(result: Any) -> Any:
    """The kind of a result: nested lists, the keys of dicts, and iterators with their items."""
    if isinstance(result, dict):
        return {name: type(value).__name__ for name, value in result.items()}
    if isinstance(result, list):
        return [form(item) for item in result]
    assert hasattr(result, "__next__") or hasattr(result, "__iter__"), result
    return ("iterator", [form(item) for item in result])


def outcome(make: Callable[..., Any], call: Callable[[Any], Any], options: dict[str, Any]) -> Any:
    """The form of the result of a call, or the built-in class of its exception."""
    try:
        return form(call(make(**options)))
    except (ValueError, TypeError, KeyError, OSError) as error:
        return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
    except transformers.pipelines.PipelineException:
        return "PipelineException"
    except RuntimeError:
        return "RuntimeError"


def data_set(items: list[Any]) -> Any:
    class Items(torch.utils.data.Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(items)

        def __getitem__(self, index: int) -> Any:
            # No IndexError: transformers never asks for more than __len__ says.
            return items[index % len(items)]

    return Items()


def keyed(items: list[Any]) -> Any:
    from transformers.pipelines.pt_utils import KeyDataset

    return KeyDataset(data_set([{"text": item, "label": 0} for item in items]), "text")


def stream(items: list[Any]) -> Iterator[Any]:
    yield from items


Case = tuple[str, dict[str, Any], Callable[[Any], Any]]
SAME: dict[str, Case] = {
    # test_pipelines_text_classification.py: test_small_model_pt, run_pipeline_test
    "a text": ("sentiment", {}, lambda p: p(TEXT)),
    "a text, top_k 2": ("sentiment", {}, lambda p: p(TEXT, top_k=2)),
    "a text, top_k 1": ("sentiment", {}, lambda p: p(TEXT, top_k=1)),
    "a text, top_k None": ("sentiment", {}, lambda p: p(TEXT, top_k=None)),
    "a text, top_k over the labels": ("sentiment", {}, lambda p: p(TEXT, top_k=9)),
    "a list": ("sentiment", {}, lambda p: p([TEXT, OTHER])),
    "a list of one text": ("sentiment", {}, lambda p: p([TEXT])),
    "an empty list": ("sentiment", {}, lambda p: p([])),
    "a list, top_k 2": ("sentiment", {}, lambda p: p([TEXT, OTHER], top_k=2)),
    "a list, top_k 1": ("sentiment", {}, lambda p: p([TEXT, OTHER], top_k=1)),
    "a list, top_k None": ("sentiment", {}, lambda p: p([TEXT, OTHER], top_k=None)),
    "a text, not all scores": ("sentiment", {}, lambda p: p(TEXT, return_all_scores=False)),
    "a text, all scores": ("sentiment", {}, lambda p: p(TEXT, return_all_scores=True)),
    "a list, not all scores": ("sentiment", {}, lambda p: p([TEXT, OTHER], return_all_scores=False)),
    "a list, all scores": ("sentiment", {}, lambda p: p([TEXT, OTHER], return_all_scores=True)),
    "all scores and top_k 1": ("sentiment", {}, lambda p: p(TEXT, return_all_scores=True, top_k=1)),
    "a mapping": ("sentiment", {}, lambda p: p({"text": TEXT})),
    "a mapping with an empty pair": ("sentiment", {}, lambda p: p({"text": TEXT, "text_pair": None})),
    "a mapping, top_k 2": ("sentiment", {}, lambda p: p({"text": TEXT}, top_k=2)),
    "a mapping, all scores": ("sentiment", {}, lambda p: p({"text": TEXT}, return_all_scores=True)),
    "a list of mappings": ("sentiment", {}, lambda p: p([{"text": TEXT}, {"text": OTHER}])),
    "a pair as a list": ("sentiment", {}, lambda p: p([[TEXT, OTHER]])),
    # test_pipelines_common.py
    "a data set": ("sentiment", {}, lambda p: p(data_set([TEXT, OTHER, TEXT]))),
    "a data set, top_k 2": ("sentiment", {}, lambda p: p(data_set([TEXT, OTHER]), top_k=2)),
    "a data set of mappings": ("sentiment", {}, lambda p: p(data_set([{"text": TEXT}]))),
    "a generator": ("sentiment", {}, lambda p: p(stream([TEXT] * 10))),
    "a generator, two workers": ("sentiment", {}, lambda p: p(stream([TEXT] * 3), num_workers=2)),
    "a generator, top_k None": ("sentiment", {}, lambda p: p(stream([TEXT]), top_k=None)),
    "twenty texts in one batch": ("sentiment", {}, lambda p: p([TEXT] * 20, batch_size=32, padding=True)),
    "predict": ("sentiment", {}, lambda p: p.predict([TEXT])),
    "transform": ("sentiment", {}, lambda p: p.transform([TEXT])),
    "device -1": ("sentiment", {"device": -1}, lambda p: p(TEXT)),
    "device cpu": ("sentiment", {"device": "cpu"}, lambda p: p(TEXT)),
    "a torch.device": ("sentiment", {"device": torch.device("cpu")}, lambda p: p(TEXT)),
    "device 0 without a GPU": ("sentiment", {"device": 0}, lambda p: p(TEXT)),
    # Documentation: pipelines, KeyDataset; evaluate's TextClassificationEvaluator
    "KeyDataset": (
        "sentiment",
        {},
        lambda p: p(keyed([TEXT, OTHER, TEXT]), batch_size=8, truncation="only_first", padding=True),
    ),
    "KeyDataset, truncation": ("sentiment", {}, lambda p: p(keyed([LONG, TEXT]), truncation=True, max_length=512)),
    # Arguments of the constructor
    "constructor: top_k None": ("sentiment", {"top_k": None}, lambda p: p(TEXT)),
    "constructor: top_k 1": ("sentiment", {"top_k": 1}, lambda p: p(TEXT)),
    "constructor: top_k 2, a list": ("sentiment", {"top_k": 2}, lambda p: p([TEXT, OTHER])),
    "constructor: top_k 2, a mapping": ("sentiment", {"top_k": 2}, lambda p: p({"text": TEXT})),
    "constructor: top_k 2, call: top_k 1": ("sentiment", {"top_k": 2}, lambda p: p(TEXT, top_k=1)),
    "constructor: all scores": ("sentiment", {"return_all_scores": True}, lambda p: p(TEXT)),
    "constructor: all scores, a list": ("sentiment", {"return_all_scores": True}, lambda p: p([TEXT])),
    "constructor: batches": ("sentiment", {"batch_size": 2, "num_workers": 0}, lambda p: p([TEXT, TEXT])),
    "constructor: truncation": ("sentiment", {"truncation": True, "max_length": 16}, lambda p: p(LONG)),
    "constructor: function": ("sentiment", {"function_to_apply": "none"}, lambda p: p(TEXT)),
    "constructor: framework": ("sentiment", {"framework": "pt", "use_fast": True}, lambda p: p(TEXT)),
    # Arguments of the tokenizer and of the function
    **{
        f"truncation {value!r}": ("sentiment", {}, lambda p, value=value: p(TEXT, truncation=value))
        for value in (True, False, "longest_first", "only_first", "do_not_truncate")
    },
    "truncation and max_length": ("sentiment", {}, lambda p: p(LONG, truncation=True, max_length=16)),
    "max_length alone": ("sentiment", {}, lambda p: p(LONG, max_length=16)),
    "an unknown truncation": ("sentiment", {}, lambda p: p(TEXT, truncation="middle")),
    "padding to max_length": ("sentiment", {}, lambda p: p(TEXT, padding="max_length", max_length=32)),
    "padding": ("sentiment", {}, lambda p: p([TEXT, OTHER], padding=True)),
    **{
        f"function {value!r}": ("sentiment", {}, lambda p, value=value: p(TEXT, function_to_apply=value))
        for value in ("softmax", "sigmoid", "none", "SOFTMAX")
    },
    # Wrong input
    "None": ("sentiment", {}, lambda p: p(None)),
    "an unknown argument": ("sentiment", {}, lambda p: p(TEXT, no_such_argument=1)),
    "a list with None": ("sentiment", {}, lambda p: p([None])),
    "a number": ("sentiment", {}, lambda p: p(5)),
    "a list of numbers": ("sentiment", {}, lambda p: p([5])),
    "bytes": ("sentiment", {}, lambda p: p(b"great")),
    # test_pipelines_fill_mask.py: run_pipeline_test and the functions it calls
    "fill-mask: a text": ("fill-mask", {}, lambda p: p(MASK)),
    "fill-mask: a list of one text": ("fill-mask", {}, lambda p: p([MASK])),
    "fill-mask: a list": ("fill-mask", {}, lambda p: p([MASK, "Another [MASK] great test."])),
    "fill-mask: a list with None": ("fill-mask", {}, lambda p: p([None])),
    "fill-mask: constructor: top_k": ("fill-mask", {"top_k": 2}, lambda p: p(MASK)),
    "fill-mask: top_k": ("fill-mask", {}, lambda p: p(MASK, top_k=2)),
    "fill-mask: top_k None": ("fill-mask", {"top_k": 3}, lambda p: p(MASK, top_k=None)),
    "fill-mask: constructor: targets": ("fill-mask", {"targets": ["great", "bad"]}, lambda p: p(MASK)),
    "fill-mask: targets": ("fill-mask", {}, lambda p: p(MASK, targets=["great", "bad"])),
    "fill-mask: a target": ("fill-mask", {}, lambda p: p(MASK, targets="great")),
    "fill-mask: an empty target": ("fill-mask", {}, lambda p: p(MASK, targets=[""])),
    "fill-mask: no target": ("fill-mask", {}, lambda p: p(MASK, targets=[])),
    "fill-mask: an empty str": ("fill-mask", {}, lambda p: p(MASK, targets="")),
    "fill-mask: constructor: no target": ("fill-mask", {"targets": []}, lambda p: p(MASK)),
    "fill-mask: an empty target beside a word": ("fill-mask", {}, lambda p: p(MASK, targets=["", "great"])),
    "fill-mask: a target of several pieces": ("fill-mask", {}, lambda p: p(MASK, targets=["unwatchable", "great"])),
    "fill-mask: a target that is unknown": ("fill-mask", {}, lambda p: p(MASK, targets=["\U0001f984", "great"])),
    "fill-mask: top_k under the targets": ("fill-mask", {}, lambda p: p(MASK, top_k=2, targets=["a", "b", "c"])),
    "fill-mask: duplicate targets": ("fill-mask", {}, lambda p: p(MASK, targets=["a", "b", "a", "c", "b"], top_k=10)),
    "fill-mask: three masks": ("fill-mask", {}, lambda p: p("This is a [MASK] [MASK] [MASK]", top_k=2)),
    "fill-mask: two masks in a list": ("fill-mask", {}, lambda p: p(["[MASK] [MASK]", MASK], top_k=2)),
    "fill-mask: a generator": ("fill-mask", {}, lambda p: p(stream([MASK, MASK]), top_k=2)),
    "fill-mask: a data set": ("fill-mask", {}, lambda p: p(data_set([MASK]), top_k=2)),
    "fill-mask: predict": ("fill-mask", {"top_k": 2}, lambda p: p.predict([MASK, MASK])),
    "fill-mask: batches": ("fill-mask", {"top_k": 2}, lambda p: p([MASK, MASK], batch_size=2, num_workers=0)),
    "fill-mask: tokenizer_kwargs": (
        "fill-mask",
        {},
        lambda p: p(f"{MASK}. {LONG}", tokenizer_kwargs={"truncation": True, "max_length": 64}),
    ),
    "fill-mask: constructor: tokenizer_kwargs": (
        "fill-mask",
        {"tokenizer_kwargs": {"truncation": True, "max_length": 64}},
        lambda p: p(f"{MASK}. {LONG}"),
    ),
    "fill-mask: an unknown argument": ("fill-mask", {}, lambda p: p(MASK, no_such_argument=1)),
}

LABEL = {"label": "str", "score": "float"}
FILL = {"score": "float", "token": "int", "token_str": "str", "sequence": "str"}
# What transformers does, what we do.
DIFFERENT: dict[str, tuple[str, dict[str, Any], Callable[[Any], Any], Any, Any]] = {
    "text_pair": ("sentiment", {}, lambda p: p({"text": TEXT, "text_pair": OTHER}), LABEL, "ValueError"),
    "[[[text, pair]]]": ("sentiment", {}, lambda p: p([[[TEXT, OTHER]]]), [LABEL], "ValueError"),
    "a blank text": ("sentiment", {}, lambda p: p(""), [LABEL], "ValueError"),
    "a text that is too long": ("sentiment", {}, lambda p: p(LONG), "RuntimeError", [LABEL]),
    "a tuple": ("sentiment", {}, lambda p: p((TEXT, OTHER)), LABEL, [LABEL, LABEL]),
    "an array": ("sentiment", {}, lambda p: p(np.array([TEXT, OTHER])), "ValueError", [LABEL, LABEL]),
    "an iterator": ("sentiment", {}, lambda p: p(iter([TEXT])), "ValueError", ("iterator", [LABEL])),
    "top_k=0": ("sentiment", {}, lambda p: p(TEXT, top_k=0), [], "ValueError"),
    "top_k=-1": ("sentiment", {}, lambda p: p(TEXT, top_k=-1), [LABEL], "ValueError"),
    'function_to_apply="relu"': (
        "sentiment",
        {},
        lambda p: p(TEXT, function_to_apply="relu"),
        "KeyError",
        "ValueError",
    ),
    "add_special_tokens=False": (
        "sentiment",
        {},
        lambda p: p(TEXT, add_special_tokens=False),
        [LABEL],
        "ValueError",
    ),
    'device="mps"': ("sentiment", {"device": "mps"}, lambda p: p(TEXT), "RuntimeError", "ValueError"),
    "no mask": ("fill-mask", {}, lambda p: p("This is"), "PipelineException", "ValueError"),
    "fill-mask: a mapping": ("fill-mask", {}, lambda p: p({"text": MASK}, top_k=1), "ValueError", [FILL]),
    "fill-mask: a mask beyond max_length": (
        "fill-mask",
        {"top_k": 1},
        lambda p: p(f"{LONG} {MASK}", tokenizer_kwargs={"truncation": True, "max_length": 64}),
        "PipelineException",
        [FILL],
    ),
    "fill-mask: truncation=True": ("fill-mask", {"top_k": 1}, lambda p: p(MASK, truncation=True), "TypeError", [FILL]),
}


@pytest.mark.parametrize("name", SAME)
def test_a_call_gives_what_transformers_gives(name: str, both: dict[str, Any]) -> None:
    task, options, call = SAME[name]
    peer, ours = both[task]
    assert outcome(ours, call, options) == outcome(peer, call, options)


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_deliberate_difference_is_as_documented(name: str, both: dict[str, Any]) -> None:
    task, options, call, theirs, expected = DIFFERENT[name]
    peer, ours = both[task]
    assert outcome(peer, call, options) == theirs
    assert outcome(ours, call, options) == expected
    assert f"`{name.removeprefix('fill-mask: ')}`" in PAGE.read_text(encoding="utf-8"), f"{name} is not on the page"


# --- values, which random weights can't show


@pytest.fixture(scope="module")
def sentiment() -> Sentiment:
    return Sentiment(EMBEDDED / "sentiment", threads=1)


@pytest.fixture(scope="module")
def fill_mask() -> FillMask:
    return FillMask(EMBEDDED / "fill-mask", threads=1)


def test_labels_and_scores_are_sorted_or_in_label_order(sentiment: Sentiment) -> None:
    best = sentiment("great film", top_k=None)
    assert [label["label"] for label in best] == ["pos", "neg"]
    with pytest.warns(UserWarning, match="use top_k=None instead"):
        ((first, second),) = sentiment("great film", return_all_scores=True)
    # Not sorted, as in transformers.
    assert [first, second] == best[::-1]


def test_functions_are_those_of_the_calibrated_logits(sentiment: Sentiment) -> None:
    def scores(name: str | None) -> Any:
        return np.array([label["score"] for label in sentiment("great film", top_k=None, function_to_apply=name)])

    logits = scores("none")
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), scores(None), rtol=1e-12)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), scores("sigmoid"), rtol=1e-12)
    np.testing.assert_array_equal(scores("softmax"), scores(None))
    raw = sentiment.logits("great film").astype(np.float64)[::-1]
    np.testing.assert_allclose(logits * sentiment.bundle.temperature, raw, rtol=1e-12)
    with pytest.raises(UsageError, match="function_to_apply is 'relu': use 'softmax', 'sigmoid', 'none'"):
        sentiment("great film", function_to_apply="relu")


def test_truncation_is_the_default_cut_and_changes_no_bit(sentiment: Sentiment) -> None:
    for truncation in (True, "only_first", "longest_first"):
        assert sentiment([LONG, TEXT], truncation=truncation, padding="max_length") == sentiment([LONG, TEXT])


def test_max_length_cuts(sentiment: Sentiment) -> None:
    text = "a great film. " * 40 + "what a bore, dull and lifeless. " * 40
    (cut,) = sentiment(text, truncation=True, max_length=20)
    probabilities = sentiment.bundle.temperature, sentiment.logits(text, max_length=20)
    scores = np.exp(probabilities[1] / probabilities[0])
    assert cut["score"] == pytest.approx(float((scores / scores.sum()).max()), abs=1e-6)
    assert Sentiment(EMBEDDED / "sentiment", max_length=20)(text) == [cut]
    with pytest.warns(UserWarning, match="max_length is 512, but this model reads at most 384 tokens"):
        assert sentiment(text, truncation=True, max_length=512) == sentiment(text)
    for wrong in (0, 2, "8", True):
        with pytest.raises(UsageError, match="max_length is"):
            sentiment(text, max_length=wrong)


def test_truncation_off_refuses_a_text_that_is_too_long_and_reads_all_of_others(sentiment: Sentiment) -> None:
    with pytest.raises(InputError, match=r"^inputs\[1\]: The text has \d+ tokens, this model reads at most 384"):
        sentiment(["great", LONG], truncation=False)
    middle = "a great film. " * 60
    exact = Sentiment(EMBEDDED / "sentiment", threads=1)
    exact._first = None
    assert sentiment.count_tokens(middle) > 192 and sentiment(middle, truncation=False) == exact(middle)
    windows = Sentiment(EMBEDDED / "sentiment", threads=1, sliding_windows=True)
    assert windows(LONG, truncation=False) == windows(LONG) == windows(LONG, truncation=True)


def test_what_can_not_be_honoured_is_said_in_words(sentiment: Sentiment, fill_mask: FillMask) -> None:
    for options, words in (
        ({"add_special_tokens": False}, "the model needs"),
        ({"stride": 16}, "sliding_windows=True"),
        ({"is_split_into_words": True}, "join the words"),
        ({"padding": "left"}, "use True, False, 'longest' or 'max_length'"),
        ({"truncation": "only_second"}, "pairs of texts are not supported"),
        ({"num_workers": -1}, "num_workers is -1"),
    ):
        with pytest.raises(UsageError, match=words):
            sentiment("great", **options)  # type: ignore[call-overload]
    for options, words in (
        ({"device": "cuda:1"}, "CUDA_VISIBLE_DEVICES"),
        ({"device": "mps"}, "use provider instead"),
        ({"device": "cpu", "provider": "cuda"}, "give only one of them"),
        ({"tokenizer": "bert-base-uncased"}, "a bundle contains its tokenizer"),
        ({"torch_dtype": torch.float16}, "precision='fp32'"),
        ({"token": "hf_x"}, "HF_TOKEN"),
        ({"task": "ner"}, "text-classification"),
    ):
        with pytest.raises(UsageError, match=words):
            Sentiment(EMBEDDED / "sentiment", **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the model needs"):
        fill_mask(MASK, tokenizer_kwargs={"add_special_tokens": False})
    with pytest.raises(InputError, match="truncation is off"):
        fill_mask(f"{LONG} {MASK}", tokenizer_kwargs={"truncation": False})


def test_a_target_of_several_pieces_is_its_first_piece_with_a_warning(both: Any, fill_mask: FillMask) -> None:
    targets = ["unwatchable", "great", "Great", "\U0001f984", ""]
    peer = both["fill-mask"][0]()
    with pytest.warns(UserWarning) as caught:
        found = fill_mask(MASK, targets=targets)
    assert {fill["token"] for fill in found} == {fill["token"] for fill in peer(MASK, targets=targets)}
    assert [str(warning.message).split(":")[0] for warning in caught] == [
        "The target 'unwatchable' is not in the vocabulary",
        "The target '\U0001f984' is not in the vocabulary",
        "The target '' has no token",
    ]
    # The warning points to the line of the call.
    assert {warning.filename for warning in caught} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fill_mask(MASK, targets=["great", "bad"])


def test_the_command_line_says_which_target_it_replaced(
    command: Callable[..., Any], fill_mask: FillMask, capfd: pytest.CaptureFixture[str]
) -> None:
    done = command("fill", MASK, "--targets", "unwatchable,great")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "The target 'unwatchable' is not in the vocabulary: using its first word piece, 'un'.\n"
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == {"this is a un", "this is a great"}


# --- inputs


def test_a_data_set_is_read_to_its_length_one_item_at_a_time(sentiment: Sentiment) -> None:
    read: list[int] = []

    class Items:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> str:
            read.append(index)
            return f"review {index}: a good film"

    results = sentiment(Items())
    assert read == [] and len(results) == 3  # type: ignore[arg-type]
    iterator = iter(results)
    assert next(iterator)["label"] == "pos" and read == [0]
    assert len(list(iterator)) == 2 and read == [0, 1, 2]
    assert len(list(sentiment(Items(), workers=2))) == 3 and max(read) == 2
    assert sentiment.probabilities(Items()).shape == (3, 2)  # type: ignore[call-overload]
    assert len(list(sentiment.stream(Items()))) == 3  # type: ignore[arg-type]


def test_a_data_set_with_pandas_inside_ends_after_its_last_row(sentiment: Sentiment) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")

    class Frame:
        rows = pandas.DataFrame({"text": ["great", "dull", "moving"]})

        def __getitem__(self, index: int) -> str:
            return str(self.rows.text[index])

    class Sized(Frame):
        def __len__(self) -> int:
            return len(self.rows)

    assert len(list(sentiment(Sized()))) == 3
    results = iter(sentiment(Frame()))
    assert [next(results)["label"] for _ in range(3)] == ["pos", "neg", "pos"]
    with pytest.raises(InputError, match=r"no item 3 .* give the class a __len__"):
        next(results)


def test_subclasses_of_list_and_sequence_give_the_items_of_their_own_methods(sentiment: Sentiment) -> None:
    from collections.abc import Sequence as AbstractSequence

    class Column(list):  # type: ignore[type-arg]
        """Like the columns of old versions of evaluate, which store nothing in the list."""

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: Any) -> Any:
            return ["great", "dull"][index % 2]

    class Endless(AbstractSequence):  # type: ignore[type-arg]
        """Its inherited __iter__ asks for items until an IndexError."""

        __len__, __getitem__ = Column.__len__, Column.__getitem__

    for items in (Column(), Endless()):
        assert [result["label"] for result in sentiment(items)] == ["pos", "neg"]
    assert isinstance(sentiment(Column()), list)


def test_a_length_that_can_not_be_had_is_explained(sentiment: Sentiment) -> None:
    from transformers.pipelines.pt_utils import KeyDataset

    with pytest.raises(InputError, match=r"The KeyDataset has no length .* pass an iterator"):
        sentiment(KeyDataset(stream(["great"]), "text"))


def test_an_iterable_data_set_gives_results_while_it_is_read(sentiment: Sentiment) -> None:
    class Endless(torch.utils.data.IterableDataset):  # type: ignore[misc]
        def __iter__(self) -> Iterator[str]:
            while True:
                yield "great film"

    class Plain:
        __iter__ = Endless.__iter__

    for items in (Endless(), Plain()):
        assert next(iter(sentiment(items)))["label"] == "pos"


def test_data_sets_of_the_library_datasets_and_their_columns(sentiment: Sentiment) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    texts = ["great", "dull", "moving"]
    data = datasets.Dataset.from_dict({"text": texts, "label": [1, 0, 1]})
    expected = sentiment(texts)
    results = sentiment(data)
    assert iter(results) is results and len(results) == 3 and list(results) == expected
    assert sentiment(data["text"]) == expected == sentiment(data[:]["text"])
    assert sentiment(data[0]) == expected[0]
    endless = data.to_iterable_dataset()
    results = sentiment(endless)
    assert next(results) == expected[0]
    assert list(sentiment(endless.with_format("torch"))) == expected
    if not isinstance(endless["text"], list):
        assert list(sentiment(endless["text"])) == expected
    mapped = data.map(lambda row: sentiment(row))
    assert [row["label"] for row in mapped] == [result["label"] for result in expected]
    batched = data.map(lambda rows: {"found": [result["label"] for result in sentiment(rows["text"])]}, batched=True)
    assert list(batched["found"]) == [result["label"] for result in expected]
    with pytest.raises(InputError, match=r"the splits 'test': pass one of them"):
        sentiment(datasets.DatasetDict({"test": data}))
    with pytest.raises(InputError, match="'text' is a list of texts"):
        sentiment(data[:])


def test_columns_of_polars(sentiment: Sentiment) -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.DataFrame({"text": ["great", "dull"]})
    assert sentiment(frame["text"]) == sentiment(["great", "dull"])
    with pytest.raises(InputError, match="pass the text column"):
        sentiment(frame)


# --- attributes that other libraries read


def test_attributes(sentiment: Sentiment, fill_mask: FillMask) -> None:
    assert (sentiment.task, fill_mask.task) == ("text-classification", "fill-mask")
    assert Sentiment(EMBEDDED / "sentiment", task="sentiment-analysis").task == "sentiment-analysis"
    assert (sentiment.framework, sentiment.device.type, sentiment.device.index) == ("onnx", "cpu", None)
    config = sentiment.model.config
    assert config.id2label == {0: "neg", 1: "pos"} and config.label2id == {"neg": 0, "pos": 1}
    assert config.num_labels == 2 and config.model_type == "distilbert"
    tokenizer = fill_mask.tokenizer
    assert fill_mask(f"a {tokenizer.mask_token} film") == fill_mask("a [MASK] film")
    assert tokenizer.mask_token_id == 103 == tokenizer.convert_tokens_to_ids("[MASK]")
    assert len(tokenizer) == len(tokenizer.get_vocab()) == 30522
    assert tokenizer(["great film", "dull"])["input_ids"][1] == tokenizer.encode("dull").ids
    assert tokenizer.convert_ids_to_tokens([103]) == ["[MASK]"] and tokenizer.tokenize("unwatchable")[0] == "un"
    assert tokenizer.convert_tokens_to_ids(["no such token"]) == [tokenizer.unk_token_id]
    sized = Sentiment(EMBEDDED / "sentiment", batch_size=2, num_workers=1)
    assert (sized._batch_size, sized._num_workers) == (2, 1)
    assert (sentiment._batch_size, sentiment._num_workers) == (None, None)


def test_evaluate_computes_a_metric_of_ours(sentiment: Sentiment) -> None:
    evaluate = pytest.importorskip("evaluate", reason="evaluate is not installed")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")

    class Accuracy(evaluate.Metric):  # type: ignore[misc]
        """The metric "accuracy", which evaluate would download."""

        def _info(self) -> Any:
            features = datasets.Features(
                {"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}
            )
            return evaluate.MetricInfo(description="", citation="", features=features)

        def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
            return {"accuracy": float(np.mean(np.array(predictions) == np.array(references)))}

    data = datasets.Dataset.from_dict({"text": ["great film", "what a bore", "moving", LONG], "label": [1, 0, 0, 1]})
    expected = np.mean([int(label["label"] == "pos") for label in sentiment(data[:]["text"])] == np.array([1, 0, 0, 1]))
    for task in ("text-classification", "sentiment-analysis"):
        result = evaluate.evaluator(task).compute(
            model_or_pipeline=Sentiment(EMBEDDED / "sentiment", threads=1, task=task),
            data=data,
            metric=Accuracy(),
            label_mapping={"neg": 0, "pos": 1},
        )
        assert result["accuracy"] == expected and result["samples_per_second"] > 0
    with pytest.raises(ValueError, match="Incompatible"):
        evaluate.evaluator("text-classification").compute(model_or_pipeline=FillMask(), data=data, metric=Accuracy())
