"""Search several fields at once: the union of their candidates gets exact scores, summed with weights."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows
from gifdex.index.field_records import TEXT, main_field
from gifdex.index.fields import JOINT_SPACE, Field, SearchMethod
from gifdex.index.search import Found, best, contenders
from gifdex.index.vectors import ROUNDING, Scores
from gifdex.schemas.errors import QueryError

MAX_WEIGHT = 1_000_000
# An upper bound for the error of rough scores, from the products and from their weighted sum.
_ROUNDING = 2 * ROUNDING


@dataclass(frozen=True)
class Fusion:
    """Fields of one space with positive weights. An item's score is the weighted sum of its cosines.

    An item without a row in a field scores 0 there.
    """

    parts: tuple[tuple[Field, float], ...]

    @property
    def dimensions(self) -> int:
        """Size of a query."""
        return self.parts[0][0].dimensions

    @functools.cached_property
    def _has_row(self) -> NDArray[np.bool_] | None:
        """Which items have a row in some field, bool (items,), or None if all do. The others are never returned."""
        if any(field.items.covers_all for field, _ in self.parts):
            return None
        has_row: NDArray[np.bool_] = np.logical_or.reduce([field.items.has_row for field, _ in self.parts])
        return has_row

    @property
    def names(self) -> str:
        """What is searched, for errors."""
        return ", ".join(field.name for field, _ in self.parts)

    @functools.cached_property
    def timed(self) -> Field | None:
        """The field of frames, if it is one of them."""
        return next((field for field, _ in self.parts if field.has_times), None)

    def check_takes_sentences(self) -> None:
        """Raise QueryError unless a sentence can be compared with the fields' vectors."""
        field = self.parts[0][0]
        if field.space.name != JOINT_SPACE:
            raise QueryError(
                f"a sentence is in the space {JOINT_SPACE}, but the field {field.name} is in the space "
                f"{field.space.name}: search it with a vector of {field.dimensions} dimensions"
            )

    def search(self, queries: FloatArray, k: int, method: SearchMethod, among: Rows | None = None) -> list[Found]:
        """Return the k best items for each of the unit queries (n, d), with their scores; equal scores in item order.

        `among` are the ascending items that may be returned; they are searched exactly. Scores are clipped to the sum
        of the weights, which rounding might exceed.
        """
        found = self._search(queries, k, method, among)
        return [(items, clipped(scores, self.total)) for items, scores in found]

    def _search(self, queries: FloatArray, k: int, method: SearchMethod, among: Rows | None) -> list[Found]:
        if len(self.parts) == 1:
            field, weight = self.parts[0]
            found = _search_one(field, queries, k, method, among)
            return found if weight == 1 else [(items, weight * scores) for items, scores in found]
        for field, _ in self.parts:  # raises for an unknown engine
            field.engine_for(method, len(queries))
        if among is None and not method.exact:
            return [best(items, self.scores_of(query, items), k) for query, items in self._proposed(queries, k, method)]
        return [self.scan(query, k, among) for query in queries]

    def _proposed(self, queries: FloatArray, k: int, method: SearchMethod) -> list[tuple[FloatArray, Rows]]:
        """Return each query with the distinct items that any field proposes."""
        found: list[list[Rows]] = [[] for _ in queries]
        for field, _ in self.parts:
            for items, proposed in zip(found, field.proposals(queries, k, method), strict=True):
                items.append(proposed)
        return [(query, np.unique(np.concatenate(items))) for query, items in zip(queries, found, strict=True)]

    def scores_of(self, query: FloatArray, items: Rows) -> NDArray[np.float64]:
        """Return the exact scores float64 (n,) of items for a unit query (d,)."""
        scores = np.zeros(len(items))
        for field, weight in self.parts:
            scores += weight * field.scores_of(query, items)
        return scores

    def _rough_scores(self, query: FloatArray) -> FloatArray:
        """Return the scores float32 (items,) of all items, divided by the sum of the weights, within _ROUNDING.

        The division keeps small weights from underflowing.
        """
        first, weight = self.parts[0]
        scores = np.float32(weight / self.total) * first.rough_scores(query)
        for field, weight in self.parts[1:]:
            scores += np.float32(weight / self.total) * field.rough_scores(query)
        return scores

    @property
    def total(self) -> float:
        """The sum of the weights."""
        return sum(weight for _, weight in self.parts)

    def scan(self, query: FloatArray, k: int, among: Rows | None = None, added: Scores | None = None) -> Found:
        """Return the k best of all items, or of `among`, for a unit query (d,), and their exact scores.

        `added` (items,), none of them negative, is added to the items' scores; an item with a score there needs no row.
        """
        scores, has_row = self._rough_scores(query), self._has_row
        if added is not None:
            total = self.total + added.max(initial=0)
            scores = scores * np.float32(self.total / total) + (added / total).astype(np.float32)
            has_row = has_row if has_row is None else has_row | (added > 0)
        if has_row is not None:
            among = np.flatnonzero(has_row) if among is None else among[has_row[among]]
        if among is not None:
            scores = scores[among]
        places = contenders(scores, k, _ROUNDING) if len(scores) else np.empty(0, np.int64)
        items = places if among is None else among[places]
        exact = self.scores_of(query, items)
        return best(items, exact if added is None else exact + added[items], k)

    def ranks(self, queries: FloatArray, items: Rows) -> Rows:
        """Return the exact rank int64 (n,) of `items[i]` for unit query i among all items; equal scores share a rank.

        An item without a row in any field ranks after all others.
        """
        result = np.empty(len(queries), np.int64)
        for number, (query, item) in enumerate(zip(queries, items, strict=True)):
            rough = self._rough_scores(query)
            if self._has_row is not None:
                if not self._has_row[item]:
                    result[number] = 1 + np.count_nonzero(self._has_row)
                    continue
                rough[~self._has_row] = -np.inf
            near = np.flatnonzero(np.abs(rough - rough[item]) <= _ROUNDING)
            exact = self.scores_of(query, near)
            above = np.count_nonzero(rough > rough[item] + _ROUNDING)
            result[number] = 1 + above + np.count_nonzero(exact > exact[near == item])
        return result


