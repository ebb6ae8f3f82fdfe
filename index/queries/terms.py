"""Weighted words as a query: `cat:2 sofa -dog "ice cream"`.

::

    query  = term (spaces term)*
    term   = ["-"] (word | quoted) [":" weight]
    word   = characters other than spaces, quotation marks and colons; it does not begin with "-"
    quoted = a quotation mark, characters other than quotation marks, a quotation mark
    weight = a decimal number above 0, such as 2 or 0.5; 1 where it is left out

Each term is embedded like a sentence. The query is the sum of these unit vectors times their weights; terms with "-"
are subtracted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gifdex.encoders.base import FloatArray, unit
from gifdex.index.queries.fuse import MAX_WEIGHT
from gifdex.index.queries.query_words import QUOTES
from gifdex.schemas.errors import QueryError, UnknownWordsError

_TERM = re.compile(r'(?P<minus>-?)(?:"(?P<quoted>[^"]*)"|(?P<word>[^\s":-][^\s":]*))')
_WEIGHT = re.compile(r":(?P<weight>[0-9]+\.?[0-9]*|\.[0-9]+)?(?=\s|$)")
_PIECE = re.compile(r"\S+")
# A sum shorter than this share of its terms is rounding error.
_MIN_LENGTH = 1e-6


@dataclass(frozen=True)
class Term:
    """A word or a quoted phrase, and its weight, which is negative if the term is subtracted."""

    text: str
    weight: float


def parse(query: str) -> list[Term]:
    """Return the terms of a query; raises QueryError that names the malformed piece and its position."""
    text, terms, at = query.translate(QUOTES), [], 0
    while (at := _after_spaces(text, at)) < len(text):
        found = _TERM.match(text, at)
        if found is None:
            is_open = text.startswith(('"', '-"'), at)
            expected = "a second quotation mark" if is_open else 'a word or a quoted phrase, such as cat or "ice cream"'
            raise _malformed(query, at, expected)
        words = found["word"] if found["quoted"] is None else " ".join(found["quoted"].split())
        if not words:
            raise _malformed(query, at, "words between the quotation marks")
        sign, at = -1 if found["minus"] else 1, found.end()
        weight, at = _weight(query, text, at)
        terms.append(Term(words, sign * weight))
    if not any(term.weight > 0 for term in terms):
        raise QueryError(f"the terms {query!r:.80} only subtract; expected one without -, as in 'sofa -dog'")
    return terms


def _after_spaces(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip())


def _weight(query: str, text: str, at: int) -> tuple[float, int]:
    """Return the weight that begins at a position, 1 without one, and the position behind it."""
    if at == len(text) or text[at].isspace():
        return 1.0, at
    if text[at] != ":":
        raise _malformed(query, at, "a space or a weight, such as :2")
    found = _WEIGHT.match(text, at)
    if found is None or found["weight"] is None:
        hint = "write -dog:2 to subtract, and quotation marks around a term with a colon"
        raise _malformed(query, at, f"a number after the colon, such as cat:2 ({hint})")
    weight = float(found["weight"])
    if not 0 < weight <= MAX_WEIGHT:
        raise _malformed(query, at, f"a weight above 0, up to {MAX_WEIGHT:,}")
    return weight, found.end()


def _malformed(query: str, at: int, expected: str) -> QueryError:
    found = _PIECE.match(query, at)
    piece = "" if found is None else found[0]
    return QueryError(f"the terms {query!r:.80} have {piece!r:.40} at character {at + 1}; expected {expected}")


def embed_terms(embed: Callable[[Sequence[str]], FloatArray], queries: Sequence[str]) -> FloatArray:
    """Return n queries of terms as unit vectors float32 (n, d). `embed` embeds sentences.

    Raises QueryError for a malformed query and for terms that cancel each other out, UnknownWordsError for a term
    without a word that the encoder knows.
    """
    if not queries:
        return embed([])
    parsed = [parse(query) for query in queries]
    distinct = list(dict.fromkeys(term.text for terms in parsed for term in terms))
    try:
        vectors = dict(zip(distinct, embed(distinct).astype(np.float64), strict=True))
    except UnknownWordsError as err:
        unknown = [distinct[place] for place in err.positions]
        raise UnknownWordsError(
            f"the index's text encoder knows no word of the term {', '.join(map(repr, unknown)):.80}: leave it out, or "
            "use other words",
            positions=[place for place, terms in enumerate(parsed) if any(term.text in unknown for term in terms)],
        ) from err
    sums = []
    for query, terms in zip(queries, parsed, strict=True):
        summed = sum(term.weight * vectors[term.text] for term in terms)
        if np.linalg.norm(summed) <= _MIN_LENGTH * sum(abs(term.weight) for term in terms):
            raise QueryError(f"the terms {query!r:.80} cancel each other out, so no direction is left to search in")
        sums.append(summed)
    return unit(np.array(sums))
