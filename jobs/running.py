"""What the commands that read a corpus share: settings, progress on stderr, and the closing summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from gifdex.jobs.console import pairs_table, stage_progress
from gifdex.jobs.options import records
from gifdex.schemas.errors import MissingExtraError
from gifdex.schemas.files import absolute

if TYPE_CHECKING:
    from gifdex.pipeline.build import BuildSummary
    from gifdex.pipeline.encode_corpus import EncodeSummary
    from gifdex.pipeline.run import RunSummary
    from gifdex.pipeline.settings import BuildSettings


def build_settings(
    corpus: str,
    workspace: Path | str,
    beam_options: tuple[str, ...],
    options: Mapping[str, Any],
) -> BuildSettings:
    """Return the settings of a build from command line options; the others have their defaults."""
    if not corpus:
        raise click.UsageError("CORPUS is empty; expected a folder, a glob or a catalog file")
    require_pipeline()
    if isinstance(workspace, Path):
        from gifdex.pipeline.workspace import Workspace

        Workspace(absolute(workspace)).check_free()
    from gifdex.encoders.frames.limits import Limits, Sampling
    from gifdex.encoders.settings import EncodeSettings
    from gifdex.index.build import DEFAULT_ENGINES
    from gifdex.index.engines.names import ANNOY, HNSW
    from gifdex.pipeline.settings import BuildSettings, InboxSettings, IndexSettings

    found = records(options)
    encode = EncodeSettings(sampling=Sampling(**found["sampling"]), limits=Limits(**found["limits"]), **found["encode"])
    engines = {**DEFAULT_ENGINES, ANNOY: found["annoy"], **({HNSW: {}} if found["engines"].get("hnsw") else {})}
    index = IndexSettings(engines=engines, **found["index"])
    inbox = InboxSettings(**found["inbox"])
    return BuildSettings(
        corpus, workspace, encode=encode, index=index, inbox=inbox, beam_options=beam_options, **found["build"]
    )


def require_pipeline() -> None:
    """Raise MissingExtraError if a module that is needed to read a corpus is not installed."""
    from importlib.util import find_spec

    for module in ("apache_beam", "imageio", "PIL", "tensorflow"):
        if find_spec(module) is None:
            raise MissingExtraError("reading a corpus", module, "pipeline")


def run_build(settings: BuildSettings, verbose: bool) -> BuildSummary:
    """Build with progress on stderr."""
    with stage_progress(verbose) as progress:
        from gifdex.pipeline.build import build

        return build(settings, progress)


def run_encode(settings: BuildSettings, verbose: bool) -> EncodeSummary:
    """Scan and encode with progress on stderr."""
    with stage_progress(verbose) as progress:
        from gifdex.pipeline.encode_corpus import encode_corpus

        return encode_corpus(settings, progress)


def summary_table(run: RunSummary, seconds: Mapping[str, float], workspace: str, results: Mapping[str, str]) -> Table:
    """Return the closing summary as a table; `results` are rows on what was written, and where."""
    times = ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())
    speed = f", {run.gifs_per_second:,.1f} GIFs/s" if run.gifs_per_second else ""
    rows = {
        "items": f"{run.items:,}" + (f" (partial: {run.partial:,})" if run.partial else ""),
        "rejects": f"{run.rejects:,}" + _reasons(run.rejects_by_error),
        "encoded": f"{run.encoded:,} of {run.tried:,} new GIFs (reused: {run.reused:,}; "
        f"unchanged files: {run.unchanged:,})" + (f", in {run.precision}" if run.precision != "float32" else ""),
        "time": times + speed,
        **results,
    }
    if run.duplicates:
        rows["duplicates"] = (
            f"{run.duplicates:,} items left out: duplicate_of in {workspace}/builds/{run.build_id}/catalog"
        )
    if run.ignored:
        rows["ignored"] = f"{run.ignored:,} other file{'s' if run.ignored != 1 else ''} (by name, not animations)"
    if run.partial:
        rows["example of partial"] = run.example_partial
    if run.rejects:
        rows |= {f"example of {error}": reason for error, reason in run.example_rejects.items()}
        rows["rejects in"] = f"{workspace}/builds/{run.build_id}/rejects"
    return pairs_table(rows)


def build_table(summary: BuildSummary, seconds: Mapping[str, float] | None = None) -> Table:
    """Return the closing summary of a build; `seconds` by stage replace the build's own if given."""
    version = f"{summary.build_id}{' (already built)' if summary.index_reused else ''}"
    results = {"version": version, "index": summary.store}
    return summary_table(summary.run, seconds or summary.run.seconds, summary.store.rpartition("/")[0], results)


def _reasons(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{error}: {count:,}' for error, count in counts.items())})" if counts else ""
