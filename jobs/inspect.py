"""`gifdex inspect`: what an index is made of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from gifdex.jobs.console import PathOption, facts_table, print_json, print_table

_EPILOG = """\b
Examples:
  gifdex inspect ws/index
  gifdex inspect ws/index/5a1d4f3b9c2e7f60 --json
"""


@click.command("inspect", epilog=_EPILOG)
@click.argument("store", type=PathOption())
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as one JSON object.")
def command(store: Path, as_json: bool) -> None:
    """Show what the manifest of STORE (a store or one version) says, without reading the other files."""
    from gifdex.index.artifact import check_sizes, read_manifest
    from gifdex.index.store import resolve

    version = resolve(store)
    manifest = read_manifest(version)
    check_sizes(version, manifest)
    if as_json:
        print_json({"path": str(version), **asdict(manifest)})
        return
    engine = manifest.engine
    facts = {
        "path": version,
        "format": f"{manifest.format} {manifest.format_version}, by {manifest.created_by}",
        "items": f"{manifest.items:,} in {len(manifest.shards)} shard(s)",
        "vectors": f"{manifest.dimensions} dimensions, {manifest.metric}",
        "image encoder": f"{manifest.image_encoder.name} ({manifest.image_encoder.fingerprint})",
        "text encoder": f"{manifest.text_encoder.name} ({manifest.text_encoder.fingerprint})",
        "projection": f"{manifest.projection.kind} ({manifest.projection.fingerprint})",
        "engine": f"{engine.name} {engine.library_version}, {engine.trees} trees, seed {engine.seed}",
        "engine recall": f"{manifest.quality.engine_recall:.3f} @{manifest.quality.k}, of {manifest.quality.queries} "
        "stored vectors",
    }
    facts |= {name: f"{file.bytes:,} bytes, sha256 {file.sha256[:16]}..." for name, file in manifest.files.items()}
    print_table(facts_table(facts))
