"""Versions written by earlier releases: they must open, verify and answer as they did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gifdex
from gifdex.index import artifact

GOLDEN = Path(__file__).parent / "golden"
FORMATS = pytest.mark.parametrize("number", [1, 2, 3, 4])


def version(number: int) -> Path:
    return next(path for path in (GOLDEN / f"format-{number}").iterdir() if path.is_dir())


@FORMATS
def test_golden_version_verifies(number: int) -> None:
    manifest = artifact.verify(version(number))
    assert manifest.format_version == number
    assert json.loads((version(number) / "manifest.json").read_text())["format_version"] == number


@FORMATS
@pytest.mark.parametrize("verify", [True, False])
def test_golden_version_answers_as_it_did(number: int, verify: bool) -> None:
    opened = gifdex.open(version(number), verify=verify)
    answers = json.loads((GOLDEN / f"format-{number}" / "answers.json").read_text())
    for answer in answers:
        if isinstance(answer["query"], str):
            continue
        query, fields = np.array(answer["query"]), answer.get("fields")
        has_engines = fields is None or ("image" in fields and "frames" not in fields)
        engines = opened.engines if has_engines else ()
        ways: list[dict[str, Any]] = [{"exact": True}]
        ways += [{"engine": engine, "num_candidates": 140} for engine in engines]
        for how in ways:
            hits = opened.search(query, 10, fields=fields, **how)
            assert [hit.id for hit in hits] == [hit["id"] for hit in answer["hits"]]
            np.testing.assert_allclose([h.score for h in hits], [h["score"] for h in answer["hits"]], atol=2e-7)
            assert [(hit.uri, hit.metadata) for hit in hits] == [(h["uri"], h["metadata"]) for h in answer["hits"]]
        cats = [hit.id for hit in opened.search(query, 600, fields=fields, where={"tag": "cat"})]
        all_hits = opened.search(query, 600, fields=fields, exact=True)
        assert cats == [hit.id for hit in all_hits if hit.metadata.get("tag") == "cat"]


def test_format_1_opens_as_trees_over_full_vectors() -> None:
    image = gifdex.open(version(1)).manifest.fields["image"]
    assert (image.reduction, image.engine, set(image.engines)) == (None, "scan", {"annoy", "scan"})
    annoy = image.engines["annoy"]
    assert (annoy.metric, annoy.dimensions, annoy.parameters["trees"], annoy.num_candidates) == ("angular", 8, 5, 200)
    assert annoy.vector_recall.at == {"10": 1.0}


def test_format_3_has_fields_shared_rows_and_items_without_a_row() -> None:
    manifest = gifdex.open(version(3)).manifest
    rows = {name: (field.rows, field.dtype, field.engine) for name, field in manifest.fields.items()}
    assert rows == {
        "image": (548, "float32", "hnsw"),
        "caption": (282, "float32", "hnsw"),
        "features": (541, "float16", None),
    }
    assert (manifest.items, manifest.fields["image"].reduction is not None) == (600, True)


def test_format_4_has_frames_words_a_classifier_and_percentiles() -> None:
    opened = gifdex.open(version(4))
    manifest = opened.manifest
    assert opened.fields == ("image", "caption", "features", "frames", "text")
    assert (manifest.items, manifest.duplicates) == (600, 3)
    assert manifest.text is not None
    assert manifest.text.columns == ("caption", "id", "tags", "title")
    assert manifest.fields["image"].calibration is not None
    assert [tag.word for tag in opened.tags(id="gif-000")] == ["cat", "dog", "bird"]
    answers = json.loads((GOLDEN / "format-4" / "answers.json").read_text())
    asked = [answer for answer in answers if isinstance(answer["query"], str)]
    assert len(asked) == 3
    for answer in asked:
        hits = opened.search(answer["query"], 10, fields=answer["fields"])
        assert [(hit.id, round(hit.score, 4)) for hit in hits] == [
            (hit["id"], round(hit["score"], 4)) for hit in answer["hits"]
        ]
    moments = [hit["moments"] for answer in answers for hit in answer["hits"] if "frames" in answer["fields"]]
    again = [
        hit.moments
        for answer in answers
        if "frames" in answer["fields"]
        for hit in opened.search(np.array(answer["query"]), 10, fields=answer["fields"], exact=True)
    ]
    assert any(moments)
    assert [[moment[:2] for moment in own] for own in moments] == [
        [[moment.milliseconds, moment.frame] for moment in own] for own in again
    ]


def test_the_words_index_of_format_4_answers_as_it_did() -> None:
    (found,) = (path for path in (GOLDEN / "words-4").iterdir() if path.is_dir())
    assert artifact.verify(found).fields.keys() == {"word"}
    opened = gifdex.open(found)
    for answer in json.loads((GOLDEN / "words-4" / "answers.json").read_text()):
        near = opened.words(answer["word"], 5)
        assert [word.word for word in near] == [word for word, _ in answer["words"]]
        np.testing.assert_allclose([word.score for word in near], [score for _, score in answer["words"]], atol=2e-7)
