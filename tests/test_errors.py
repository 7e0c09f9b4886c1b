"""Our exceptions are those of the peers as well, and no ``except`` of our own swallows them for that."""

from __future__ import annotations

import ast
import builtins
import pickle
from pathlib import Path

import pytest

from edge_imdb import FillMask, Sentiment, errors
from edge_imdb.edge_graph.schedule import Schedule
from edge_imdb.errors import EdgeImdbError, UsageError
from edge_imdb.runtime.bundle import EMBEDDED, open_bundle
from edge_imdb.runtime.external_data import check_external_data

ROOT = Path(__file__).resolve().parents[1]
PARENTS = {
    "UsageError": ValueError,
    "InputError": ValueError,
    "BlankError": ValueError,
    "DataError": ValueError,
    "SplitError": ValueError,
    "BaseModelError": ValueError,
    "DivergedError": ArithmeticError,
    "ProviderError": ValueError,
    "BundleError": OSError,
    "HubError": OSError,
    "MissingDependencyError": ImportError,
}
CLASSES = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}


@pytest.mark.parametrize("name", sorted(PARENTS))
def test_an_error_derives_from_what_the_peers_raise_and_keeps_its_message(name: str) -> None:
    kind = CLASSES[name]
    assert issubclass(kind, EdgeImdbError) and issubclass(kind, PARENTS[name])
    error = kind("A sentence: what to do.")
    assert str(error) == "A sentence: what to do." and error.args == ("A sentence: what to do.",)
    # Sent between processes by multiprocessing and Ray.
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error)
    assert error.exit_code == (2 if name == "UsageError" else 1)


def test_wrong_input_is_caught_by_except_value_error(tmp_path: Path) -> None:
    sentiment, fill_mask = Sentiment(EMBEDDED / "sentiment"), FillMask(EMBEDDED / "fill-mask")
    for call in (
        lambda: sentiment(None),  # type: ignore[call-overload]
        lambda: sentiment([None]),
        lambda: sentiment(""),
        lambda: sentiment([["a text", "its pair"]]),
        lambda: sentiment("great", top_k=0),
        lambda: fill_mask("no mask"),
        lambda: fill_mask([None]),
        lambda: fill_mask("a [MASK]", targets=[]),
        lambda: Sentiment(provider="no-such-provider"),
        lambda: Sentiment(precision="int3"),
    ):
        with pytest.raises(ValueError):
            call()


def test_a_missing_model_is_caught_by_except_os_error(tmp_path: Path) -> None:
    for place in (tmp_path / "nothing", tmp_path):
        with pytest.raises(OSError, match="edge-imdb export"):
            Sentiment(place)


def _handlers(name: str) -> list[type[BaseException]]:
    """The classes that an ``except`` clause with this name catches, as far as built-in and our own names go."""
    kind = CLASSES.get(name) or getattr(builtins, name, None)
    return [kind] if isinstance(kind, type) and issubclass(kind, BaseException) else []


def _swallowed(tree: ast.AST) -> list[tuple[int, str]]:
    """Raises of our errors inside a ``try`` whose first fitting handler is for a built-in class."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Try):
            continue
        caught: list[type[BaseException]] = []
        for handler in node.handlers:
            kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
            caught += [kind for part in kinds if isinstance(part, ast.Name) for kind in _handlers(part.id)]
        for inner in (inner for statement in node.body for inner in ast.walk(statement)):
            if (
                isinstance(inner, ast.Raise)
                and isinstance(inner.exc, ast.Call)
                and isinstance(inner.exc.func, ast.Name)
            ):
                raised = CLASSES.get(inner.exc.func.id)
                first = next((kind for kind in caught if raised and issubclass(raised, kind)), None)
                if raised and first and first.__module__ == "builtins" and first not in (Exception, BaseException):
                    found.append((inner.lineno, raised.__name__))
    return found


def test_no_handler_for_a_built_in_error_catches_an_error_that_we_raise_in_its_block() -> None:
    wrong = "try:\n    raise BundleError('x')\nexcept OSError:\n    pass\n"
    assert _swallowed(ast.parse(wrong)) == [(2, "BundleError")]
    assert not _swallowed(ast.parse(wrong.replace("except OSError", "except BundleError:\n    raise\nexcept OSError")))
    found = {}
    for top in ("edge_imdb", "train", "export", "benchmarks"):
        for path in (ROOT / top).rglob("*.py"):
            if swallowed := _swallowed(ast.parse(path.read_text(encoding="utf-8"))):
                found[str(path.relative_to(ROOT))] = swallowed
    assert not found


def test_the_messages_of_nested_checks_stay_what_they_were(tmp_path: Path) -> None:
    """Each of these errors is raised inside a ``try`` that also handles its new parent."""
    with pytest.raises(UsageError, match="must be"):
        Schedule.parse("0.5,7")
    (tmp_path / "edge.json").mkdir()
    with pytest.raises(EdgeImdbError, match=r"edge\.json is not a file"):
        open_bundle(tmp_path, "sentiment")
    graph = EMBEDDED / "sentiment" / "onnx" / "model_quantized.onnx"
    with pytest.raises(EdgeImdbError, match="not from its own file"):
        check_external_data(graph, None)
