"""Leave near duplicates out of a build: of each group, the item with the largest canvas is indexed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gifdex.encoders.base import FloatArray
from gifdex.encoders.feature_cache import FeatureCache
from gifdex.encoders.fixed_order import fixed_order
from gifdex.encoders.frames.decode import FrameDecoder
from gifdex.encoders.frames.limits import Limits, Sampling
from gifdex.encoders.projections.base import Projection
from gifdex.encoders.settings import EncodeSettings
from gifdex.index.engines.base import Rows
from gifdex.index.groups import Groups
from gifdex.index.pairs import connect_all
from gifdex.index.queries.duplicates import duplicate_score
from gifdex.pipeline.encode import Source, reader
from gifdex.pipeline.frames import projected
from gifdex.pipeline.inbox import from_inbox
from gifdex.pipeline.lists import Lists
from gifdex.pipeline.settings import InboxSettings
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas import tables
from gifdex.schemas.progress import Progress

# GIFs whose features are read at a time.
_BLOCK = 65_536
_STAGE = "dedupe"


def without_duplicates(
    lists: Lists,
    min_score: float,
    settings: EncodeSettings,
    workspace: Workspace,
    cache: FeatureCache,
    projection: Projection,
    progress: Progress,
    inbox: InboxSettings,
) -> Lists:
    """Return the lists with one item of each group of near duplicates; `duplicate_of` of the catalog names it.

    Groups are connected by exact scores of at least `min_score`; all GIFs are compared with all. Items with the same
    bytes are one group. An item of the corpus stays rather than one of the inbox, then the one with the largest canvas,
    of equal ones the first id. Vectors are kept in a file
    that has no name, so nothing is left of it.
    """
    keys, places = np.unique(np.asarray(lists.items["sha256"].to_pylist(), dtype=np.str_), return_inverse=True)
    groups = Groups(len(keys))
    with fixed_order(), tempfile.TemporaryFile(dir=workspace.root) as stream:
        shape = (len(keys), projection.dimensions)
        vectors = np.memmap(stream, np.float32, "w+", shape=shape)
        for start in range(0, len(keys), _BLOCK):
            block = keys[start : start + _BLOCK].tolist()
            vectors[start : start + _BLOCK] = projected(cache.features(block), projection)
        connect_all(
            partial(_rows_of, vectors),
            len(keys),
            duplicate_score("dedupe", min_score),
            groups,
            tick=partial(progress.stage, _STAGE),
        )
    members = groups.members(np.bincount(places, minlength=len(keys)))
    return _left_out(lists, _kept(lists.items, keys.tolist(), places, members, settings, cache, inbox))


def _rows_of(vectors: FloatArray, rows: Rows) -> FloatArray:
    found: FloatArray = np.asarray(vectors[rows])
    return found


def _kept(
    items: pa.Table,
    keys: Sequence[str],
    places: Rows,
    members: Sequence[Rows],
    settings: EncodeSettings,
    cache: FeatureCache,
    inbox: InboxSettings,
) -> dict[str, str]:
    """Return the id of the item that stays, by the id of each item that does not."""
    ids, uris = items["id"].to_pylist(), items["uri"].to_pylist()
    by_place = np.argsort(places, kind="stable")
    starts = np.searchsorted(places[by_place], np.arange(len(keys) + 1))
    first = {row: int(by_place[starts[row]]) for rows in members if len(rows) > 1 for row in rows.tolist()}
    pixels = canvases([Source(keys[row], uris[item]) for row, item in first.items()], settings, cache)
    kept: dict[str, str] = {}
    is_outside = from_inbox(inbox)
    for rows in members:
        ranked = [
            (is_outside(uris[item]), -pixels.get(keys[row], 0), ids[item])
            for row in rows.tolist()
            for item in by_place[starts[row] : starts[row + 1]].tolist()
        ]
        best = min(ranked)[2]
        kept |= {id_: best for *_, id_ in ranked if id_ != best}
    return kept


def canvases(sources: Sequence[Source], settings: EncodeSettings, cache: FeatureCache) -> dict[str, int]:
    """Return the canvas in pixels of distinct GIFs, by SHA-256; those that cannot be read again are missing.

    It is in the cache, unless the features were encoded by an older version of gifdex: then the first frame is decoded.
    """
    known = cache.canvases([source.sha256 for source in sources])
    unknown = [source for source in sources if source.sha256 not in known]
    if not unknown:
        return known
    with FrameDecoder() as decode, ThreadPoolExecutor(settings.threads) as pool:
        found = pool.map(partial(_canvas, limits=settings.limits, decode=decode), unknown)
        pixels = {source.sha256: size for source, size in zip(unknown, found, strict=True)}
    return {**known, **{sha256: size for sha256, size in pixels.items() if size is not None}}


def _canvas(source: Source, limits: Limits, decode: FrameDecoder) -> int | None:
    try:
        data = reader(source, limits.bytes)()
        canvas = decode(data, Sampling(1, "first"), (8, 8), limits).canvas
    except Exception:  # noqa: BLE001  # filesystems and decoders fail in their own ways; the scan reports the file
        return None
    return None if canvas is None else canvas[0] * canvas[1]


def _left_out(lists: Lists, kept: Mapping[str, str]) -> Lists:
    """Return the lists without the items of `kept`, which maps their ids to those that stay."""
    place = tables.CATALOG.get_field_index("duplicate_of")
    column = pa.array([kept.get(id_) for id_ in lists.catalog["id"].to_pylist()], pa.string())
    catalog = lists.catalog.set_column(place, tables.CATALOG.field(place), column)
    is_left_out = pc.is_in(lists.items["id"], pa.array(kept, pa.string()))
    return replace(lists, catalog=catalog, items=lists.items.filter(pc.invert(is_left_out)))
