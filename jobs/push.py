"""`gifdex push`: copy a version to another store."""

from __future__ import annotations

from pathlib import Path

import click

from gifdex.jobs.console import PlaceOption, print_json, stage_progress

_EPILOG = """\b
Examples:
  gifdex push ws/index s3://bucket/index
  gifdex push ws/index 's3://bucket/index?endpoint_override=minio.local:9000&scheme=http'
  gifdex push ws/index/4f0c1c2b7c1d9a3e gs://bucket/index
  gifdex push ws/index /mnt/shared/index --json
"""


@click.command("push", epilog=_EPILOG)
@click.argument("store", type=PlaceOption())
@click.argument("destination", type=PlaceOption())
@click.option("--checksum", is_flag=True, help="Read and hash existing files instead of trusting their sizes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(store: Path | str, destination: Path | str, checksum: bool, as_json: bool) -> None:
    """Copy the published version of STORE (or the version that STORE is) to DESTINATION, and publish it there.

    DESTINATION is a URL (s3://, gs://) or a folder. Existing files are not copied again, so an interrupted push
    continues; the pointer is written last. Services open it with gifdex.open(DESTINATION).
    """
    with stage_progress(False) as progress:
        from gifdex.index.opening import local_version
        from gifdex.index.store.push import push

        done = push(local_version(store), str(destination), progress, checksum=checksum)
    if as_json:
        print_json(done)
    else:
        click.echo(
            f"{done['version']} is published in {done['destination']}: {done['copied']} files "
            f"({done['copied_bytes'] / 1e6:,.1f} MB) copied, {done['there']} ({done['there_bytes'] / 1e6:,.1f} MB) "
            "already there"
        )
