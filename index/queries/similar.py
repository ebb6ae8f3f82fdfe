"""Search by example: GIFs, pictures and items, added and subtracted, and reweighted towards a class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows
from gifdex.index.field_records import FEATURES, IMAGE
from gifdex.index.fields import Field, SearchMethod
from gifdex.index.hits import Hit
from gifdex.index.items import Where
from gifdex.index.opened import Opened
from gifdex.index.queries.cutoff import Cutoff
from gifdex.index.queries.examples import (
    EncodedOnce,
    Example,
    ExampleEncoder,
    Examples,
    combined,
    copies_of,
    gathered,
    subtracted,
)
from gifdex.index.queries.grouped import Ranking, group_score
from gifdex.index.queries.moments import MomentsOf, moments_of
from gifdex.index.queries.options import at_least_one, checked_score, search_method
from gifdex.index.search import Found, best
from gifdex.index.vectors import Scores
from gifdex.schemas.errors import QueryError

# Candidates of the field `image` that are rescored in reweighted features, per hit and at least.
_CANDIDATES_PER_HIT, _MIN_CANDIDATES = 20, 1000
_BLOCK = 4096


class SimilarOptions(TypedDict, total=False):
    """The options of `Index.similar` besides the examples; its docstring explains them."""

    examples: Iterable[Example]
    minus: Any
    towards: str | int | None
    fields: Mapping[str, float] | None
    where: Where | None
    engine: str | None
    num_candidates: int | None
    exact: bool
    min_score: float | None
    group: bool | float | None


def similar(
    opened: Opened,
    encoder: ExampleEncoder,
    k: int,
    *,
    gif: Examples = None,
    image: Examples = None,
    id: Examples = None,  # as items call it
    examples: Iterable[Example] = (),
    minus: Any = None,
    towards: str | int | None = None,
    fields: Mapping[str, float] | None = None,
    where: Where | None = None,
    engine: str | None = None,
    num_candidates: int | None = None,
    exact: bool = False,
    min_score: float | None = None,
    group: bool | float | None = None,
) -> list[Hit]:
    """See `Index.similar`."""
    score = group_score(group)
    count, method = at_least_one("k", k), search_method(engine, num_candidates, exact)
    limit = Cutoff(checked_score(min_score))
    opened.require_gifs()
    plus, less = gathered(gif, image, id, examples), subtracted(minus)
    left_out = copies_of(opened, [*plus, *less])
    among = None if where is None else opened.items.matching(where)
    when: MomentsOf | None = None
    if towards is not None:
        if fields is not None and not (isinstance(fields, Mapping) and list(fields) == [FEATURES]):
            raise QueryError(f"towards searches the field {FEATURES}, but fields is {fields!r:.80}: leave it out")
        opened.fusion(fields)  # raises for a weight that is none
        direction, once = opened.class_weights(towards), EncodedOnce(encoder)

        def ranked(wanted: int) -> Found:
            return _towards(opened, once, (plus, less), direction, wanted, method, among)
    else:
        fused = opened.fusion(fields)
        query = combined(opened, encoder, fused.parts[0][0].space, plus, less)
        opened.prepare(fused, method, 1)
        when = moments_of(fused, query)

        def ranked(wanted: int) -> Found:
            return fused.search(query[None], wanted, method, among)[0]

    def find(wanted: int) -> Found:
        items, scores = ranked(wanted + len(left_out))
        kept = ~np.isin(items, left_out)
        return items[kept][:wanted], scores[kept][:wanted]

    return Ranking(find, when).hits(opened, count, limit, score)


def _towards(
    opened: Opened,
    encoder: EncodedOnce,
    examples: tuple[list[Example], list[Example]],
    weights: FloatArray,
    k: int,
    method: SearchMethod,
    among: Rows | None,
) -> Found:
    """Return the k best items by the cosine of features multiplied by `weights` (d_image,), and these cosines.

    Candidates are `among`, all items if the search is exact, or else what the field `image` proposes.
    """
    field = opened.feature_field()
    query = combined(opened, encoder, field.space, *examples).astype(np.float64) * weights
    if among is None and not method.exact:
        fused = opened.fusion({IMAGE: 1.0})
        opened.prepare(fused, method, 1)
        embedding = combined(opened, encoder, fused.parts[0][0].space, *examples)
        ((among, _),) = fused.search(embedding[None], max(_MIN_CANDIDATES, _CANDIDATES_PER_HIT * k), method)
    rows = np.arange(field.record.rows) if among is None else field.rows_of(among)
    mask = None
    if among is not None:
        mask = np.zeros(field.items.count, bool)
        mask[among] = True
    scores = _reweighted(field, rows, query, weights)
    ordered, falling = best(rows, scores, len(rows))
    return field.items.expand(ordered, falling, k, mask)


def _reweighted(field: Field, rows: Rows, query: Scores, weights: FloatArray) -> Scores:
    """Return the cosines float64 (n,) of a reweighted query (d_image,) with the reweighted features of rows."""
    length = np.linalg.norm(query)
    if length == 0:
        raise QueryError("the example has no features in the direction of that class: choose another class")
    scores = np.zeros(len(rows))
    for start in range(0, len(rows), _BLOCK):
        block = field.searcher.vectors_at(rows[start : start + _BLOCK]).astype(np.float64) * weights
        lengths = np.linalg.norm(block, axis=1)
        products = block @ (query / length)
        scores[start : start + _BLOCK] = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return np.clip(scores, -1, 1)
