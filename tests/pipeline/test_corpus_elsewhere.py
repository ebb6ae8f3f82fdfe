"""A corpus on an object store, read through Beam's filesystems."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from gifdex.index.store.place import Place
from gifdex.pipeline.build import build
from gifdex.pipeline.corpus import list_corpus
from gifdex.pipeline.settings import BuildSettings
from gifdex.schemas.errors import MissingExtraError

if TYPE_CHECKING:
    from tests.pipeline.conftest import GifWriter
    from tests.s3_server import S3Server


@pytest.fixture
def beams_own_options() -> Iterator[None]:
    """Restore Beam's filesystem options, which are global to the process."""
    yield
    FileSystems.set_options(PipelineOptions([]))


@pytest.mark.usefixtures("beams_own_options")
def test_a_corpus_on_s3_is_built_and_not_read_again_next_time(
    s3: S3Server, write_gif: GifWriter, small_models: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("boto3", reason="the extra s3 is not installed")
    place = Place.of(s3.url("gifs"))
    for number in range(3):
        place.put(write_gif(tmp_path / "local.gif", seed=number, frames=2).read_bytes(), "deep", f"g{number}.gif")
    place.put(b"GIF89a no more", "broken.gif")
    beam = (f"--s3_endpoint_url=http://127.0.0.1:{s3.port}", "--s3_region_name=us-east-1")
    settings = BuildSettings("s3://bucket/gifs", tmp_path / "ws", beam_options=beam, **small_models)
    summary = build(settings)
    assert (summary.run.items, summary.run.encoded, summary.run.rejects) == (3, 3, 1)
    assert "s3://bucket/gifs/broken.gif" in summary.run.example_rejects["DecodeError"]
    again = build(settings)
    assert (again.build_id, again.run.tried, again.run.unchanged) == (summary.build_id, 0, 4)
    catalog = tmp_path / "some.jsonl"
    catalog.write_text(json.dumps({"uri": "s3://bucket/gifs/deep/g1.gif"}) + "\n")
    assert build(BuildSettings(str(catalog), tmp_path / "ws", beam_options=beam, **small_models)).run.reused == 1


def test_a_missing_object_store_library_is_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(MissingExtraError, match=r"boto3.*gifdex\[s3\]"):
        list_corpus("s3://bucket/gifs/")
    catalog = tmp_path / "some.jsonl"
    catalog.write_text(json.dumps({"uri": "gs://bucket/a.gif"}) + "\n")
    with pytest.raises(MissingExtraError, match=r"google.cloud.storage.*gifdex\[gcs\]"):
        list_corpus(str(catalog))
