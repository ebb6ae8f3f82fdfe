"""Tags of a GIF, a picture or an item: classes of the image encoder's classifier, or words of a words index."""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import TypedDict

import numpy as np

from gifdex.encoders import classifiers
from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows
from gifdex.index.field_records import WORD
from gifdex.index.fields import SearchMethod
from gifdex.index.hits import Word
from gifdex.index.kinds import only_words
from gifdex.index.opened import Opened
from gifdex.index.queries.examples import Example, ExampleEncoder, Examples, combined, gathered, item_of
from gifdex.index.queries.options import at_least_one, checked_score
from gifdex.index.queries.words import as_words, first_words
from gifdex.schemas.errors import QueryError

# Words that are rarer than so many others are no tags, unless the caller says otherwise.
MAX_RANK = 20_000


class TagsOptions(TypedDict, total=False):
    """The options of `Index.tags` besides the example and the words index.

    Tags that score less than `min_score` are left out. With a words index, only its `max_rank` most frequent words are
    tags (20,000 unless you say otherwise).
    """

    max_rank: int | None
    min_score: float | None


def tags(
    opened: Opened,
    encoder: ExampleEncoder,
    k: int,
    *,
    gif: Examples = None,
    image: Examples = None,
    id: Examples = None,  # as items call it
    words: Opened | None = None,
    max_rank: int | None = None,
    min_score: float | None = None,
) -> list[Word]:
    """See `Index.tags`."""
    opened.require_gifs()
    count, lowest = at_least_one("k", k), checked_score(min_score)
    examples = gathered(gif, image, id, ())
    if len(examples) > 1:
        raise QueryError(f"there are {len(examples)} examples; expected one GIF, one picture or one item: ask for each")
    if words is not None:
        if not isinstance(words, Opened):
            raise QueryError(f"words is a {type(words).__name__}; expected a words index, as gifdex.open returns it")
        among = _tag_words(words, MAX_RANK if max_rank is None else max_rank)
        return _nearest_words(opened, encoder, examples[0], words, among, count, lowest)
    if max_rank is not None:
        raise QueryError("max_rank is for tags from a words index, but there is none: give words, or leave it out")
    (found,) = classifiers.best_classes(opened.classifier, _features(opened, encoder, examples[0])[None], count)
    return [Word(*tag) for tag in found if lowest is None or tag[1] >= lowest]


def _features(opened: Opened, encoder: ExampleEncoder, example: Example) -> FloatArray:
    """Return the features float32 (d_image,) of an example, of any length: those of an item are stored as float16."""
    if example.id is None:
        return encoder.features(example)
    field, item = opened.feature_field(), item_of(opened, example.id)
    features: FloatArray = field.searcher.stored_at(field.items.row_of[[item]])[0]
    return features


def _tag_words(words: Opened, max_rank: int) -> Rows:
    """Return the items of a words index that may be tags: frequent words of letters, without stop words."""
    if WORD not in words.fields:
        raise only_words(words.path)
    first = first_words(words, max_rank)
    names, _, _ = words.items.rows(first)
    kept = [name.isalpha() and name.lower() not in stop_words() for name in names]
    allowed: Rows = first[np.array(kept, bool)]
    return allowed


@functools.cache
def stop_words() -> frozenset[str]:
    """Return words that say nothing about what a picture shows."""
    return frozenset(files("gifdex.index.queries").joinpath("stop_words.txt").read_text(encoding="utf-8").split())


def _nearest_words(
    opened: Opened,
    encoder: ExampleEncoder,
    example: Example,
    words: Opened,
    among: Rows,
    k: int,
    min_score: float | None,
) -> list[Word]:
    """Return those of the words `among` that are nearest to an example in the joint space."""
    space, theirs = opened.main.space, words.main.space
    if space != theirs:
        raise QueryError(
            f"the index {opened.path} is in the space {space.name} ({space.fingerprint}), but the words index "
            f"{words.path} is in the space {theirs.name} ({theirs.fingerprint}): make one with gifdex words build "
            f"WORDS --index {opened.path}"
        )
    query = combined(opened, encoder, space, [example], [])
    fused, exact = words.fusion(None), SearchMethod(exact=True)
    words.prepare(fused, exact, 1)
    ((items, scores),) = fused.search(query[None], k, exact, among)
    return as_words(words, items, scores, min_score)
