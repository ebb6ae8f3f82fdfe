"""`gifdex rollback`: publish the previous version again."""

from __future__ import annotations

from pathlib import Path

import click

from gifdex.jobs.console import PlaceOption, print_json
from gifdex.jobs.stores import open_store

_EPILOG = """\b
Examples:
  gifdex rollback ws/index
  gifdex rollback ws/index && gifdex rollback ws/index     # two versions back
  gifdex rollback s3://bucket/index
"""


@click.command("rollback", epilog=_EPILOG)
@click.argument("store", type=PlaceOption())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(store: Path | str, as_json: bool) -> None:
    """Publish the version of STORE that was published before the current one.

    Every byte of it is checked first. Damaged versions, and those that were rolled back earlier, are skipped; so a
    second rollback goes back one version more. `gifdex nightly` does not publish a version that was rolled back;
    `gifdex publish` does.
    """
    from gifdex.index import store as stores

    with open_store(store) as opened:
        now, before = stores.rollback(opened.folder, opened.verify)
    if as_json:
        print_json({"store": opened.shown, "published": now, "previous": before})
    else:
        click.echo(f"published {now}, before it {before}")
