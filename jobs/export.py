"""`gifdex export`: write an index as plain files that other programs can read."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from gifdex.jobs.console import PathOption, PlaceOption, StageProgress, print_json

_EPILOG = """\b
Examples:
  gifdex export ws/index vectors --format npy
  gifdex export ws/index for-spark --format parquet --json
  gifdex export ws/index for-annoy --format annoy --trees 100 --force

\b
DEST then has items.jsonl (row, id, uri, sha256, caption, metadata; line i is row i), facts.json (counts,
encoders, sizes and hashes), and one of:
  annoy     vectors.ann      Annoy, angular; needs memory of 1.3 times the file
  npy       vectors.npy      NumPy, float32 (items, dimensions), unit length
  parquet   vectors.parquet  the items' columns and vector, a list of floats
  usearch   vectors.usearch  HNSW graph, cos, f32, keys are rows; needs memory of the file, and the extra hnsw
  faiss     vectors.faiss    IndexFlatIP; needs memory of twice the file, and the extra faiss
"""

# Copied from gifdex.index.export, which imports too much for --help.
FORMATS = ("annoy", "npy", "parquet", "usearch", "faiss")
TREES = 50


@click.command("export", epilog=_EPILOG)
@click.argument("store", type=PlaceOption(file_okay=True))
@click.argument("dest", type=PathOption())
@click.option("--format", "format", required=True, type=click.Choice(FORMATS), help="Format of the vectors.")
@click.option("--trees", type=click.IntRange(1), help=f"Trees, for the format annoy.  [default: {TREES}]")
@click.option("--force", is_flag=True, help="Replace an earlier export at DEST.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as one JSON object.")
def command(store: Path | str, dest: Path, format: str, trees: int | None, force: bool, as_json: bool) -> None:
    """Write STORE (a store's published version, or one version) to the folder DEST for other libraries.

    Every byte of the version is checked first. DEST must be new or empty; --force replaces an earlier export, and
    nothing else. DEST appears when it is complete. Until then it is a folder .tmp-... beside it, which may be deleted
    if the export was killed.
    """
    from gifdex.index.export import export
    from gifdex.index.opening import local_version

    if trees is not None and format != "annoy":
        raise click.UsageError(f"--trees is for the format annoy; the format is {format}: leave it out")
    with StageProgress(Console(stderr=True)).shown() as progress:
        done = export(local_version(store), dest, format, trees=trees or TREES, force=force, progress=progress)
    total = sum(file.bytes for file in done.files.values())
    if as_json:
        counts = {"path": str(done.path), "format": done.format, "build_id": done.build_id, "items": done.items}
        print_json({**counts, "files": sorted(done.files), "bytes": total})
        return
    click.echo(f"{done.path} has {done.items:,} items as {done.format}: {', '.join(done.files)}, {total:,} bytes")
