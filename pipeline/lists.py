"""The lists of a run: the catalog, the items to index, and the rejects with their reasons."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gifdex.pipeline.encode import Encoded
from gifdex.pipeline.scan import Scan
from gifdex.pipeline.workspace import FINGERPRINT_KEY, Workspace
from gifdex.schemas import tables
from gifdex.schemas.errors import CorpusError
from gifdex.schemas.files import commit_table


@dataclass(frozen=True)
class Lists:
    """The catalog (schema CATALOG), the items that have features (ITEMS) and the rejects (REJECTS), each by id."""

    catalog: pa.Table
    items: pa.Table
    rejects: pa.Table

    @property
    def duplicates(self) -> int:
        """How many items were left out as near duplicates of others."""
        return len(self.catalog) - int(self.catalog["duplicate_of"].null_count)


def split(scanned: Scan, encoded: Encoded, strict: bool) -> Lists:
    """Separate the items with features from the rejects of both stages; with `strict`, partial items are rejects.

    Raises CorpusError if no item is left.
    """
    found, damaged = encoded.rejects, encoded.damaged
    if strict:
        because = "only the beginning of the file is good, and --strict rejects that: it"
        found = found | {sha256: ("DecodeError", f"{because} {damage}") for sha256, damage in damaged.items()}
        damaged = {}
    catalog = _with_damage(scanned.catalog, damaged)
    failed = pc.is_in(catalog["sha256"], pa.array(found, pa.string()))
    items = catalog.filter(pc.invert(failed)).select(tables.ITEMS.names)
    rows = [
        {**row, "stage": "encode", "error": error, "reason": reason}
        for row in catalog.filter(failed).select(["id", "uri", "sha256"]).to_pylist()
        for error, reason in [found[row["sha256"]]]
    ]
    rejects = pa.concat_tables([scanned.rejects, pa.Table.from_pylist(rows, schema=tables.REJECTS)])
    if not len(items):
        raise _no_items(rejects)
    return Lists(catalog, items, rejects.sort_by("id"))


def _with_damage(catalog: pa.Table, damaged: Mapping[str, str]) -> pa.Table:
    """Return the catalog with a description of the damage of partial items."""
    damage = [damaged.get(sha256) for sha256 in catalog["sha256"].to_pylist()]
    place = tables.CATALOG.get_field_index("damage")
    return catalog.set_column(place, tables.CATALOG.field(place), pa.array(damage, pa.string()))


def _no_items(rejects: pa.Table) -> CorpusError:
    examples = {row["error"]: f"{row['uri']}: {row['reason']}" for row in reversed(rejects.to_pylist())}
    counts = Counter(rejects["error"].to_pylist())
    reasons = "; ".join(f"{error} ({counts[error]:,}), such as {example}" for error, example in examples.items())
    return CorpusError(
        f"none of the {len(rejects):,} files could be indexed, so nothing was published: {reasons}; check the "
        "corpus and the options"
    )


def recipe_id(recipe: Mapping[str, Any], items: pa.Table) -> str:
    """Return a hash of a recipe (JSON values) and its items (schema ITEMS), as 16 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for batch in items.to_batches(max_chunksize=65_536):
        for row in batch.to_pylist():
            digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def commit_lists(workspace: Workspace, build_id: str, lists: Lists, fingerprint: str) -> None:
    """Write the catalog and the rejects of the run, then delete the results of the scan."""
    catalog = lists.catalog.replace_schema_metadata({FINGERPRINT_KEY: fingerprint})
    commit_table(workspace.catalog(build_id), catalog)
    commit_table(workspace.rejects(build_id), lists.rejects)
    for path in workspace.scan.glob("*.parquet"):
        path.unlink()
