"""All engines. To add one, write its module and list it here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gifdex.index.engines.annoy_trees import AnnoyKind
from gifdex.index.engines.base import EngineKind
from gifdex.index.engines.hnsw import HnswKind
from gifdex.index.engines.names import ANNOY, SCAN
from gifdex.index.engines.scan import ScanKind
from gifdex.schemas.errors import QueryError
from gifdex.schemas.manifest import EngineRecord

# In order of preference, see `default`.
_KINDS: dict[str, EngineKind] = {kind.name: kind for kind in (HnswKind(), ScanKind(), AnnoyKind())}
# The engines that a build makes by default.
DEFAULTS = (ANNOY, SCAN)
# An engine that must rescore more than one in this many rows is not worth using.
_MIN_ROWS_PER_CANDIDATE = 8


def names() -> tuple[str, ...]:
    """Return the names of all engines."""
    return tuple(_KINDS)


def register(kind: EngineKind) -> None:
    """Register an engine from outside gifdex; it comes before the built-in ones in the order of preference."""
    others = dict(_KINDS)
    _KINDS.clear()
    _KINDS.update({kind.name: kind} | others)


def unregister(name: str) -> None:
    """Remove a registered engine."""
    del _KINDS[name]


def known(name: str) -> bool:
    """Tell whether there is an engine of that name."""
    return name in _KINDS


def is_optional(name: str) -> bool:
    """Tell whether there is an engine of that name that a build makes only on request."""
    return name in _KINDS and name not in DEFAULTS


def kind(name: str) -> EngineKind:
    """Return the engine of that name; raises QueryError if there is none."""
    if name not in _KINDS:
        raise QueryError(f"there is no engine {name!r:.40}; expected one of {', '.join(_KINDS)}")
    return _KINDS[name]


def kinds(engines: Iterable[str]) -> list[EngineKind]:
    """Return the engines of those names, in the order of preference."""
    wanted = set(engines)
    return [kind for name, kind in _KINDS.items() if name in wanted]


def default(
    engines: Mapping[str, EngineRecord], rows: int, shards: int, *, reduced: bool, batch: bool = False
) -> str | None:
    """Return a field's default engine, None if the field has no engines.

    This is the first kind that suits the number of rows and is selective. An engine that must rescore more than an
    eighth of the rows to reach its target gives way to an exhaustive one. Nothing is timed, so the same rows and
    engines give the same default on every machine.
    """
    found = kinds(engines)
    for one in found:
        record = engines[one.name]
        selective = _MIN_ROWS_PER_CANDIDATE * record.num_candidates * shards <= rows
        if one.suits(rows, record, reduced=reduced, batch=batch) and (one.is_exhaustive or selective):
            return one.name
    exhaustive = [one.name for one in found if one.is_exhaustive]
    return next(iter(exhaustive or engines), None)
