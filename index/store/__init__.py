"""A store: the versions of an index, the published one, and remote copies.

`versions` implements local stores; its functions are also available on this package. `place` is a folder on an object
store, `push` copies versions there, `fetch` copies them into a local cache, `serving` follows the published version.
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
    known_current,
    locked,
    parse_pointer,
    prune,
    publish,
    resolve,
    rollback,
    rolled_back,
    versions_to_keep,
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
    "known_current",
    "locked",
    "parse_pointer",
    "prune",
    "publish",
    "resolve",
    "rollback",
    "rolled_back",
    "versions_to_keep",
]
