"""gifdex: turn a corpus of GIFs into an index that anyone can query by meaning.

::

    import gifdex
    index = gifdex.open("workspace/index")
    hits = index.search("a cat playing the piano", k=10)
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gifdex.index.hits import Hit, Moment, Word
    from gifdex.index.lookup import Index
    from gifdex.index.opening import open_index as open
    from gifdex.index.queries.examples import Example
    from gifdex.index.queries.hybrid import Outside
    from gifdex.index.store.serving import ServedIndex, ServingStatus, serve_latest
    from gifdex.schemas.errors import GifdexError

__all__ = [
    "Example",
    "GifdexError",
    "Hit",
    "Index",
    "Moment",
    "Outside",
    "ServedIndex",
    "ServingStatus",
    "Word",
    "__version__",
    "open",
    "serve_latest",
]

__version__ = version("gifdex")

# Looked up at first use, so that `gifdex --help` does not wait for numpy and pyarrow.
_HOMES = {
    "Example": ("gifdex.index.queries.examples", "Example"),
    "GifdexError": ("gifdex.schemas.errors", "GifdexError"),
    "Hit": ("gifdex.index.hits", "Hit"),
    "Index": ("gifdex.index.lookup", "Index"),
    "Outside": ("gifdex.index.queries.hybrid", "Outside"),
    "Moment": ("gifdex.index.hits", "Moment"),
    "ServedIndex": ("gifdex.index.store.serving", "ServedIndex"),
    "ServingStatus": ("gifdex.index.store.serving", "ServingStatus"),
    "Word": ("gifdex.index.hits", "Word"),
    "open": ("gifdex.index.opening", "open_index"),
    "serve_latest": ("gifdex.index.store.serving", "serve_latest"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
