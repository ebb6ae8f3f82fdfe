"""`gifdex publish`: make a version the current one."""

from __future__ import annotations

from pathlib import Path

import click

from gifdex.jobs.console import PlaceOption, print_json, stage_progress
from gifdex.jobs.stores import shown, store_at
from gifdex.schemas.files import is_url

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
    """Make VERSION the one that STORE answers with, after checking every byte of it.

    The quality gate of `gifdex nightly` is not asked. `gifdex versions` lists what can be published.
    """
    from gifdex.index import artifact
    from gifdex.index import store as stores

    with stage_progress(False) as progress:
        if is_url(store):
            from gifdex.index import shipping
            from gifdex.index.remote import Place

            shipping.verify(Place.of(str(store)), version, progress)
        else:
            stores.check_finished(Path(store), version)
            artifact.verify(Path(store) / version, progress)
    with store_at(store) as folder:
        before = stores.current(folder) if (folder / stores.POINTER_NAME).exists() else None
        stores.publish(folder, version)
    if as_json:
        print_json({"store": shown(store), "published": version, "previous": before})
    else:
        click.echo(f"published {version}" + (f", before it {before}" if before not in (None, version) else ""))
