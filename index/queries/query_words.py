"""A sentence as words for the field `text`: which words may occur, and which phrases must."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from gifdex.schemas.errors import QueryError

# Keyboards of telephones write these for a straight quotation mark.
QUOTES = str.maketrans("\u201c\u201d\u201e", '"""')
_PHRASE = re.compile(r'"([^"]*)"')


@dataclass(frozen=True)
class Words:
    """The distinct words and quoted phrases of a sentence, and the sentence without quotation marks.

    An item must have all of the phrases; of the words it may have any.
    """

    plain: str
    words: tuple[str, ...]
    phrases: tuple[str, ...]

    @property
    def scored(self) -> tuple[str, ...]:
        """What an item's score counts."""
        return tuple(dict.fromkeys([*self.phrases, *self.words]))


def read_words(sentence: str) -> Words:
    """Split a sentence into words and quoted phrases. A single quotation mark without another is ignored."""
    straight = sentence.translate(QUOTES)
    phrases = _distinct([" ".join(_split(phrase)) for phrase in _PHRASE.findall(straight)])
    rest = _distinct(_split(_PHRASE.sub(" ", straight)))
    return Words(straight.replace('"', " "), rest, phrases)


def check_has_words(words: Words, sentence: str) -> None:
    """Raise QueryError if there is nothing to look for."""
    if not words.scored:
        raise QueryError(f"the sentence {sentence!r:.60} has no words; expected letters or digits to look for")


def _split(text: str) -> list[str]:
    """Split at everything that is no letter, mark or digit, as the index does."""
    return "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in text).split()


def _distinct(words: list[str]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for word in filter(None, words):
        first.setdefault(word.casefold(), word)
    return tuple(first.values())
