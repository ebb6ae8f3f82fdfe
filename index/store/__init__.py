"""A store: versions of an index, which of them is published, and copies of them elsewhere.

`versions` is what a local store can do, and its functions can be called on this package; `place` is a folder on an
object store, `push` copies versions there, `fetch` brings them into a local cache, `serving` follows what is published.
"""

from gifdex.index.store.versions import (
    HISTORY_NAME,
    POINTER_NAME,
    Publication,
    built,
    check_finished,
    check_store,
    clear_unfinished,
    current,
    finished,
    history,
    is_build_id,
    is_store,
    kept,
    known_current,
    locked,
    parse_pointer,
    prune,
    publish,
    resolve,
    rollback,
    rolled_back,
)

__all__ = [
    "HISTORY_NAME",
    "POINTER_NAME",
    "Publication",
    "built",
    "check_finished",
    "check_store",
    "clear_unfinished",
    "current",
    "finished",
    "history",
    "is_build_id",
    "is_store",
    "kept",
    "known_current",
    "locked",
    "parse_pointer",
    "prune",
    "publish",
    "resolve",
    "rollback",
    "rolled_back",
]
