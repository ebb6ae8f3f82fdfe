"""The manifest: it is read back as written, and an invalid one is an error that names the place."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.schemas.errors import CorruptIndexError, FormatVersionError
from gifdex.schemas.manifest import (
    FORMAT,
    FORMAT_VERSION,
    EncoderRecord,
    EngineRecord,
    FeaturesRecord,
    FieldRecord,
    FileRecord,
    Manifest,
    ProjectionRecord,
    RecallRecord,
    ReductionRecord,
    ShardRecord,
    SpaceRecord,
    TextRecord,
)

WHERE = "store/20260101/manifest.json"

RECALL = RecallRecord(5, {"10": 0.5})
ANNOY = EngineRecord("annoy", "1.17.3", "angular", 64, {"trees": 50, "seed": 7}, 40, RECALL, RecallRecord(9, {}))
SHARDS = (
    ShardRecord(0, 3, 2, "a.npy", "a.rows.arrow", {"annoy": "a.ann"}),
    ShardRecord(3, 2, 2, "b.npy", None, {"annoy": "b.ann"}),
)
JOINT = SpaceRecord("joint", "abcd")

MANIFEST = Manifest(
    format=FORMAT,
    format_version=FORMAT_VERSION,
    created_by="gifdex 0.1.0",
    build_id="20260101T000000-0a1b2c",
    items=5,
    metric="cosine",
    image_encoder=EncoderRecord("efficientnet-lite0", "00ff", 1280),
    features_fingerprint="0123",
    text_encoder=EncoderRecord("use-multilingual", "ff00", 512),
    projection=ProjectionRecord("zero-shot", "abcd", "projection.safetensors"),
    items_file="items.arrow",
    fields={
        "image": FieldRecord(
            JOINT, 512, "float32", 4, SHARDS, ReductionRecord(64, 20_000, "r"), "annoy", {"annoy": ANNOY}
        ),
        "features": FieldRecord(SpaceRecord("lite0", "00ff"), 1280, "float16", 2, SHARDS[:1], None, None, {}),
    },
    features=FeaturesRecord("uniform", 8, "float32", None),
    classifier="classifier.safetensors",
    duplicates=3,
    text=TextRecord("text.sqlite", 4, ("caption", "id", "tags"), "3.40.1"),
    files={"a.ann": FileRecord(10, "aa"), "b.ann": FileRecord(20, "bb")},
)

# 64-bit counts, and every character except surrogates; no NaN because it never equals itself
_counts = st.integers(0, 2**63)
_texts = st.text(max_size=12)
_numbers = st.floats(allow_nan=False, allow_infinity=False)
_encoders = st.builds(EncoderRecord, _texts, _texts, _counts)
_recalls = st.builds(RecallRecord, _counts, st.dictionaries(_texts, _numbers, max_size=3))
_engines = st.builds(
    EngineRecord,
    _texts,
    _texts,
    _texts,
    _counts,
    st.dictionaries(_texts, st.integers(), max_size=3),
    _counts,
    _recalls,
    st.none() | _recalls,
)
_shards = st.builds(
    ShardRecord,
    _counts,
    _counts,
    _counts,
    _texts,
    st.none() | _texts,
    st.dictionaries(_texts, _texts, max_size=2),
)
_fields = st.builds(
    FieldRecord,
    st.builds(SpaceRecord, _texts, _texts),
    _counts,
    _texts,
    _counts,
    st.lists(_shards, max_size=3).map(tuple),
    st.none() | st.builds(ReductionRecord, _counts, _counts, _texts),
    st.none() | _texts,
    st.dictionaries(_texts, _engines, max_size=3),
)
_manifests = st.builds(
    Manifest,
    format=st.just(FORMAT),
    format_version=st.just(FORMAT_VERSION),
    created_by=_texts,
    build_id=_texts,
    items=_counts,
    metric=_texts,
    image_encoder=_encoders,
    features_fingerprint=_texts,
    text_encoder=_encoders,
    projection=st.builds(ProjectionRecord, _texts, _texts, _texts),
    items_file=_texts,
    fields=st.dictionaries(_texts, _fields, max_size=2),
    files=st.dictionaries(_texts, st.builds(FileRecord, _counts, _texts), max_size=3),
    features=st.none() | st.builds(FeaturesRecord, _texts, _counts, _texts, st.none() | _texts),
    classifier=st.none() | _texts,
    duplicates=_counts,
    text=st.none() | st.builds(TextRecord, _texts, _counts, st.lists(_texts, max_size=3).map(tuple), _texts),
)


IMAGE = ["fields", "image"]
ENGINE = [*IMAGE, "engines", "annoy"]


def parsed() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(MANIFEST.to_json())
    return value


def read(value: Any) -> Manifest:
    return Manifest.from_json(json.dumps(value), WHERE, {})


@settings(max_examples=100, deadline=None, derandomize=True)
@given(manifest=_manifests)
def test_a_manifest_survives_the_round_trip_through_json(manifest: Manifest) -> None:
    text = manifest.to_json()
    again = Manifest.from_json(text, WHERE, {})
    assert again == manifest
    assert again.to_json() == text


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _texts,
    lambda inner: st.lists(inner) | st.dictionaries(_texts, inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(value=_json, name=st.sampled_from([field.name for field in dataclasses.fields(Manifest)]))
def test_any_value_in_any_field_is_read_exactly_or_refused(value: Any, name: str) -> None:
    changed = parsed() | {name: value}
    try:
        manifest = read(changed)
    except (CorruptIndexError, FormatVersionError):
        return
    assert json.loads(manifest.to_json())[name] == value


def test_an_unknown_field_of_a_later_minor_release_is_ignored() -> None:
    assert read(parsed() | {"a field of tomorrow": [1]}) == MANIFEST


OPTIONAL = {"features": None, "classifier": None, "duplicates": 0, "text": None}


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_manifest_of_an_earlier_release_lacks_optional_fields(name: str) -> None:
    value = parsed()
    del value[name]
    assert json.loads(read(value).to_json()) == parsed() | {name: OPTIONAL[name]}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Manifest)][2 : -len(OPTIONAL)])
def test_a_missing_field_is_named(name: str) -> None:
    value = parsed()
    del value[name]
    with pytest.raises(CorruptIndexError, match=rf"^{WHERE} is damaged \(manifest\.{name} is missing\)"):
        read(value)


def test_a_missing_nested_field_is_named_with_its_path() -> None:
    value = parsed()
    del value["fields"]["image"]["shards"][1]["vectors"]
    with pytest.raises(CorruptIndexError, match=r"manifest\.fields\.image\.shards\[1\]\.vectors is missing"):
        read(value)
    value = parsed()
    del value["files"]["b.ann"]["sha256"]
    with pytest.raises(CorruptIndexError, match=r"manifest\.files\.b\.ann\.sha256 is missing"):
        read(value)


@pytest.mark.parametrize(
    ("path", "wrong", "message"),
    [
        (["items"], "5", r"manifest\.items is '5', expected int"),
        (["items"], 5.0, r"manifest\.items is 5\.0, expected int"),
        (["items"], True, r"manifest\.items is True, expected int"),
        (["items"], None, r"manifest\.items is None, expected int"),
        (["build_id"], 7, r"manifest\.build_id is 7, expected str"),
        (["fields"], [], r"manifest\.fields is \[\], expected dict"),
        (["fields", "image"], "x", r"manifest\.fields\.image is 'x', expected dict"),
        ([*IMAGE, "space"], "joint", r"fields\.image\.space is 'joint', expected dict"),
        ([*IMAGE, "space", "fingerprint"], None, r"fields\.image\.space\.fingerprint is None, expected str"),
        ([*IMAGE, "engine"], [], r"fields\.image\.engine is \[\], expected str"),
        ([*IMAGE, "engines"], [], r"fields\.image\.engines is \[\], expected dict"),
        ([*ENGINE, "parameters", "seed"], "x", r"engines\.annoy\.parameters\.seed is 'x', expected int"),
        ([*IMAGE, "reduction"], 7, r"fields\.image\.reduction is 7, expected dict"),
        ([*IMAGE, "reduction", "sample"], None, r"fields\.image\.reduction\.sample is None, expected int"),
        ([*IMAGE, "shards"], {}, r"fields\.image\.shards is \{\}, expected list"),
        ([*IMAGE, "shards", 0], "x", r"fields\.image\.shards\[0\] is 'x', expected dict"),
        ([*IMAGE, "shards", 1, "row_items"], 7, r"fields\.image\.shards\[1\]\.row_items is 7, expected str"),
        ([*ENGINE, "vector_recall"], None, r"annoy\.vector_recall is None, expected dict"),
        ([*ENGINE, "vector_recall", "at", "10"], "1", r"vector_recall\.at\.10 is '1', expected float"),
        ([*ENGINE, "sentence_recall", "queries"], 1.5, r"sentence_recall\.queries is 1\.5, expected int"),
        pytest.param([*ENGINE, "vector_recall", "at", "10"], 10**400, "too large", id="10**400"),
        (["files"], [], r"manifest\.files is \[\], expected dict"),
        (["files", "a.ann", "bytes"], "10", r"manifest\.files\.a\.ann\.bytes is '10', expected int"),
    ],
)
def test_a_wrong_type_is_named_with_its_path(path: list[str | int], wrong: object, message: str) -> None:
    value = parsed()
    target: Any = value
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = wrong
    with pytest.raises(CorruptIndexError, match=message) as caught:
        read(value)
    assert str(caught.value).startswith(f"{WHERE} is damaged")


def test_a_long_wrong_value_is_shortened_in_the_message() -> None:
    with pytest.raises(CorruptIndexError) as caught:
        read(parsed() | {"items": "x" * 100_000})
    assert len(str(caught.value)) < 300


def test_recall_may_be_an_integer() -> None:
    value = parsed()
    value["fields"]["image"]["engines"]["annoy"]["vector_recall"]["at"]["10"] = 1
    recall = read(value).fields["image"].engines["annoy"].vector_recall.at["10"]
    assert (recall, type(recall)) == (1.0, float)


def test_a_newer_format_asks_for_an_upgrade_even_if_the_rest_is_unknown() -> None:
    with pytest.raises(FormatVersionError, match=rf"^{WHERE} has format version {FORMAT_VERSION + 1}.*upgrade gifdex"):
        Manifest.from_json(json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION + 1}), WHERE, {})


@pytest.mark.parametrize("version", [None, "1", 1.0, 0, -1, [1], True])
def test_a_format_version_that_is_not_an_integer_is_corrupt(version: object) -> None:
    with pytest.raises(CorruptIndexError, match=WHERE):
        read(parsed() | {"format_version": version})


@pytest.mark.parametrize("text", ["[]", "null", "{}", '"gifdex-index"', '{"format": "voyager"}', '{"format": null}'])
def test_json_of_something_else_is_an_error_that_says_what_was_expected(text: str) -> None:
    with pytest.raises(CorruptIndexError, match=rf'^{WHERE} is not the manifest of a gifdex index.*"{FORMAT}"'):
        Manifest.from_json(text, WHERE, {})


@pytest.mark.parametrize("text", ["", "{", "not json", "\ufeff{}", "[" * 100_000, '{"items": ' + "9" * 5000 + "}"])
def test_text_that_is_not_json_is_corrupt(text: str) -> None:
    with pytest.raises(CorruptIndexError, match=rf"^{WHERE} is not JSON"):
        Manifest.from_json(text, WHERE, {})


@settings(max_examples=60, deadline=None, derandomize=True)
@given(length=st.integers(0, len(MANIFEST.to_json()) - 2))
def test_a_truncated_manifest_is_corrupt(length: int) -> None:
    with pytest.raises(CorruptIndexError, match=WHERE):
        Manifest.from_json(MANIFEST.to_json()[:length], WHERE, {})


def test_the_recall_of_an_engine_is_its_lowest_measurement() -> None:
    found = [None, RecallRecord(0, {}), RecallRecord(5, {"10": 0.9})]
    stored = [RecallRecord(0, {}), RecallRecord(5, {"10": 0.5}), RecallRecord(5, {"10": 1.0})]
    recalls = [[dataclasses.replace(ANNOY, vector_recall=v, sentence_recall=s).recall for s in found] for v in stored]
    assert recalls == [[None, None, 0.9], [0.5, 0.5, 0.5], [1.0, 1.0, 0.9]]


def test_an_older_format_is_upgraded_one_step_at_a_time() -> None:
    def to_2(value: dict[str, Any]) -> dict[str, Any]:
        return {**value, "items": value["things"]}

    def to_3(value: dict[str, Any]) -> dict[str, Any]:
        return {**value, "metric": "cosine"}

    def unchanged(value: dict[str, Any]) -> dict[str, Any]:
        return value

    old = parsed() | {"format_version": 1, "things": 5}
    del old["items"], old["metric"]
    manifest = Manifest.from_json(json.dumps(old), WHERE, {1: to_2, 2: to_3, 3: unchanged})
    assert manifest == dataclasses.replace(MANIFEST, format_version=1)
    del old["things"]
    with pytest.raises(CorruptIndexError, match=rf"^{WHERE} is damaged \(things\)"):
        Manifest.from_json(json.dumps(old), WHERE, {1: to_2, 2: to_3, 3: unchanged})
