"""Find near duplicates: groups of items that are connected by exact scores."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypedDict

import numpy as np

from gifdex.encoders.base import FloatArray, available_cpus
from gifdex.index.engines import registry
from gifdex.index.engines.base import Rows
from gifdex.index.field_records import FEATURES, IMAGE
from gifdex.index.fields import Field, SearchMethod
from gifdex.index.groups import Groups
from gifdex.index.hits import Hit
from gifdex.index.opened import Opened
from gifdex.index.pairs import connect_all
from gifdex.index.queries.options import search_method
from gifdex.index.vectors import ROUNDING, Scores
from gifdex.schemas.errors import QueryError
from gifdex.schemas.progress import QUIET, Progress

DEFAULT_SCORE = 0.98
_FIELDS = (IMAGE, FEATURES)
# Up to this many rows, comparing all with all is as fast as asking any engine for each row's candidates.
_MAX_COMPARED_ROWS = 100_000
# How many candidates of each shard an engine proposes for a row. Near duplicates are found with fewer than the engine's
# own number, which is tuned for hits far from the query and may be a thousand where many vectors are nearly equal.
_CANDIDATES = 64
# Rows that are asked in one call.
_ASKED = 256
_BLOCK = 4096
_STAGE = "duplicates"


class DuplicateOptions(TypedDict, total=False):
    """The options of `Index.duplicates`.

    `field` is "image", or "features" where the index keeps them. `exact` compares all items with all, so no pair is
    missed. Otherwise `engine` proposes `num_candidates` (64) of each shard for each item; where all of these reach the
    score, the item is compared with all items instead. Without a named engine, the index's default one proposes, but
    only if there are so many items that this is faster. `progress` is told how many items are done.
    """

    field: str
    engine: str | None
    num_candidates: int | None
    exact: bool
    progress: Progress


def duplicates(
    opened: Opened,
    min_score: float = DEFAULT_SCORE,
    *,
    field: str = IMAGE,
    engine: str | None = None,
    num_candidates: int | None = None,
    exact: bool = False,
    progress: Progress = QUIET,
) -> list[list[Hit]]:
    """See `Index.duplicates`."""
    lowest, method = duplicate_score("min_score", min_score), search_method(engine, num_candidates, exact)
    opened.require_gifs()
    fused = opened.fusion({field: 1.0})
    if field not in _FIELDS:
        raise QueryError(f"near duplicates are found in the fields {' and '.join(_FIELDS)}, not in {field}")
    chosen = fused.parts[0][0]
    name = _engine(chosen, method)
    opened.prepare(fused, SearchMethod(name, exact=name is None), 1)
    groups = Groups(chosen.record.rows)
    if name is None:
        connect_all(
            chosen.searcher.vectors_at, chosen.record.rows, lowest, groups, tick=partial(progress.stage, _STAGE)
        )
    else:
        _connect_candidates(chosen, name, method.num_candidates, lowest, groups, progress)
    return _as_hits(opened, chosen, groups.members(chosen.items.copies))


def duplicate_score(name: str, given: float) -> float:
    """Return the score that near duplicates reach; raises QueryError unless it is above 0 and at most 1.

    It is a little below 1 for 1, because the scores of equal vectors are rounded.
    """
    is_number = isinstance(given, (int, float, np.integer, np.floating)) and not isinstance(given, bool)
    if not is_number or not 0 < given <= 1:
        raise QueryError(f"{name} is {given!r:.40}; expected a score above 0 and up to 1, such as {DEFAULT_SCORE}")
    return min(float(given), 1 - ROUNDING)


def _engine(field: Field, method: SearchMethod) -> str | None:
    """Return the engine that proposes pairs, or None to compare all with all."""
    engine = field.engine_for(method, field.record.rows)
    if engine is None or method.engine is not None:
        return engine
    # An engine that scores every row anyway is slower than comparing all pairs at once.
    is_slower = registry.kind(engine).is_exhaustive or field.record.rows <= _MAX_COMPARED_ROWS
    return None if is_slower else engine


def _connect_candidates(
    field: Field, engine: str, num_candidates: int | None, min_score: float, groups: Groups, progress: Progress
) -> None:
    """Join each row with the candidates that an engine proposes for it and that reach the score.

    A row whose candidates all reach it may have more, so it is compared with all rows.
    """
    rows, searcher = field.record.rows, field.searcher
    count = num_candidates or _CANDIDATES

    def ask(asked: Rows) -> Rows:
        found = searcher.search_among(searcher.vectors_at(asked), count, engine, count)
        reached = [near[scores >= min_score] for near, scores in found]
        sizes = np.array([len(near) for near in reached])
        groups.join(np.repeat(asked, sizes), np.concatenate(reached))
        return asked[sizes >= np.array([len(near) for near, _ in found])]

    full, done = [], 0
    with ThreadPoolExecutor(available_cpus(), "gifdex-duplicates") as pool:
        blocks = [np.arange(start, min(start + _ASKED, rows)) for start in range(0, rows, _ASKED)]
        for block, found in zip(blocks, pool.map(ask, blocks), strict=True):
            full.append(found)
            done += len(block)
            progress.stage(_STAGE, done, rows)
    if len(rest := np.concatenate(full)):
        connect_all(searcher.vectors_at, rows, min_score, groups, rest)


def _as_hits(opened: Opened, field: Field, members: list[Rows]) -> list[list[Hit]]:
    """Return groups of rows as hits, the largest group first, then by the first id."""
    found = [_ordered(field, rows) for rows in members]
    items = np.concatenate([np.empty(0, np.int64), *(items for items, _ in found)])
    keys, uris, metadata = opened.items.rows(items)
    scores = np.concatenate([np.empty(0), *(scores for _, scores in found)]).tolist()
    hits = list(map(Hit, keys, scores, uris, metadata))
    ends = np.cumsum([0, *(len(items) for items, _ in found)]).tolist()
    groups = [hits[start:end] for start, end in itertools.pairwise(ends)]
    return sorted(groups, key=lambda group: (-len(group), group[0].id))


def _ordered(field: Field, rows: Rows) -> tuple[Rows, Scores]:
    """Return the items of a group's rows and their scores with the most central row, whose first item comes first.

    The most central row has the highest mean score with the others.
    """
    total = np.zeros(field.dimensions)
    for block in _blocks(field, rows):
        total += block.sum(axis=0, dtype=np.float64)
    central = int(np.concatenate([block @ total for block in _blocks(field, rows)]).argmax())
    vector = field.searcher.vectors_at(rows[central : central + 1])[0]
    scores = np.minimum(field.searcher.cosines(vector, rows), 1)
    scores[central] = 1
    order = np.lexsort((rows, -scores))
    copies = int(field.items.copies[rows].sum())
    return field.items.expand(rows[order], scores[order], copies)


def _blocks(field: Field, rows: Rows) -> Iterator[FloatArray]:
    for start in range(0, len(rows), _BLOCK):
        yield field.searcher.vectors_at(rows[start : start + _BLOCK])
