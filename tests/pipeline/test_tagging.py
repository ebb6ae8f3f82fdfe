"""Builds with --tags: classes become metadata, beside the catalog's own tags."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import gifdex
from gifdex.index.lookup import Index
from gifdex.pipeline.settings import IndexSettings
from gifdex.schemas.errors import CorpusError, EncoderError

if TYPE_CHECKING:
    from tests.pipeline.conftest import Built, Runner

TAGS = IndexSettings(tags=3, min_tag_probability=0)


def catalog_of(built: Built, path: Path, tags: list[Any]) -> Path:
    gifs = sorted(built.corpus.glob("g*.gif"))[: len(tags)]
    rows = [{"uri": str(gif), "id": gif.stem, "tags": own} for gif, own in zip(gifs, tags, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def build(built: Built, tmp_path: Path, run: Runner) -> Callable[..., Index]:
    """Return a function that builds a corpus in a copy of the workspace, where its GIFs are encoded already."""
    workspace = built.copy_workspace(tmp_path)

    def built_index(corpus: Path, settings: IndexSettings) -> Index:
        summary = run(corpus, workspace, index=settings)
        assert summary.run.encoded == 0
        return gifdex.open(workspace / "index")

    return built_index


def tags_of(index: Index) -> dict[str, list[str] | None]:
    return {key: index.search("a cat", 1, where={"id": key})[0].metadata.get("tags") for key in index.ids}


def test_tags_are_the_most_probable_classes_and_filter(built: Built, build: Callable[..., Index]) -> None:
    index = build(built.corpus, IndexSettings(tags=3, min_tag_probability=0, keep_features=True))
    found = tags_of(index)
    for key, tags in found.items():
        assert tags == [tag.word for tag in index.tags(3, id=key)]  # from features in half the bytes
    wanted = (found["g00"] or [""])[0]
    having = {key for key, tags in found.items() if tags and wanted in tags}
    assert {hit.id for hit in index.search("a cat", 50, where={"tags": wanted})} == having


def test_features_need_not_be_kept_and_the_settings_are_part_of_the_version(
    built: Built, build: Callable[..., Index]
) -> None:
    index = build(built.corpus, TAGS)
    assert index.fields == ("image", "text")
    assert {len(tags or []) for tags in tags_of(index).values()} == {3}
    none = build(built.corpus, IndexSettings(tags=3, min_tag_probability=1))
    assert set(tags_of(none).values()) == {None}
    ids = {index.manifest.build_id, none.manifest.build_id, build(built.corpus, IndexSettings()).manifest.build_id}
    assert len(ids) == 3
    assert built.summary.build_id in ids


def test_the_catalogs_own_tags_stay_in_front(built: Built, build: Callable[..., Index], tmp_path: Path) -> None:
    first = tags_of(build(built.corpus, TAGS))["g03"] or []
    own = [["mine", "yours"], "one tag", None, [first[1].upper()], [], ""]
    found = tags_of(build(catalog_of(built, tmp_path / "catalog.jsonl", own), TAGS))
    assert [(tags or [])[: len(tags or []) - 3] for tags in list(found.values())[:3]] == [
        ["mine", "yours"], ["one tag"], [],
    ]  # fmt: skip
    assert found["g03"] == [first[1].upper(), first[0], first[2]]
    assert [len(found[key] or []) for key in ("g04", "g05")] == [3, 3]


@pytest.mark.parametrize("own", [7, ["a", 7], {"a": "b"}])
def test_tags_that_are_no_strings_are_refused(
    built: Built, build: Callable[..., Index], tmp_path: Path, own: Any
) -> None:
    catalog = catalog_of(built, tmp_path / "catalog.jsonl", ["fine", own])
    with pytest.raises(CorpusError, match=r"the item 'g01' has the tags .* in the catalog, and --tags can only append"):
        build(catalog, TAGS)
    build(catalog, IndexSettings())


def test_an_encoder_without_a_classifier_is_refused(
    built: Built, tmp_path: Path, run: Runner, small_models: dict[str, Any]
) -> None:
    settings = IndexSettings(projection=small_models["index"].projection, tags=3)
    with pytest.raises(EncoderError, match="has no classifier, which --tags needs"):
        run(built.corpus, tmp_path / "ws", encode=small_models["encode"], index=settings)


@pytest.mark.parametrize("wrong", [{"tags": -1}, {"min_tag_probability": 1.5}, {"min_tag_probability": float("nan")}])
def test_a_setting_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        IndexSettings(**wrong)
