"""`gifdex rollback`: publish what was published before."""

from __future__ import annotations

from pathlib import Path

import click

from gifdex.jobs.console import PathOption, print_json

_EPILOG = """\b
Examples:
  gifdex rollback ws/index
  gifdex rollback ws/index && gifdex rollback ws/index     # two versions back
"""


@click.command("rollback", epilog=_EPILOG)
@click.argument("store", type=PathOption(file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(store: Path, as_json: bool) -> None:
    """Publish the version of STORE that was published before the current one; again, the one before that.

    `gifdex nightly` does not publish a version that was rolled back from; `gifdex publish` does.
    """
    from gifdex.index import store as stores

    before = stores.current(store)
    now = stores.rollback(store)
    if as_json:
        print_json({"store": str(store), "published": now, "previous": before})
    else:
        click.echo(f"published {now}, before it {before}")
