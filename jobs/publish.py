"""`gifdex publish`: make a version the current one."""

from __future__ import annotations

from pathlib import Path

import click

from gifdex.jobs.console import PlaceOption, print_json, stage_progress
from gifdex.jobs.stores import open_store

_EPILOG = """\b
Examples:
  gifdex publish ws/index 4f0c1c2b7c1d9a3e
  gifdex publish s3://bucket/index 4f0c1c2b7c1d9a3e --json
"""


@click.command("publish", epilog=_EPILOG)
@click.argument("store", type=PlaceOption())
@click.argument("version")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(store: Path | str, version: str, as_json: bool) -> None:
    """Make VERSION the current version of STORE, after checking every byte of it.

    This bypasses the quality gate of `gifdex nightly`. `gifdex versions` lists what can be published.
    """
    from gifdex.index import store as stores

    with open_store(store) as opened:
        with stage_progress(False) as progress:
            stores.check_finished(opened.folder, version)
            opened.verify(version, progress)
        before = stores.publish(opened.folder, version)
    if as_json:
        print_json({"store": opened.shown, "published": version, "previous": before})
    else:
        click.echo(f"published {version}" + (f", before it {before}" if before not in (None, version) else ""))
