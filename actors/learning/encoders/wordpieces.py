"""How does a text become the word pieces of a pretrained encoder?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from zipfile import BadZipFile, ZipFile

from actors.learning.encoders.minilm import PACKAGE, VOCABULARY
from policies.types import ExperimentError

PADDING, UNKNOWN, BEGIN, END = 0, 100, 101, 102
_KIND = "minilm-l6"
_LONGEST_WORD = 100


@lru_cache(maxsize=1)
def vocabulary() -> Mapping[str, int]:
    """Return the number of each word piece of `minilm-l6`; those inside a word begin with ##.

    Raises:
        ExperimentError: If the package is missing, or not what it should be.
    """
    try:
        with ZipFile(PACKAGE.find(_KIND)) as archive:
            numbers: dict[str, int] = json.loads(archive.read("tokenizer.json"))["model"]["vocab"]
    except (BadZipFile, KeyError, ValueError) as error:
        raise ExperimentError(
            f"{PACKAGE.installed()} is damaged: {error}. Run: {PACKAGE.command()}"
        ) from error
    if len(numbers) != VOCABULARY:
        raise ExperimentError(
            f"{PACKAGE.installed()} must hold {VOCABULARY} word pieces, got {len(numbers)}. "
            f"Run: {PACKAGE.command()}"
        )
    return numbers


def pieces(word: str, numbers: Mapping[str, int]) -> list[int]:
    """Return the word pieces of a word of letters: always the longest that fits, from the left.

    Args:
        word: In lower case, without spaces or punctuation.
        numbers: Of each word piece.

    Source:
        Wu et al. 2016, arXiv:1609.08144.
    """
    if len(word) > _LONGEST_WORD:
        return [UNKNOWN]
    found: list[int] = []
    begin = 0
    while begin < len(word):
        inside = "##" if begin else ""
        ends = range(len(word), begin, -1)
        end = next((end for end in ends if inside + word[begin:end] in numbers), None)
        if end is None:
            return [UNKNOWN]
        found.append(numbers[inside + word[begin:end]])
        begin = end
    return found


def text(words: Sequence[str], length: int, numbers: Mapping[str, int]) -> list[int]:
    """Return a text as an encoder takes it: marks around it, padding behind.

    Args:
        words: In lower case; what is no letter is a word piece of its own.
        length: How many numbers to return; of a longer text the end is kept.
        numbers: Of each word piece.
    """
    inside = [one for word in words for part in _parts(word) for one in pieces(part, numbers)]
    marked = [BEGIN, *inside[-(length - 2) :], END]
    return [*marked, *[PADDING] * (length - len(marked))]


def _parts(word: str) -> Iterator[str]:
    """Yield the runs of letters and digits of a word, and every other character alone."""
    begin = 0
    for at, character in enumerate(word):
        if not character.isalnum():
            yield from filter(None, (word[begin:at], character))
            begin = at + 1
    yield from filter(None, (word[begin:],))
