"""The result types of calls, which `make typecheck` checks. tests/test_typing.py compares them with the values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

from edge_imdb import FillMask, Sentiment
from edge_imdb.tasks.fill_mask.pipeline import Fill, JointFill
from edge_imdb.tasks.sentiment.pipeline import Label

TEXT = "A great [MASK]!"


def fill_mask_calls(fill_mask: FillMask) -> None:
    assert_type(fill_mask(TEXT), list[Fill])
    # A list of one text gives the result of that text.
    assert_type(fill_mask([TEXT]), list[Fill] | list[list[Fill]])
    assert_type(fill_mask([TEXT, TEXT]), list[Fill] | list[list[Fill]])
    assert_type(fill_mask((TEXT,)), list[list[Fill]])
    assert_type(fill_mask(iter([TEXT])), Iterator[list[Fill]])
    assert_type(fill_mask(TEXT, joint=True), list[JointFill])
    assert_type(fill_mask([TEXT], joint=True), list[JointFill] | list[list[JointFill]])


def sentiment_calls(sentiment: Sentiment) -> None:
    assert_type(sentiment("great film"), list[Label])
    assert_type(sentiment({"text": "great film"}), Label)
    assert_type(sentiment(["great film"]), list[Label])
    assert_type(sentiment(["great film"], top_k=2), list[list[Label]])
    assert_type(sentiment(iter(["great film"])), Iterator[Label])
