"""Manifests of formats 1 and 2: their translation, and the one error for damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gifdex
from gifdex.index.artifact import parse_manifest
from gifdex.schemas.errors import CorruptIndexError, FormatVersionError
from gifdex.schemas.manifest import FORMAT_VERSION, MANIFEST_NAME, RecallRecord, ReductionRecord, ShardRecord

GOLDEN = Path(__file__).parent / "golden"
FORMATS = pytest.mark.parametrize("number", [1, 2])
WHERE = "store/1/manifest.json"
# The keys that earlier releases read, so their manifests must have them.
NAMES = {
    1: ["items", "dimensions", "engine", "shards", "quality"],
    2: ["items", "dimensions", "engine", "engines", "reduction", "shards"],
}
BOTH = ["created_by", "build_id", "metric", "image_encoder", "features_fingerprint", "text_encoder"]
BOTH += ["projection", "items_file", "files"]


def version(number: int) -> Path:
    return next(path for path in (GOLDEN / f"format-{number}").iterdir() if path.is_dir())


def text(number: int) -> str:
    return (version(number) / MANIFEST_NAME).read_text(encoding="utf-8")


def parsed(number: int) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text(number))
    return value


def put(value: Any, path: list[str | int], new: object) -> None:
    for step in path[:-1]:
        value = value[step]
    value[path[-1]] = new


def test_format_1_becomes_one_field_whose_scan_reads_full_vectors() -> None:
    manifest = parse_manifest(text(1), WHERE)
    assert list(manifest.fields) == ["image"]
    image = manifest.fields["image"]
    assert manifest.projection is not None
    assert (image.space.name, image.space.fingerprint) == ("joint", manifest.projection.fingerprint)
    assert (image.dtype, image.rows, image.dimensions) == ("float32", manifest.items, parsed(1)["dimensions"])
    scan = image.engines["scan"]
    assert (scan.num_candidates, scan.metric, scan.vector_recall) == (manifest.items, "ip", RecallRecord(0, {}))
    firsts = [shard.first_item for shard in image.shards]
    assert firsts == [sum(shard.items for shard in image.shards[:at]) for at in range(len(image.shards))]
    for shard, first in zip(image.shards, parsed(1)["shards"], strict=True):
        assert shard.engines == {"annoy": first["annoy"], "scan": first["vectors"]}


def test_format_2_becomes_one_field_with_a_row_for_each_item() -> None:
    old, manifest = parsed(2), parse_manifest(text(2), WHERE)
    image = manifest.fields["image"]
    assert (image.rows, image.dimensions, image.engine) == (old["items"], old["dimensions"], old["engine"])
    assert image.reduction == ReductionRecord(**old["reduction"])
    first = 0
    for shard, given_ in zip(image.shards, old["shards"], strict=True):
        engines = {**given_["engines"], "scan": given_["engines"]["annoy"]}
        assert shard == ShardRecord(first, given_["items"], given_["items"], given_["vectors"], None, engines)
        first += shard.items
    for name, engine in image.engines.items():
        before = old["engines"][name]
        assert engine.num_candidates == before["effort"]
        assert engine.vector_recall == RecallRecord(before["quality"]["queries"], before["quality"]["recall"])
        assert engine.sentence_recall is None


@FORMATS
def test_a_missing_key_in_an_old_manifest_is_named(number: int) -> None:
    for name in NAMES[number] + BOTH:
        value = parsed(number)
        del value[name]
        with pytest.raises(CorruptIndexError, match=rf"^{WHERE} is damaged \(manifest\.{name} is missing\)"):
            parse_manifest(json.dumps(value), WHERE)


@pytest.mark.parametrize(
    ("number", "path", "wrong", "message"),
    [
        (1, ["engine"], "annoy", r"manifest\.engine is 'annoy', expected dict"),
        (1, ["engine", "trees"], 5.0, r"manifest\.engine\.trees is 5\.0, expected int"),
        (1, ["shards", 0, "annoy"], None, r"manifest\.shards\[0\]\.annoy is None, expected str"),
        (1, ["items"], "60", r"manifest\.items is '60', expected int"),
        (1, ["quality", "engine_recall"], "1", r"manifest\.quality\.engine_recall is '1', expected float"),
        (2, ["engine"], None, r"manifest\.engine is None, expected str"),
        (2, ["engines", "scan", "effort"], "9", r"manifest\.engines\.scan\.effort is '9', expected int"),
        (2, ["engines", "annoy", "quality", "recall", "10"], [], r"quality\.recall\.10 is \[\], expected float"),
        (2, ["reduction"], [], r"manifest\.reduction is \[\], expected dict"),
        (2, ["shards", 1, "engines"], [], r"manifest\.shards\[1\]\.engines is \[\], expected dict"),
        (2, ["shards", 1, "engines"], {}, "is damaged"),
        (2, ["shards"], {}, r"manifest\.shards is \{\}, expected list"),
    ],
)
def test_a_wrong_type_in_an_old_manifest_is_named_with_its_path(
    number: int, path: list[str | int], wrong: object, message: str
) -> None:
    value = parsed(number)
    put(value, path, wrong)
    with pytest.raises(CorruptIndexError, match=message) as caught:
        parse_manifest(json.dumps(value), WHERE)
    assert str(caught.value).startswith(f"{WHERE} is damaged")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data(), number=st.sampled_from([1, 2]), value=_json)
def test_any_value_in_an_old_manifest_is_read_or_refused(data: st.DataObject, number: int, value: Any) -> None:
    manifest: Any = parsed(number)
    place = manifest
    while True:
        steps = list(place) if isinstance(place, dict) else list(range(len(place)))
        step = data.draw(st.sampled_from(steps))
        if not isinstance(place[step], dict | list) or not place[step] or data.draw(st.booleans()):
            break
        place = place[step]
    place[step] = value
    try:
        parse_manifest(json.dumps(manifest), WHERE)
    except (CorruptIndexError, FormatVersionError):
        return


@settings(max_examples=100, deadline=None, derandomize=True)
@given(number=st.sampled_from([1, 2]), share=st.floats(0, 0.999))
def test_a_truncated_old_manifest_is_corrupt(number: int, share: float) -> None:
    whole = text(number).rstrip()
    with pytest.raises(CorruptIndexError, match=WHERE):
        parse_manifest(whole[: int(share * len(whole))], WHERE)


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (1, lambda value: value.update(items=59)),
        (1, lambda value: value.update(dimensions=7)),
        (1, lambda value: value.update(metric="euclidean")),
        (1, lambda value: value["shards"].pop()),
        (1, lambda value: value["shards"][0].update(annoy="items.parquet")),
        (1, lambda value: value["engine"].update(metric="dot")),
        (2, lambda value: value.update(items=value["items"] + 1)),
        (2, lambda value: value.update(engine="faiss")),
        (2, lambda value: value.update(reduction=None)),
        (2, lambda value: value["shards"].clear()),
        (2, lambda value: value["shards"][0].update(items=0)),
        (2, lambda value: value["engines"]["annoy"].update(effort=0)),
        (2, lambda value: value["engines"].pop("annoy")),
        (2, lambda value: value["shards"][0]["engines"].pop("hnsw")),
        (2, lambda value: value["files"].pop("reduction.safetensors")),
    ],
)
def test_an_old_manifest_that_does_not_fit_its_files_is_refused(
    tmp_path: Path, number: int, change: Callable[[dict[str, Any]], object]
) -> None:
    copy = shutil.copytree(version(number), tmp_path / version(number).name)
    value = parsed(number)
    change(value)
    (copy / MANIFEST_NAME).write_text(json.dumps(value))
    with pytest.raises(CorruptIndexError):
        gifdex.open(copy)


@FORMATS
def test_a_future_format_is_not_reported_as_damage(number: int) -> None:
    value = parsed(number) | {"format_version": FORMAT_VERSION + 1}
    with pytest.raises(FormatVersionError, match="upgrade gifdex"):
        parse_manifest(json.dumps(value), WHERE)
