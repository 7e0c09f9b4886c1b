"""The values that calls give have the types that tests/typing/calls.py asserts; `make typecheck` runs mypy on that."""

from __future__ import annotations

import pytest

from edge_imdb import FillMask, Sentiment

TEXT = "A great [MASK]!"


@pytest.mark.parametrize(
    ("inputs", "nested"), [(TEXT, 0), ([TEXT], 0), ([TEXT, TEXT], 1), ((TEXT,), 1), ((TEXT, TEXT), 1)]
)
@pytest.mark.parametrize("joint", [False, True])
def test_a_list_of_one_text_gives_the_result_of_the_text(inputs: object, nested: int, joint: bool) -> None:
    with FillMask() as fill_mask:
        result = fill_mask(inputs, joint=joint)  # type: ignore[call-overload]
    for _ in range(nested):
        assert isinstance(result, list)
        result = result[0]
    assert isinstance(result, list) and isinstance(result[0], dict) and "sequence" in result[0]


def test_a_mapping_gives_its_label_and_everything_else_a_list() -> None:
    with Sentiment() as sentiment:
        assert isinstance(sentiment({"text": "great film"}), dict)
        assert isinstance(sentiment("great film"), list) and isinstance(sentiment(["great film"]), list)
