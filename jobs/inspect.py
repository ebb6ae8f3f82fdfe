"""`gifdex inspect`: what an index is made of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gifdex.jobs.console import PlaceOption, pairs_table, print_json, print_table

if TYPE_CHECKING:
    from gifdex.schemas.manifest import EngineFacts

_EPILOG = """\b
Examples:
  gifdex inspect ws/index
  gifdex inspect ws/index/5a1d4f3b9c2e7f60 --json
"""


def _described(engine: EngineFacts) -> str:
    """Return one line on an engine."""
    told = "".join(f", {name} {value:,}" for name, value in engine.parameters.items())
    found = ", ".join(f"{share:.3f} @{k}" for k, share in engine.quality.recall.items())
    return (
        f"{engine.library} {engine.library_version}, {engine.dimensions} dimensions{told}; effort {engine.effort:,}: "
        f"recall {found or 'not measured'}, {engine.quality.queries_per_second:,.0f} queries/s"
    )


@click.command("inspect", epilog=_EPILOG)
@click.argument("store", type=PlaceOption(file_okay=True))
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as one JSON object.")
def command(store: Path | str, as_json: bool) -> None:
    """Show what the manifest of STORE (a store or one version) says, without reading the other files."""
    from gifdex.index.artifact import check_sizes, read_manifest
    from gifdex.index.opening import located

    version = located(store)
    manifest = read_manifest(version)
    check_sizes(version, manifest)
    if as_json:
        print_json({"path": str(version), **asdict(manifest)})
        return
    reduction = manifest.reduction
    facts = {
        "path": version,
        "format": f"{manifest.format} {manifest.format_version}, by {manifest.created_by}",
        "items": f"{manifest.items:,} in {len(manifest.shards)} shard(s)",
        "vectors": f"{manifest.dimensions} dimensions, {manifest.metric}",
        "image encoder": f"{manifest.image_encoder.name} ({manifest.image_encoder.fingerprint})",
        "text encoder": f"{manifest.text_encoder.name} ({manifest.text_encoder.fingerprint})",
        "projection": f"{manifest.projection.kind} ({manifest.projection.fingerprint})",
        "reduction": "none" if reduction is None else f"{reduction.dimensions} principal directions",
        "answers": manifest.engine,
    }
    facts |= {f"engine {name}": _described(engine) for name, engine in manifest.engines.items()}
    facts |= {name: f"{file.bytes:,} bytes, sha256 {file.sha256[:16]}..." for name, file in manifest.files.items()}
    print_table(pairs_table(facts))
