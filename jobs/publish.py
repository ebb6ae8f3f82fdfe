"""`gifdex publish`: make a version the current one."""

from __future__ import annotations

from pathlib import Path

import click

from gifdex.jobs.console import PathOption, print_json, stage_progress

_EPILOG = """\b
Examples:
  gifdex publish ws/index 4f0c1c2b7c1d9a3e
  gifdex publish ws/index 4f0c1c2b7c1d9a3e --json
"""


@click.command("publish", epilog=_EPILOG)
@click.argument("store", type=PathOption(file_okay=False))
@click.argument("version")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(store: Path, version: str, as_json: bool) -> None:
    """Make VERSION the one that STORE answers with, after checking every byte of it.

    The quality gate of `gifdex nightly` is not asked. `gifdex versions` lists what can be published.
    """
    from gifdex.index import artifact
    from gifdex.index import store as stores

    before = stores.current(store) if (store / stores.POINTER_NAME).exists() else None
    with stage_progress(False) as progress:
        stores.check_finished(store, version)
        artifact.verify(store / version, progress)
    stores.publish(store, version)
    if as_json:
        print_json({"store": str(store), "published": version, "previous": before})
    else:
        click.echo(f"published {version}" + (f", before it {before}" if before not in (None, version) else ""))
