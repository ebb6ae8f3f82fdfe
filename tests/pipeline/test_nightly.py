"""The nightly run: changes between nights, refusals by the gate, and pruning."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gifdex.encoders.frames.limits import Sampling
from gifdex.encoders.settings import EncodeSettings
from gifdex.index import artifact, store
from gifdex.index.opening import open_index
from gifdex.pipeline import prune as pruning
from gifdex.pipeline.build import build
from gifdex.pipeline.nightly import make_plan, nightly, read_status, record_status
from gifdex.pipeline.run import RunSummary
from gifdex.pipeline.settings import BuildSettings, GateSettings
from gifdex.pipeline.workspace import catalog_fingerprint
from gifdex.schemas.errors import ConfigError
from tests.pipeline.nights import GIFS
from tests.progress import RecordedProgress

if TYPE_CHECKING:
    from tests.pipeline.nights import Nights


def test_a_second_night_without_a_change_reports_unchanged_and_publishes_nothing(nights: Nights) -> None:
    before = store.current(nights.store)
    summary = nights.run()
    assert (summary.outcome, summary.build_id, summary.previous) == ("unchanged", before, before)
    assert (summary.build.run.tried, summary.build.run.unchanged, summary.build.index_reused) == (0, GIFS, True)
    assert len(store.history(nights.store)) == 1


def test_a_night_encodes_only_what_is_new_as_the_plan_predicts(nights: Nights) -> None:
    nights.add("g0", 100)  # changed
    nights.add("new", 101)
    shutil.copy(nights.gif("g1"), nights.gif("copy"))
    nights.rows["copy"] = {"id": "copy", "uri": str(nights.gif("copy")), "caption": "a copy"}
    nights.move("g2", "moved")
    nights.remove("g3")
    nights.rows["g4"]["caption"] = "another caption"
    plan = make_plan(nights.settings().build)
    assert (plan.new, plan.changed, plan.moved, plan.duplicated, plan.deleted, plan.edited) == (1, 1, 1, 1, 1, 1)
    assert (plan.items, plan.to_encode, plan.encoder_changed, plan.notice) == (GIFS + 1, 2, False, None)
    assert plan.seconds is not None
    assert store.current(nights.store) == store.finished(nights.store)[0]  # nothing was built
    summary = nights.run()
    assert (summary.build.run.tried, summary.build.run.encoded, summary.outcome) == (2, 2, "published")
    ids = open_index(nights.store).ids
    assert sorted(ids) == ["copy", "g0", "g1", "g4", "g5", "g6", "g7", "moved", "new"]


def test_the_cost_of_another_encoder_is_announced_before_encoding(nights: Nights) -> None:
    changed = nights.settings(encode=EncodeSettings(sampling=Sampling(frames=1)))
    progress = RecordedProgress()
    plan = make_plan(changed.build)
    assert (plan.encoder_changed, plan.to_encode) == (True, GIFS)
    summary = nightly(changed, progress)
    assert progress.notices == [plan.notice]
    assert f"efficientnet-lite0 encodes {GIFS} GIFs again, in about" in progress.notices[0]
    assert summary.build.run.encoded == GIFS


def test_another_projection_encodes_nothing(nights: Nights) -> None:
    (path,) = nights.workspace.projections.iterdir()
    from gifdex.encoders import projections
    from gifdex.pipeline.settings import IndexSettings

    known = projections.load(path)
    tensors = {name: tensor * (2 if name == "classifier_bias" else 1) for name, tensor in known.tensors.items()}
    other = projections.make(known.kind, tensors, known.metadata)
    other.save(nights.root / "other.safetensors")
    summary = nights.run(index=IndexSettings(projection=nights.root / "other.safetensors"))
    assert (summary.build.run.tried, summary.outcome, summary.build.index_reused) == (0, "published", False)


def lose_three(nights: Nights) -> None:
    for number in range(3):
        nights.remove(f"g{number}")


def spoil_two(nights: Nights) -> None:
    for number in range(2):
        nights.gif(f"g{number}").write_text("no GIF")


GATES: dict[str, tuple[Callable[[Nights], None], dict[str, Any], str]] = {
    "max_shrink": (
        lose_three,
        {},
        rf"it has 5 items and the published version \w+ has {GIFS}: 37.5% fewer; the limit is 20.0%",
    ),
    "max_rejects": (
        spoil_two,
        {"max_shrink": 1.0},
        rf"2 of {GIFS} files are rejects \(25.0%\), more than 20.0%; such as UnsupportedFormatError: .*g0.gif",
    ),
    "min_recall": (lambda nights: nights.add("new", 200), {"min_recall": 1.1}, "recall@10 of the engine .* below 1.1"),
}


@pytest.mark.parametrize("rule", GATES)
def test_the_gate_refuses_a_version_that_breaks_a_rule_and_keeps_it_for_inspection(nights: Nights, rule: str) -> None:
    spoil, gate, reason = GATES[rule]
    before = store.current(nights.store)
    spoil(nights)
    summary = nights.run(gate=gate)
    assert (summary.outcome, list(summary.refused)) == ("refused", [rule])
    assert pytest.importorskip("re").search(reason, summary.refused[rule])
    assert store.current(nights.store) == before
    assert artifact.verify(nights.store / summary.build_id).build_id == summary.build_id
    forced = nights.run(gate=gate, force=True)
    assert (forced.outcome, forced.build_id, list(forced.refused)) == ("published", summary.build_id, [rule])
    assert store.history(nights.store)[-1].refused == (rule,)


def test_max_rejects_of_at_least_one_is_a_count(nights: Nights) -> None:
    nights.gif("g0").write_text("no GIF")
    assert nights.run(gate={"max_rejects": 1}).outcome == "published"
    nights.gif("g1").write_text("no GIF")
    assert list(nights.run(gate={"max_rejects": 1}).refused) == ["max_rejects"]


def test_canaries_must_find_their_item(nights: Nights) -> None:
    canaries = nights.root / "canaries.jsonl"
    best = open_index(nights.store).search("a dog", 2)
    canaries.write_text(json.dumps({"sentence": "a dog", "id": best[0].id, "k": 1}) + "\n")
    nights.add("new", 300)
    assert "canaries" not in nights.run(gate={"canaries": canaries, "max_shrink": 1.0}).refused
    canaries.write_text(
        json.dumps({"sentence": "a dog", "id": best[1].id, "k": 1})
        + "\n"
        + json.dumps({"sentence": "a dog", "id": best[0].id})
        + "\n"
        + json.dumps({"sentence": "a dog", "id": "g00"})
        + "\n"
    )
    nights.add("newer", 301)
    summary = nights.run(gate={"canaries": canaries})
    assert list(summary.refused) == ["canaries"]
    assert summary.refused["canaries"].startswith(
        f"2 of 3 canaries failed: 'a dog' does not find {best[1].id} among its 1 hits; the first is"
    )
    assert "'a dog' should find g00, but no item has that id, did you mean g0?" in summary.refused["canaries"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "are empty"),
        ("{", "line 1 of .* is not JSON"),
        ('{"sentence": "a dog"}', "a line of the canaries"),
        ('{"sentence": "a dog", "id": "x", "k": 0}', "a line of the canaries"),
        ('{"sentence": "a dog", "id": "x", "K": 3}', "a line of the canaries"),
        (None, "cannot read the canaries"),
    ],
)
def test_unreadable_canaries_stop_the_run_before_any_work(nights: Nights, line: str | None, message: str) -> None:
    canaries = nights.root / "bad.jsonl"
    if line is not None:
        canaries.write_text(line)
    with pytest.raises(ConfigError, match=message):
        nights.run(gate={"canaries": canaries})


def test_a_version_that_fails_verification_is_refused(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    from gifdex.pipeline import gate

    build_id = store.current(nights.store) or ""
    path = nights.store / build_id / "image-00000.vectors.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (refusal,) = gate.check(nights.store, build_id, RunSummary(items=GIFS), GateSettings())
    assert refusal.rule == "files"
    assert "image-00000.vectors.npy has SHA-256" in refusal.reason


def test_a_rolled_back_version_is_not_published_again_automatically(nights: Nights) -> None:
    first = store.current(nights.store)
    nights.add("new", 400)
    second = nights.run().build_id
    assert store.rollback(nights.store, lambda version: artifact.verify(nights.store / version)) == (first, second)
    again = nights.run()
    assert (again.outcome, again.build_id, list(again.refused)) == ("refused", second, ["rolled_back"])
    assert store.current(nights.store) == first
    store.publish(nights.store, second)
    assert nights.run().outcome == "unchanged"


def test_nights_keep_the_given_number_of_versions_and_only_the_features_they_need(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [store.current(nights.store)]
    for number in range(4):
        if number:
            nights.remove(f"only{number - 1}")
        nights.add(f"only{number}", 500 + number)
        nights.backdate()
        made.append(nights.run(keep=2).build_id)
    nights.backdate()
    last = nights.run(keep=2)
    assert store.finished(nights.store) == made[:-3:-1]
    assert sorted(path.name for path in nights.workspace.builds.iterdir()) == sorted(str(one) for one in made[-2:])
    parts = list(nights.workspace.features.glob("*/*/*.parquet"))
    assert len(parts) == 3  # one of the first night and two of the last two; those of only0 and only1 are gone
    assert last.outcome == "unchanged"
    assert open_index(nights.store).search("a dog")


def test_pruning_keeps_what_a_killed_run_encoded(nights: Nights) -> None:
    (known,) = nights.workspace.features.glob("*/*/*.parquet")
    newer = known.with_name("0123456789abcdef.parquet")
    shutil.copy(known, newer)
    catalog = nights.workspace.newest_catalog()
    assert catalog is not None
    later = catalog.stat().st_mtime + 10
    os.utime(newer, (later, later))
    stray = nights.workspace.features / ("0" * 16) / "all" / "x.parquet"
    stray.parent.mkdir(parents=True)
    shutil.copy(known, stray)
    os.utime(stray, (1, 1))
    with nights.workspace.locked():
        summary = pruning.prune(nights.workspace, 3, timedelta(0))
    assert summary.parts == 1
    assert newer.exists()
    assert known.exists()
    assert not stray.parent.parent.exists()


def test_features_are_kept_when_a_catalog_does_not_name_its_fingerprint(nights: Nights) -> None:
    import pyarrow.parquet as pq

    catalog = nights.workspace.newest_catalog()
    assert catalog is not None
    assert (
        catalog_fingerprint(catalog)
        == artifact.read_manifest(nights.store / catalog.parents[1].name).features_fingerprint
    )
    pq.write_table(pq.read_table(catalog).replace_schema_metadata(None), catalog)
    stray = nights.workspace.features / ("0" * 16) / "all" / "x.parquet"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"")
    os.utime(stray, (1, 1))
    with nights.workspace.locked():
        assert pruning.prune(nights.workspace, 3, timedelta(0)).parts == 0
    assert stray.exists()


def test_leftovers_of_killed_runs_are_pruned(nights: Nights) -> None:
    unfinished = nights.store / ("f" * 16)
    (unfinished / "sub").mkdir(parents=True)
    (unfinished / "image-00000.ann").write_bytes(b"x" * 1000)
    (nights.workspace.builds / ("f" * 16)).mkdir()
    (nights.workspace.features / ".tmp-1-x").write_bytes(b"")
    with nights.workspace.locked():
        summary = pruning.prune(nights.workspace, 3)
    assert (summary.versions, summary.builds, summary.unfinished) == (["f" * 16], ["f" * 16], 1)
    assert not unfinished.exists()
    assert summary.bytes >= 1000


def test_the_status_keeps_the_last_success_after_failures(nights: Nights) -> None:
    good = record_status(nights.workspace.root, "published", None)
    assert good.last_success == good.finished
    bad = record_status(nights.workspace.root, "failed", "why")
    assert (bad.outcome, bad.error, bad.last_success) == ("failed", "why", good.last_success)
    assert read_status(nights.workspace)["last_success"] == good.last_success
    nights.workspace.status.write_text("{")
    assert read_status(nights.workspace) == {}


def test_the_index_after_many_changes_equals_one_built_from_scratch(nights: Nights, tmp_path: Path) -> None:
    nights.add("g0", 600)
    nights.add("new", 601)
    nights.remove("g1")
    nights.move("g2", "moved")
    nights.rows["g3"]["caption"] = "edited"
    summary = nights.run()
    fresh = build(BuildSettings(nights.settings().build.corpus, tmp_path / "fresh"))
    assert fresh.build_id == summary.build_id
    ours, theirs = nights.store / summary.build_id, tmp_path / "fresh" / "index" / summary.build_id
    assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in theirs.iterdir())
    for path in ours.iterdir():
        if path.name != "manifest.json":
            assert path.read_bytes() == (theirs / path.name).read_bytes(), path.name
    assert artifact.read_manifest(ours).files == artifact.read_manifest(theirs).files


def test_a_published_version_is_pushed_and_old_versions_there_are_pruned(nights: Nights, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    made = []
    for number in range(3):
        nights.add("g0", 700 + number)
        summary = nights.run(keep=1, push=str(copy))
        made.append(summary.build_id)
        assert summary.pushed["version"] == store.current(copy) == summary.build_id
        path = copy / store.HISTORY_NAME
        rows = [json.loads(line) | {"at": "2020-01-01T00:00:00+00:00"} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert summary.pushed["pruned"] == [made[0]]  # the second one was current until just now
    assert len(open_index(copy, verify=True)) == GIFS
    nights.rows = dict(list(nights.rows.items())[:4])
    refused = nights.run(push=str(copy))
    assert (refused.outcome, refused.pushed["copied"], store.current(copy)) == ("refused", 0, made[2])
