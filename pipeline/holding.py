"""Which workspace a run writes, and holding it: a folder here, or of one at a URL its mirror."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from gifdex.encoders.fixed_order import fixed_order
from gifdex.encoders.frames.decoders import registry
from gifdex.index.store.place import Place
from gifdex.pipeline.mirror import mirror_of, mirrored
from gifdex.pipeline.settings import BuildSettings
from gifdex.pipeline.tasks import pipeline_options
from gifdex.pipeline.workspace import STORE, Workspace
from gifdex.schemas.errors import WorkspaceError
from gifdex.schemas.files import absolute, is_url
from gifdex.schemas.progress import QUIET, Progress


@contextmanager
def held_workspace(settings: BuildSettings, progress: Progress = QUIET) -> Iterator[Workspace]:
    """Hold the workspace for writing while the block runs, cleared of what a killed run left unfinished.

    Of one at a URL, it is a mirror that is held. Raises what is wrong with the settings before it, and WorkspaceError
    for any OSError within.
    """
    # Now, for a mistake in them should not wait for the first task, and the corpus is listed before it.
    FileSystems.set_options(pipeline_options(settings.beam_options))
    if settings.encode.decoder != registry.AUTO:
        registry.decoder(settings.encode.decoder)
    try:
        with fixed_order(), _held(settings.workspace, progress) as workspace:
            workspace.clear_unfinished()
            yield workspace
    except OSError as err:
        where = err.filename or settings.workspace
        raise WorkspaceError(
            f"cannot read or write {where}: {err.strerror or err}; free some space or fix the permissions, then run "
            "again: what was committed is kept"
        ) from err


@contextmanager
def _held(where: Path | str, progress: Progress) -> Iterator[Workspace]:
    if isinstance(where, str) and is_url(where):
        with mirrored(where, progress) as workspace:
            yield workspace
        return
    workspace = workspace_of(where)
    with workspace.locked():
        yield workspace


def workspace_of(where: Path | str) -> Workspace:
    """Return a workspace on this machine or, of one at a URL, its mirror."""
    return mirror_of(where) if isinstance(where, str) and is_url(where) else Workspace(absolute(where))


def store_name(where: Path | str) -> str:
    """Return what output calls the store of a workspace; of one at a URL that is its URL, not the mirror."""
    if isinstance(where, str) and is_url(where):
        return Place.of(where).shown(STORE)
    return str(workspace_of(where).store)
