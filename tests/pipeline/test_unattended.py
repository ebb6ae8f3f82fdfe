"""Failures of unattended runs: NaN settings, damaged files, an unreachable bucket."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gifdex.index import artifact, store
from gifdex.pipeline.nightly import make_plan, nightly, record_status
from gifdex.pipeline.prune import prune
from gifdex.pipeline.settings import GateSettings
from gifdex.schemas.errors import ConfigError
from tests.pipeline.nights import GIFS
from tests.progress import CallbackProgress

if TYPE_CHECKING:
    from tests.pipeline.nights import Nights


@pytest.mark.parametrize("rule", ["min_recall", "max_shrink", "max_rejects"])
def test_nan_is_refused_as_a_rule(rule: str) -> None:
    with pytest.raises(ConfigError, match=rf"{rule} is nan; expected a number"):
        replace(GateSettings(), **{rule: math.nan})  # type: ignore[arg-type]  # all rules are numbers


def test_files_damaged_before_publication_are_refused_even_with_force(nights: Nights) -> None:
    before = store.current(nights.store)
    nights.add("new", 800)

    def corrupt(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("gate", 0):
            (newest,) = [name for name in store.finished(nights.store) if name != before]
            path = nights.store / newest / "items.arrow"
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)

    for force in (False, True):
        summary = nightly(nights.settings(force=force), CallbackProgress(corrupt))
        assert (summary.outcome, list(summary.refused)) == ("refused", ["files"])
        assert "items.arrow has SHA-256" in summary.refused["files"]
        assert store.current(nights.store) == before
    assert nights.run().outcome == "published"  # it was rebuilt


def test_a_shrunken_corpus_is_noticed_although_the_published_version_is_unreadable(nights: Nights) -> None:
    nights.add("new", 801)
    second = nights.run()
    (nights.store / second.build_id / "manifest.json").write_text("{")
    for number in range(4):
        nights.remove(f"g{number}")
    summary = nights.run()
    assert list(summary.refused) == ["max_shrink"]
    assert f"and the published version {second.previous} has {GIFS}" in summary.refused["max_shrink"]
    (nights.store / str(second.previous) / "manifest.json").unlink()
    nights.remove("g4")
    unknown = nights.run()
    assert "no published version can be read" in unknown.refused["max_shrink"]


def test_the_next_night_repairs_a_damaged_pointer(nights: Nights) -> None:
    current = store.current(nights.store)
    (nights.store / store.POINTER_NAME).write_text("?")
    summary = nights.run()
    assert (summary.outcome, summary.build_id, store.current(nights.store)) == ("published", current, current)


def test_a_current_version_that_breaks_a_rule_stays_and_force_is_recorded(nights: Nights) -> None:
    summary = nights.run(gate={"min_recall": 1.1})
    assert (summary.outcome, summary.previous) == ("refused", summary.build_id)
    forced = nights.run(gate={"min_recall": 1.1}, force=True)
    assert (forced.outcome, store.history(nights.store)[-1].refused) == ("unchanged", ("min_recall",))


def test_a_version_refused_this_night_is_kept_for_inspection(nights: Nights) -> None:
    old = nights.run(gate={"min_recall": 1.1}).build_id
    nights.add("new", 802)
    newer = nights.run(gate={"min_recall": 1.1}, keep=1).build_id
    nights.remove("new")
    nights.add("other", 803)
    assert nights.run(gate={"min_recall": 1.1}, keep=1).build_id in store.finished(nights.store)
    nights.remove("other")
    nights.add("new", 802)
    again = nights.run(gate={"min_recall": 1.1}, keep=1)  # not the newest refused version
    assert (again.build_id, again.build_id in store.finished(nights.store)) == (newer, True)
    assert old in store.finished(nights.store)


def test_a_damaged_catalog_only_means_reading_again(nights: Nights) -> None:
    catalog = nights.workspace.newest_catalog()
    assert catalog is not None
    catalog.write_bytes(catalog.read_bytes()[:100])
    plan = make_plan(nights.settings().build)
    assert (plan.new, plan.to_encode) == (GIFS, 0)
    nights.add("new", 804)
    summary = nights.run()
    assert (summary.outcome, summary.build.run.tried) == ("published", 1)


def test_damaged_features_are_pruned_and_encoded_again(nights: Nights) -> None:
    junk = next(nights.workspace.features.iterdir()) / "00" / "part-damaged.parquet"
    junk.parent.mkdir(exist_ok=True)
    junk.write_bytes(b"PAR1 no more")
    os.utime(junk, (1, 1))
    assert nights.run().outcome == "unchanged"
    assert not junk.exists()
    (real,) = nights.workspace.features.rglob("*.parquet")
    real.write_bytes(real.read_bytes()[:-100])
    again = nights.run()
    assert (again.outcome, again.build.run.tried, again.build.run.encoded) == ("unchanged", GIFS, GIFS)


def test_a_damaged_part_of_another_encoder_is_pruned(nights: Nights) -> None:
    junk = nights.workspace.features / "0123456789abcdef" / "all" / "part.parquet"
    junk.parent.mkdir(parents=True)
    junk.write_bytes(b"PAR1 no more")
    os.utime(junk, (1, 1))
    with nights.workspace.locked():
        prune(nights.workspace, 1, timedelta(0))
    assert not junk.exists()


def test_a_night_that_cannot_push_still_publishes_and_prunes_and_says_why(nights: Nights, tmp_path: Path) -> None:
    nights.add("new", 805)
    summary = nights.run(push="s3://bucket/index?endpoint_override=127.0.0.1:9&scheme=http&region=x")
    assert (summary.outcome, summary.pushed) == ("published", {})
    assert summary.not_pushed is not None
    assert "cannot read or write s3://bucket/index" in summary.not_pushed
    assert store.current(nights.store) == summary.build_id
    assert nights.workspace.statistics(summary.build_id).exists()
    copy = tmp_path / "copy"
    assert nights.run(push=str(copy)).pushed["version"] == summary.build_id


def test_the_next_night_pushes_a_rollback_to_the_copies(nights: Nights, tmp_path: Path) -> None:
    copy, first = tmp_path / "copy", store.current(nights.store)
    nights.add("new", 806)
    second = nights.run(push=str(copy))
    assert store.current(copy) == second.build_id
    store.rollback(nights.store, lambda version: artifact.verify(nights.store / version))
    again = nights.run(push=str(copy))
    assert (again.outcome, list(again.refused)) == ("refused", ["rolled_back"])
    assert store.current(copy) == first


def test_temporary_files_of_killed_writers_are_overwritten(nights: Nights) -> None:
    left = nights.workspace.root / ".tmp-status.json.part"
    left.write_text("half")
    record_status(nights.workspace.root, "published", None)
    assert not left.exists()
