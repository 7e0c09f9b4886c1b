"""locate and Attribution: the words and sentences of a review, and their weights in its label."""

from __future__ import annotations

import bisect
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...data.text import Spans, clean_with_spans

if TYPE_CHECKING:
    from ...data.text import ReviewEncoder

# The signature of graphs.run_subsets: from token ids and subsets of them to the logits of the text and of the subsets.
Run = Callable[[list[int], NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]

# The end of a sentence. Abbreviations, and dots before a lower-case letter, are excluded later. The lookbehind anchors
# the match at the start of a run of signs; without it, a run of 100,000 signs would take minutes.
_END = re.compile(r"""(?<![.!?…])([.!?…]+)["'”’)\]]*(?= )""")
_DOTS = re.compile(r"\.\.+|…+")
_ABBREVIATION = re.compile(r"(?:^|[^A-Za-z])(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|etc|e\.g|i\.e|[A-Z])$")
_JOINTS = "'’-"


@dataclass(frozen=True)
class Located:
    """The tokens of a review, with their spans in the original text and the indices of their words and sentences.

    *Shape:* ``(tokens,)`` for all lists except ``dropped``, the spans of the text that are in no token: markup and
    characters that the tokenizer removes.
    """

    ids: list[int]
    spans: Spans
    words: list[int]
    sentences: list[int]
    dropped: Spans


def locate(encoder: ReviewEncoder, text: str) -> Located:
    """Tokenise a review as ``encoder`` does, and map every token to its span in ``text``.

    White space and punctuation marks separate words. A punctuation mark is a word of its own, except an apostrophe or a
    hyphen within a word. Raises InputError if the text is blank.
    """
    cleaned, origin = clean_with_spans(text)
    encoding = encoder.encoding(cleaned)
    places = _with_marks(cleaned, [(start, max(end, start + 1)) for start, end in encoding.offsets])
    spans = [(origin[start][0], origin[end - 1][1]) for start, end in places]
    ends = _sentence_ends(cleaned, text, origin)
    sentences = [bisect.bisect_right(ends, start) for start, _ in places]
    words = _words(cleaned, places, spans, encoding.word_ids)
    return Located(list(encoding.ids), spans, words, sentences, _dropped(text, spans))


def _with_marks(cleaned: str, places: Spans) -> Spans:
    """Extend the spans by the combining marks that follow, which are parts of letters. The tokenizer strips them."""
    found: Spans = []
    for (start, end), (following, _) in zip(places, [*places[1:], (len(cleaned), 0)], strict=True):
        while end < following and unicodedata.category(cleaned[end])[0] == "M":
            end += 1
        found.append((start, end))
    return found


def _words(cleaned: str, places: Spans, origins: Spans, numbers: Sequence[int | None]) -> list[int]:
    """The number of the word of every token.

    Words are those of the tokenizer, joined at apostrophes and hyphens. The words of an emoji, which have the same span
    in the original text, are also joined.
    """
    parts = [
        [place for _, place in group] for _, group in groupby(zip(numbers, places, strict=True), lambda pair: pair[0])
    ]
    spans = [(group[0][0], group[-1][1]) for group in parts]

    def joint(index: int) -> bool:
        (start, end), around = spans[index], (index - 1, index + 1)
        if cleaned[start:end] not in tuple(_JOINTS) or around[0] < 0 or around[1] == len(spans):
            return False
        beside = spans[around[0]][1] == start and spans[around[1]][0] == end
        return beside and all(unicodedata.category(cleaned[at])[0] in "LN" for at in (start - 1, end))

    joints = {index for index in range(len(spans)) if joint(index)}
    found: list[int] = []
    word = -1
    for index, group in enumerate(parts):
        first = len(found)
        same_emoji = first > 0 and origins[first] == origins[first - 1]
        if index not in joints and index - 1 not in joints and not same_emoji:
            word += 1
        found += [word] * len(group)
    return found


def _sentence_ends(cleaned: str, text: str, origin: Spans) -> list[int]:
    """Offsets in ``cleaned`` at which a sentence ends: after its last sign, or at a line break of the original text."""
    ends = set()
    for match in _END.finditer(cleaned):
        goes_on = _DOTS.fullmatch(match[1]) and "a" <= cleaned[match.end() + 1] <= "z"
        before = cleaned[max(0, match.start() - 5) : match.start()]
        if not goes_on and not (match[1] == "." and _ABBREVIATION.search(before)):
            ends.add(match.end())
    for place, character in enumerate(cleaned):
        if character == " ":
            gap = text[slice(*origin[place])]
            if "<" in gap or gap.count("\n") > 1:
                ends.add(place)
    return sorted(ends)


def _dropped(text: str, spans: Spans) -> Spans:
    edges = [(0, 0), *spans, (len(text), len(text))]
    found, reached = [], 0
    for (_, end), (start, _) in pairwise(edges):
        reached = max(reached, end)
        gap = text[reached:start]
        if gap.strip():
            first = reached + len(gap) - len(gap.lstrip())
            found.append((first, first + len(gap.strip())))
    return found


class Attribution:
    """How much each word and each sentence of a review moved the margin between two labels.

    A word's weight is the mean of two differences of the margin, in calibrated nats: what it loses when ``[CLS]`` reads
    all but that word in the last layer, and what it gains when ``[CLS]`` reads that word alone there, over reading no
    word. These are the last and the first step of a Shapley value (Shapley 1953; as an explanation: Lundberg and Lee
    2017, "A Unified Approach to Interpreting Model Predictions"). The first difference alone misses a word that others
    repeat. A sentence's weight is the first difference. ``read`` adds a reading, which is a list of token indices; the
    weights of all readings are averaged.
    """

    def __init__(self, located: Located, run: Run, frame: Callable[[list[int]], list[int]]) -> None:
        self._located, self._run, self._frame = located, run, frame
        self._readings: list[tuple[list[int], NDArray[np.float32], NDArray[np.float32]]] = []

    def read(self, places: list[int]) -> NDArray[np.float32]:
        """Run the tokens with the indices ``places``, keep the results for ``result``, and return the logits.

        *Shape:* ``(places,)`` to ``(labels,)``.
        """
        located = self._located
        # The first row keeps all tokens, the second only the special tokens, which every row keeps.
        rows = [np.ones(len(places) + 2, dtype=np.float32), np.zeros(len(places) + 2, dtype=np.float32)]
        rows[1][[0, -1]] = 1
        for of, alone in product((located.words, located.sentences), (False, True)):
            numbers = np.array([of[place] for place in places])
            inside = np.zeros((len(set(numbers)), len(places) + 2), dtype=bool)
            inside[:, 1:-1] = numbers == np.unique(numbers)[:, None]
            if alone:
                inside[:, [0, -1]] = True
            rows += list((inside if alone else ~inside).astype(np.float32))
        batch, subsets = self._run(self._frame([located.ids[place] for place in places]), np.stack(rows))
        logits: NDArray[np.float32] = batch[0]
        self._readings.append((places, logits, subsets))
        return logits

    def forget(self) -> None:
        """Discard the readings so far."""
        self._readings.clear()

    def result(self, text: str, labels: list[str], temperature: float) -> dict[str, Any]:
        """``toward``, ``margin``, ``words``, ``sentences`` and ``unread``, as ``Sentiment.explain`` returns them."""
        located, count = self._located, len(self._readings)
        mean = np.mean([logits for _, logits, _ in self._readings], axis=0)
        order = np.argsort(-mean, kind="stable")
        # With two labels, the second against the first; with more, the predicted label against the runner-up.
        for_, against = (1, 0) if len(labels) == 2 else (int(order[0]), int(order[1]))

        def margin(logits: NDArray[np.float32]) -> NDArray[np.float64]:
            difference: NDArray[np.float64] = (
                logits[..., for_].astype(np.float64) - logits[..., against]
            ) / temperature
            return difference

        words: dict[int, list[float]] = {}
        sentences: dict[int, list[list[float]]] = {}
        for places, _, subsets in self._readings:
            margins = margin(subsets)
            whole, nothing = margins[:2]
            of_words, of_sentences = (
                sorted({of[place] for place in places}) for of in (located.words, located.sentences)
            )
            # The order of the rows in ``read``: every word left out, every word alone, and the same for sentences.
            ends = np.cumsum([len(of_words), len(of_words), len(of_sentences)])
            without_word, word_alone, without_sentence, sentence_alone = np.split(margins[2:], ends)
            for number, without, alone in zip(of_words, without_word, word_alone, strict=True):
                words.setdefault(number, []).append(float(whole - without + alone - nothing) / 2 / count)
            for number, without, alone in zip(of_sentences, without_sentence, sentence_alone, strict=True):
                sentences.setdefault(number, []).append([float(whole - without) / count, float(alone)])
        read = {place for places, _, _ in self._readings for place in places}
        return {
            "toward": labels[for_],
            "margin": float(margin(mean)),
            "words": [
                {"word": text[start:end], "start": start, "end": end, "weight": sum(words[number])}
                for number, (start, end) in _extents(located.words, located.spans, read)
            ],
            "sentences": [
                {
                    "start": start,
                    "end": end,
                    "weight": sum(weight for weight, _ in sentences[number]),
                    "alone": sum(alone for _, alone in sentences[number]) / len(sentences[number]),
                }
                for number, (start, end) in _extents(located.sentences, located.spans, read)
            ],
            "unread": _unread(located, read),
        }


def _extents(numbers: list[int], spans: Spans, read: set[int]) -> list[tuple[int, tuple[int, int]]]:
    """(number, span) of each partly read word or sentence."""
    found: dict[int, tuple[int, int]] = {}
    for place, (number, (start, end)) in enumerate(zip(numbers, spans, strict=True)):
        if place in read:
            first, last = found.get(number, (start, end))
            found[number] = min(first, start), max(last, end)
    return list(found.items())


def _unread(located: Located, read: set[int]) -> list[dict[str, Any]]:
    """The spans of the text that the model didn't read, in order, with the reason."""
    cut: Spans = []
    # An emoji has several tokens with one span. It counts as read if any of them was.
    spans_read = {located.spans[place] for place in read}
    for unread, group in groupby(range(len(located.ids)), lambda place: located.spans[place] not in spans_read):
        if unread:
            places = list(group)
            cut.append((located.spans[places[0]][0], located.spans[places[-1]][1]))
    dropped = [(a, b) for a, b in located.dropped if not any(start <= a and b <= end for start, end in cut)]
    parts = [(*span, "cut") for span in cut] + [(*span, "dropped") for span in dropped]
    return [{"start": start, "end": end, "why": why} for start, end, why in sorted(parts)]


def split_sentences(text: str) -> list[str]:
    """The sentences of a review, cleaned, in order. They are split where ``Sentiment.explain`` splits them.

    >>> split_sentences("I liked Mr. Hill.<br />Why? It was... fun.")
    ['I liked Mr. Hill.', 'Why?', 'It was... fun.']
    """
    cleaned, origin = clean_with_spans(text)
    ends = [0, *_sentence_ends(cleaned, text, origin), len(cleaned)]
    parts = (cleaned[start:end].strip() for start, end in pairwise(ends))
    return [part for part in parts if part]