def _search_one(field: Field, queries: FloatArray, k: int, method: SearchMethod, among: Rows | None) -> list[Found]:
    """Return the k best items of one field, with weight one."""
    if among is None:
        return [field.items.expand(rows, scores, k) for rows, scores in field.search(queries, k, method)]
    field.engine_for(method, len(queries))
    mask = np.zeros(field.items.count, bool)
    mask[among] = True
    return [field.items.expand(rows, scores, k, mask) for rows, scores in field.scan_items(queries, among, k)]


def clipped(scores: Scores, limit: float) -> Scores:
    """Clip descending scores to a limit."""
    if len(scores) and (scores[0] > limit or scores[-1] < -limit):
        return np.clip(scores, -limit, limit)
    return scores


def fusion(path: Path, fields: Mapping[str, Field], weights: Mapping[str, float] | None) -> Fusion:
    """Return the fusion for a caller's weights, without fields of weight 0.

    Raises QueryError for unknown fields, for fields of different spaces, and unless all weights are numbers from 0 to
    MAX_WEIGHT and one is above 0.
    """
    if weights is None:
        weights = {main_field(fields): 1.0}
    if not isinstance(weights, Mapping):
        raise QueryError(f"fields is {weights!r:.80}; expected names and weights, such as {{'image': 1.0}}")
    for name, weight in weights.items():
        if name == TEXT and weight == 0:
            continue
        if name == TEXT:
            raise QueryError(f"the field {TEXT} has words and no vectors: search it by a sentence")
        if name not in fields:
            hint = {
                "caption": ": give the corpus captions",
                "features": ": build it with --keep-features",
                "frames": ": build it with --moments",
            }
            raise QueryError(
                f"the index {path} has no field {name!r:.40}, only {', '.join(fields)}{hint.get(str(name), '')}"
            )
        check_weight(name, weight)
    parts = [(fields[name], float(weight)) for name, weight in weights.items() if float(weight)]
    if not parts:
        raise QueryError(f"the weights {dict(weights)!r:.80} are all 0; expected one above 0, as in {{'image': 1.0}}")
    _check_spaces(parts)
    # In the index's order of fields, so that the rounding of sums does not depend on the caller's order.
    numbers = {name: number for number, name in enumerate(fields)}
    return Fusion(tuple(sorted(parts, key=lambda part: numbers[part[0].name])))


def check_weight(name: str, weight: Any) -> None:
    """Raise QueryError unless a field's weight is a number from 0 to MAX_WEIGHT."""
    is_number = isinstance(weight, (int, float, np.integer, np.floating)) and not isinstance(weight, bool)
    if not is_number or not 0 <= weight <= MAX_WEIGHT:
        raise QueryError(
            f"the weight of the field {name} is {weight!r:.40}; expected a number from 0 to {MAX_WEIGHT:,}"
        )


def _check_spaces(parts: Sequence[tuple[Field, float]]) -> None:
    first = parts[0][0]
    for field, _ in parts[1:]:
        if field.space != first.space:
            raise QueryError(
                f"the fields {first.name} and {field.name} are in different spaces, {first.space.name} "
                f"({first.space.fingerprint}) and {field.space.name} ({field.space.fingerprint}), so one query cannot "
                "be compared with both: search them separately"
            )
