"""Lock the workspace that a run writes to: a local folder, or the mirror of a workspace at a URL."""

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
    """Lock the workspace for the duration of the block, and delete what a killed run left unfinished.

    For a workspace at a URL, this locks its mirror. Checks Beam's options and the decoder first, and turns any OSError
    in the block into WorkspaceError.
    """
    # Early, because listing the corpus needs these options and mistakes should show at once.
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
    """Return a local workspace, or the mirror of one at a URL."""
    return mirror_of(where) if isinstance(where, str) and is_url(where) else Workspace(absolute(where))


def store_name(where: Path | str) -> str:
    """Return a workspace's store as shown to users: its path, or the URL rather than the mirror."""
    if isinstance(where, str) and is_url(where):
        return Place.of(where).shown(STORE)
    return str(workspace_of(where).store)
