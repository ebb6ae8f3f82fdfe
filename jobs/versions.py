"""`gifdex versions`: list the versions of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gifdex.jobs.console import PlaceOption, print_json, print_table, table
from gifdex.jobs.stores import open_store

_EPILOG = """\b
Examples:
  gifdex versions ws/index
  gifdex versions s3://bucket/index
  gifdex versions ws/index --json | jq -r 'select(.current) | .version'
"""


@click.command("versions", epilog=_EPILOG)
@click.argument("store", type=PlaceOption())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per version.")
def command(store: Path | str, as_json: bool) -> None:
    """List the versions of STORE, newest first, and when each was last published (UTC)."""
    with open_store(store) as opened:
        rows = _rows(opened.folder)
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
            "" if row["items"] is None else f"{row['items']:,}",
            row["engine"] or "damaged",
            "" if row["recall"] is None else f"{row['recall']:.4f}",
            "" if row["bytes"] is None else f"{row['bytes'] / 1e6:,.1f}",
        )
    print_table(shown)


def _rows(store: Path) -> list[dict[str, Any]]:
    from gifdex.index import artifact
    from gifdex.index import store as stores
    from gifdex.index.field_records import main_field
    from gifdex.schemas.errors import ArtifactError, IndexNotFoundError

    known = stores.finished(store)
    if not known:
        raise IndexNotFoundError(f"{store} has no finished version; expected an index store: build one first")
    now, published = stores.known_current(store), {entry.build_id: entry for entry in stores.history(store)}
    rows = []
    for version in known:
        entry = published.get(version)
        row: dict[str, Any] = {
            "version": version,
            "current": version == now,
            "built": stores.built(store, version).isoformat("T", "seconds"),
            "published": None if entry is None else entry.at.isoformat("T", "seconds"),
            "forced": [] if entry is None else list(entry.refused),
        }
        try:
            manifest = artifact.read_manifest(store / version)
            answering = manifest.fields[main_field(manifest.fields)]
            row |= {
                "items": manifest.items,
                "engine": answering.engine,
                "recall": None if answering.engine is None else answering.engines[answering.engine].recall,
                "bytes": sum(file.bytes for file in manifest.files.values()),
                "damaged": None,
            }
        except ArtifactError as err:
            row |= {"items": None, "engine": None, "recall": None, "bytes": None, "damaged": str(err)}
        rows.append(row)
    return rows
