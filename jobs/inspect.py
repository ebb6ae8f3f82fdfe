"""`gifdex inspect`: show what an index is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gifdex.jobs.console import PlaceOption, pairs_table, print_json, print_table

if TYPE_CHECKING:
    from gifdex.schemas.manifest import EngineRecord, FieldRecord, Manifest, RecallRecord

_EPILOG = """\b
Examples:
  gifdex inspect ws/index
  gifdex inspect ws/index --measure
  gifdex inspect ws/index/5a1d4f3b9c2e7f60 --json
"""


def _recall(name: str, found: RecallRecord | None) -> str:
    if found is None or not found.at:
        return f"{name} not measured"
    return f"{name} {', '.join(f'{share:.3f} @{k}' for k, share in found.at.items())}"


def _engine_line(engine: EngineRecord, speed: float | None) -> str:
    """Describe an engine in one line."""
    parameters = "".join(f", {name} {value}" for name, value in engine.parameters.items())
    found = f"{_recall('vectors', engine.vector_recall)}; {_recall('sentences', engine.sentence_recall)}"
    return (
        f"{engine.library} {engine.library_version}, {engine.dimensions} dimensions{parameters}; "
        f"{engine.num_candidates:,} candidates: recall of {found}"
        + ("" if speed is None else f"; {speed:,.0f} queries/s")
    )


def _field_lines(name: str, field: FieldRecord, speeds: Mapping[str, float]) -> dict[str, str]:
    """Describe a field in named lines."""
    reduced = "not reduced" if field.reduction is None else f"reduced to {field.reduction.dimensions}"
    lines = {
        f"field {name}": f"{field.rows:,} rows in {len(field.shards)} shard(s), {field.dimensions} dimensions of "
        f"{field.dtype} in the space {field.space.name} ({field.space.fingerprint}), {reduced}; default engine: "
        f"{field.engine or 'none, every row is scored'}"
    }
    return lines | {
        f"{name}: engine {engine}": _engine_line(record, speeds.get(engine)) for engine, record in field.engines.items()
    }


def _made_by(manifest: Manifest) -> dict[str, str]:
    """Describe the encoders and the projection; a words index has only a text encoder."""
    image, text, projection = manifest.image_encoder, manifest.text_encoder, manifest.projection
    return {
        **({} if image is None else {"image encoder": f"{image.name} ({image.fingerprint})"}),
        "text encoder": f"{text.name} ({text.fingerprint})",
        **({} if projection is None else {"projection": f"{projection.kind} ({projection.fingerprint})"}),
    }


@click.command("inspect", epilog=_EPILOG)
@click.argument("store", type=PlaceOption(file_okay=True))
@click.option("--measure", is_flag=True, help="Measure each engine's speed here: queries per second in one thread.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as one JSON object.")
def command(store: Path | str, measure: bool, as_json: bool) -> None:
    """Show the manifest of STORE (a store or one version) without reading the other files."""
    from gifdex.index.artifact import check_sizes, read_manifest
    from gifdex.index.opening import local_version

    version = local_version(store)
    manifest = read_manifest(version)
    check_sizes(version, manifest)
    speeds: Mapping[str, Mapping[str, float]] = {}
    if measure:
        from gifdex.index.opening import open_index
        from gifdex.index.speed import queries_per_second

        speeds = queries_per_second(open_index(version))
    if as_json:
        print_json({"path": str(version), **asdict(manifest), **({"queries_per_second": speeds} if measure else {})})
        return
    lines = {
        "path": str(version),
        "format": f"{manifest.format} {manifest.format_version}, by {manifest.created_by}",
        "items": f"{manifest.items:,}"
        + (f" (near duplicates left out: {manifest.duplicates:,})" if manifest.duplicates else ""),
        **_made_by(manifest),
    }
    for name, field in manifest.fields.items():
        lines |= _field_lines(name, field, speeds.get(name, {}))
    if manifest.text is not None:
        lines["field text"] = (
            f"words of {manifest.text.items:,} items, from {', '.join(manifest.text.columns)}; engine fts, SQLite "
            f"{manifest.text.library_version}"
        )
    lines |= {name: f"{file.bytes:,} bytes, sha256 {file.sha256[:16]}..." for name, file in manifest.files.items()}
    print_table(pairs_table(lines))
