"""The engines that there are. To add one, write its module and name it here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gifdex.index.engines.annoy_trees import AnnoyKind
from gifdex.index.engines.base import EngineKind
from gifdex.index.engines.hnsw import HnswKind
from gifdex.index.engines.names import ANNOY, SCAN
from gifdex.index.engines.scan import ScanKind
from gifdex.schemas.errors import QueryError
from gifdex.schemas.manifest import EngineRecord

# The first that suits an index is its default, see `default`.
_KINDS: dict[str, EngineKind] = {kind.name: kind for kind in (HnswKind(), ScanKind(), AnnoyKind())}
# What a build makes unless it is told otherwise.
DEFAULTS = (ANNOY, SCAN)
# An engine that has to look at a larger share of the rows than one in so many is no shortcut.
_MIN_ROWS_A_CANDIDATE = 8


def names() -> tuple[str, ...]:
    """Return the names of all engines."""
    return tuple(_KINDS)


def register(kind: EngineKind) -> None:
    """Add an engine from outside of gifdex, before the registry's own in the order of preference."""
    others = dict(_KINDS)
    _KINDS.clear()
    _KINDS.update({kind.name: kind} | others)


def unregister(name: str) -> None:
    """Take an engine out again."""
    del _KINDS[name]


def known(name: str) -> bool:
    """Tell whether there is an engine of that name."""
    return name in _KINDS


def is_optional(name: str) -> bool:
    """Tell whether there is an engine of that name that a build makes only when it is asked to."""
    return name in _KINDS and name not in DEFAULTS


def kind(name: str) -> EngineKind:
    """Return the engine of that name; raises QueryError where there is none."""
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
    """Return which of a field's engines answers unless another is asked for: None where there is no engine.

    The first kind that suits the count of rows and finds enough: one that reaches its target only by looking at more
    than an eighth of the rows leaves the answer to one that looks at all of them, quickly. Nothing here is timed, so
    the same rows and engines give the same default on every machine.
    """
    found = kinds(engines)
    for one in found:
        record = engines[one.name]
        selective = _MIN_ROWS_A_CANDIDATE * record.num_candidates * shards <= rows
        if one.suits(rows, record, reduced=reduced, batch=batch) and (one.is_exhaustive or selective):
            return one.name
    exhaustive = [one.name for one in found if one.is_exhaustive]
    return next(iter(exhaustive or engines), None)
