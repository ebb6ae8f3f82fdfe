"""What the commands on a store share: opening it locally or at a URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gifdex.index import artifact, store
from gifdex.schemas.files import is_url
from gifdex.schemas.progress import QUIET, Progress


@dataclass(frozen=True)
class OpenStore:
    """A local store's `folder`, or a working copy of a store at a URL, where changes are written back.

    `shown` is its name for output, without a key or options.
    """

    where: Path | str
    folder: Path
    shown: str

    def verify(self, build_id: str, progress: Progress = QUIET) -> None:
        """Check every byte of a version; raises an ArtifactError."""
        if not is_url(self.where):
            artifact.verify(self.folder / build_id, progress)
            return
        from gifdex.index.store import push as pushing
        from gifdex.index.store.place import Place

        pushing.verify(Place.of(str(self.where)), build_id, progress)


@contextmanager
def open_store(where: Path | str) -> Iterator[OpenStore]:
    """Open a store for changes; raises IndexNotFoundError if there is none."""
    if not is_url(where):
        store.check_store(Path(where))
        yield OpenStore(where, Path(where), str(where))
        return
    from gifdex.index.store.place import Place
    from gifdex.index.store.push import working_copy

    place = Place.of(str(where))
    with working_copy(place) as copy:
        yield OpenStore(where, copy.folder, place.shown())
