"""An index for a long-lived service: it follows the published version and never stops answering."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from gifdex.index.hits import Hit
from gifdex.index.lookup import Index
from gifdex.index.opening import open_index
from gifdex.index.store import versions as store
from gifdex.schemas.files import is_url

# The interval varies by this share, so that many services do not check at the same time.
_JITTER = 0.1


@dataclass(frozen=True)
class ServingStatus:
    """The version that answers (`serving`), the published one (`latest`), and versions refused with reasons.

    `error` is why the last check of the store failed, None if it succeeded.
    """

    serving: str
    latest: str
    since: datetime
    checked: datetime
    refused: dict[str, str] = field(default_factory=dict)
    error: str | None = None


class ServedIndex:
    """Answers from the last published version that opened and passed its checks; see `serve_latest`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every: float = 600.0,
        warm_up: Sequence[str] = (),
        text_encoder: str | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        """Open the published version; raises as `gifdex.open` does."""
        if not every > 0:
            raise ValueError(f"every is {every}; expected a number of seconds above 0")
        self._path, self._every, self._warm_up = path, every, tuple(warm_up)
        self._text_encoder, self._cache = text_encoder, cache
        self._lock = threading.Lock()  # one check at a time
        self._index = self._opened()
        now = datetime.now(UTC)
        build_id = self._index.path.name  # not always the build id if the path is a single version
        self._status = ServingStatus(build_id, build_id, now, now)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="gifdex-serve-latest", daemon=True)
        self._thread.start()

    @property
    def index(self) -> Index:
        """The current index. Keep it in a variable for queries that must use the same version."""
        return self._index

    @property
    def status(self) -> ServingStatus:
        """The versions that are served, published and refused."""
        return self._status

    def search(self, query: str | Sequence[str] | NDArray[Any], k: int = 10, **options: Any) -> list[Any]:
        """Search the current index; see `Index.search`."""
        found: list[Hit] | list[list[Hit]] = self._index.search(query, k, **options)
        return found

    def check(self) -> ServingStatus:
        """Check the store now, open a new version, and return the status; raises nothing."""
        with self._lock:
            before, now = self._status, datetime.now(UTC)
            try:
                latest = self._latest()
            except Exception as err:  # noqa: BLE001  # a filesystem may raise anything, and the thread must continue
                reason = " ".join(str(err).split()) or type(err).__name__
                self._status = ServingStatus(before.serving, before.latest, before.since, now, before.refused, reason)
                return self._status
            if latest == before.serving:
                self._status = ServingStatus(latest, latest, before.since, now)
                return self._status
            try:
                opened = self._opened()
            except Exception as err:  # noqa: BLE001  # whatever is wrong with a new version, the old one still answers
                refused = {**before.refused, latest: " ".join(str(err).split()) or type(err).__name__}
                self._status = ServingStatus(before.serving, latest, before.since, now, refused)
                return self._status
            self._index = opened
            self._status = ServingStatus(opened.path.name, latest, now, now)
            return self._status

    def close(self) -> None:
        """Stop following the store; the index still answers."""
        self._ended.set()
        self._thread.join()

    def __enter__(self) -> ServedIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _follow(self) -> None:
        draw = random.Random()
        while not self._ended.wait(self._every * draw.uniform(1 - _JITTER, 1 + _JITTER)):
            self.check()

    def _latest(self) -> str:
        if is_url(self._path):
            from gifdex.index.store import fetch

            return fetch.published(str(self._path))
        return store.resolve(Path(self._path)).name

    def _opened(self) -> Index:
        """Open the published version, hash every byte, and run some queries."""
        opened = open_index(self._path, verify=True, text_encoder=self._text_encoder, cache=self._cache)
        opened.warm_up(self._warm_up)
        return opened


def serve_latest(
    path: str | os.PathLike[str],
    *,
    every: float = 600.0,
    warm_up: Sequence[str] = (),
    text_encoder: str | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> ServedIndex:
    """Open the published version of a store (a path or a URL), and follow what is published later.

    Every `every` seconds, give or take a tenth, a thread checks for a new version. It opens and hashes that version,
    runs the sentences of `warm_up` and some of its own vectors as queries, then replaces the old one at once; running
    queries finish on the old one. If any of that fails, the old version stays, `status.refused` says why, and the next
    check tries again.
    """
    return ServedIndex(path, every=every, warm_up=warm_up, text_encoder=text_encoder, cache=cache)
