"""`gifdex versions`: what a store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gifdex.jobs.console import PlaceOption, print_json, print_table, table
from gifdex.jobs.stores import store_at

_EPILOG = """\b
Examples:
  gifdex versions ws/index
  gifdex versions s3://bucket/index
  gifdex versions ws/index --json | jq -r 'select(.current) | .version'
"""


@click.command("versions", epilog=_EPILOG)
@click.argument("store", type=PlaceOption())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a version.")
def command(store: Path | str, as_json: bool) -> None:
    """List the versions of STORE, the newest first, and when each was last published (UTC)."""
    with store_at(store) as folder:
        rows = _rows(folder)
    if as_json:
        for row in rows:
            print_json(row)
        return
    shown = table("", "version", "built", "published", "items", "engine", "recall@10", "MB", numbers=("items", "MB"))
    for row in rows:
        shown.add_row(
            "current" if row["current"] else "",
            row["version"],
            row["built"][:19].replace("T", " "),
            (row["published"] or "never")[:19].replace("T", " "),
            f"{row['items']:,}",
            row["engine"],
            "" if row["recall"] is None else f"{row['recall']:.4f}",
            f"{row['bytes'] / 1e6:,.1f}",
        )
    print_table(shown)


def _rows(store: Path) -> list[dict[str, Any]]:
    from gifdex.index import artifact
    from gifdex.index import store as stores
    from gifdex.schemas.errors import IndexNotFoundError

    known = stores.finished(store)
    if not known:
        raise IndexNotFoundError(f"{store} has no finished version; expected an index store: build one first")
    now, published = stores.current(store), {entry.build_id: entry for entry in stores.history(store)}
    rows = []
    for version in known:
        manifest, entry = artifact.read_manifest(store / version), published.get(version)
        rows.append(
            {
                "version": version,
                "current": version == now,
                "built": stores.built(store, version).isoformat("T", "seconds"),
                "published": None if entry is None else entry.at.isoformat("T", "seconds"),
                "forced": [] if entry is None else list(entry.refused),
                "items": manifest.items,
                "engine": manifest.engine,
                "recall": manifest.engines[manifest.engine].quality.recall.get("10"),
                "bytes": sum(file.bytes for file in manifest.files.values()),
            }
        )
    return rows
