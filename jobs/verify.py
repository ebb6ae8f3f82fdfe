"""`gifdex verify`: check every byte of an index against its manifest."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from gifdex.jobs.console import PlaceOption, StageProgress, print_json

_EPILOG = """\b
Example:
  gifdex verify ws/index && echo intact
"""


@click.command("verify", epilog=_EPILOG)
@click.argument("store", type=PlaceOption(file_okay=True))
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(store: Path | str, as_json: bool) -> None:
    """Hash every file of STORE (a store's published version, or one version) and open it.

    Exits with 1 and one sentence at the first file that differs from the manifest.
    """
    from gifdex.index.artifact import verify
    from gifdex.index.opening import local_version, open_index

    version = local_version(store)
    with StageProgress(Console(stderr=True)).shown() as progress:
        manifest = verify(version, progress)
    index = open_index(version)
    for engine in index.engines:
        index.prepare(engine)
    total = sum(file.bytes for file in manifest.files.values())
    if as_json:
        print_json({"path": str(version), "build_id": manifest.build_id, "files": len(manifest.files), "bytes": total})
        return
    click.echo(f"{version} is intact: {len(manifest.files)} files, {total:,} bytes, {manifest.items:,} items")
