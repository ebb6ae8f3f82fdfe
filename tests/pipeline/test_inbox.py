"""What searches fetch from a real server into the inbox, and what the next build makes of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import gifdex
from gifdex.index.inbox import Inbox
from gifdex.index.sources.addresses import AddressRules
from gifdex.index.sources.downloads import DownloadBudget
from gifdex.index.sources.giphy import GiphySource
from gifdex.index.sources.http import HttpOptions
from gifdex.pipeline.build import BuildSummary, build
from gifdex.pipeline.nightly import make_plan, nightly
from gifdex.pipeline.settings import BuildSettings, GateSettings, InboxSettings, NightlySettings
from gifdex.schemas.errors import ConfigError, WorkspaceError
from tests.index.sources.http_service import KEY, Service, serving
from tests.pipeline.conftest import GifWriter

CORPUS, SERVED = 6, 10
HTTP = HttpOptions(attempts=2, backoff_seconds=0.01, addresses=AddressRules(allow_private=True))
SENTENCE = "a cat playing the piano"


class Site:
    """A corpus of six GIFs, its workspace, an inbox, and a service with ten other GIFs."""

    def __init__(self, root: Path, service: Service, models: dict[str, Any]) -> None:
        self.root, self.service, self._models = root, service, models
        self.inbox = Inbox(root / "inbox")
        self.inbox.folder.mkdir(exist_ok=True)

    def settings(self, **inbox: Any) -> BuildSettings:
        chosen = InboxSettings(self.inbox.folder, **inbox)
        return BuildSettings(str(self.root / "corpus"), self.root / "ws", inbox=chosen, **self._models)

    def build(self, **inbox: Any) -> BuildSummary:
        return build(self.settings(**inbox))

    def outside(self, **changes: Any) -> gifdex.Outside:
        source = GiphySource(KEY, self.service.url(), options=HTTP)
        return gifdex.Outside(
            **{"source": source, "when": "always", "http": HTTP, "inbox": self.inbox.folder, **changes}
        )

    def search(self, k: int = 100, sentence: str = SENTENCE, **changes: Any) -> list[gifdex.Hit]:
        return gifdex.open(self.root / "ws" / "index").search(sentence, k, outside=self.outside(**changes))

    def ids(self) -> set[str]:
        return set(gifdex.open(self.root / "ws" / "index").ids)


@pytest.fixture
def site(tmp_path: Path, write_gif: GifWriter, small_models: dict[str, Any]) -> Iterator[Site]:
    for number in range(CORPUS):
        write_gif(tmp_path / "corpus" / f"g{number}.gif", seed=100 + number)
    with serving() as service:
        service.gifs = [write_gif(tmp_path / "served" / f"{n}.gif", seed=n).read_bytes() for n in range(SERVED)]
        made = Site(tmp_path, service, small_models)
        made.build()
        yield made


def test_the_next_build_holds_what_was_fetched_and_encodes_nothing(site: Site) -> None:
    hits = site.search()
    outside = {hit.id: hit.score for hit in hits if hit.source == "giphy"}
    assert set(outside) == {f"giphy/id{number}" for number in range(SERVED)}
    summary = site.build().run
    assert (summary.tried, summary.encoded, summary.items, summary.reused) == (0, 0, CORPUS + SERVED, 16)
    index = gifdex.open(site.root / "ws" / "index")
    found = {hit.id: hit for hit in index.search(SENTENCE, 100)}
    assert {key: found[key].score for key in outside} == pytest.approx(outside, abs=1e-6)
    one = found["giphy/id3"]
    assert one.source is None
    assert Path(one.uri).read_bytes() == site.service.gifs[3]
    assert one.metadata["outside_title"] == "GIF 3"
    assert one.metadata["outside_page_url"] == "https://giphy.com/gifs/id3"
    assert (one.metadata["outside_source"], one.metadata["outside_query"]) == ("giphy", SENTENCE)
    assert [hit.id for hit in index.search(SENTENCE, 100, where={"outside_source": "giphy"})] == [
        hit.id for hit in hits if hit.source
    ]
    assert {hit.source for hit in site.search()} == {None}  # the index holds them now


def test_a_build_that_encodes_everything_itself_gives_the_same_bytes(site: Site, contents: Any) -> None:
    site.search()
    taken_in = site.build()
    (site.root / "ws").rename(site.root / "first")
    for path in (site.inbox.folder / "features").rglob("*.parquet"):
        path.unlink()
    again = site.build()
    assert (again.run.encoded, again.build_id) == (CORPUS + SERVED, taken_in.build_id)
    first, second = (contents(site.root / name / "index" / again.build_id) for name in ("first", "ws"))
    assert first == second


def test_a_repeated_query_downloads_and_encodes_nothing(site: Site) -> None:
    first = site.search()
    asked = sum(site.service.asked.values())
    assert site.search() == first
    assert sum(site.service.asked.values()) == asked + 1  # the list of candidates alone


def test_what_the_corpus_has_is_left_out(site: Site) -> None:
    site.service.gifs[5] = (site.root / "corpus" / "g2.gif").read_bytes()
    assert len([hit for hit in site.search() if hit.source]) == SERVED - 1
    assert len(site.inbox.entries()) == SERVED - 1


def test_a_deleted_entry_leaves_the_next_index(site: Site) -> None:
    site.search()
    site.build()
    entries = {entry.id: entry for entry in site.inbox.entries()}
    (site.inbox.folder / entries["giphy/id1"].file).unlink()
    next(path for path in site.inbox.folder.glob("[0-9a-f]*.json") if '"giphy/id2"' in path.read_text()).unlink()
    summary = site.build().run
    assert (summary.items, summary.rejects, summary.encoded) == (CORPUS + SERVED - 2, 0, 0)
    assert not {"giphy/id1", "giphy/id2"} & site.ids()


def backdated(site: Site, days: dict[str, float]) -> None:
    for path in site.inbox.folder.glob("[0-9a-f]*.json"):
        entry = json.loads(path.read_text())
        when = datetime.now(UTC) - timedelta(days=days.get(entry["id"], 0))
        path.write_text(json.dumps(entry | {"fetched": when.isoformat("T", "seconds")}))


def make_older(site: Site) -> None:
    for path in site.inbox.folder.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 7200,) * 2)


def test_retention_deletes_the_old_and_what_is_too_much(site: Site) -> None:
    site.search()
    backdated(site, {f"giphy/id{number}": number for number in range(SERVED)})
    plan = make_plan(site.settings(max_days=4.5))
    assert (plan.items, plan.new, plan.to_encode) == (CORPUS + 5, 5, 0)
    assert len(site.inbox.entries()) == SERVED  # a plan deletes nothing
    make_older(site)
    site.build(max_days=4.5)
    assert {entry.id for entry in site.inbox.entries()} == {f"giphy/id{number}" for number in range(5)}
    sizes = [len(data) for data in site.service.gifs]
    site.build(max_bytes=sum(sizes[:3]))
    assert {entry.id for entry in site.inbox.entries()} == {f"giphy/id{number}" for number in range(3)}
    assert len(list(site.inbox.folder.glob("*.gif"))) == 3
    assert len(list(site.inbox.folder.rglob("*.parquet"))) == 3
    assert len(site.ids()) == CORPUS + 3


def test_a_night_takes_the_inbox_in_and_an_item_of_the_corpus_keeps_its_id(site: Site, write_gif: GifWriter) -> None:
    site.search()
    write_gif(site.root / "corpus" / "giphy" / "id4.gif", seed=77)
    summary = nightly(NightlySettings(site.settings()))
    assert (summary.outcome, summary.build.run.encoded) == ("published", 1)
    (hit,) = [hit for hit in gifdex.open(site.root / "ws" / "index").search(SENTENCE, 100) if hit.id == "giphy/id4"]
    assert hit.uri == str(site.root / "corpus" / "giphy" / "id4.gif")


def test_damaged_and_unfinished_files_in_the_inbox_are_passed_over_and_cleared_up(site: Site) -> None:
    site.search()
    entries = sorted(site.inbox.folder.glob("[0-9a-f]*.json"))
    entries[0].write_text("{}")
    entries[1].write_text(entries[1].read_text().replace('"file": "', '"file": "../../'))
    entries[2].write_bytes(b"\xff")
    left = [site.inbox.folder / name for name in (".tmp-abc-x.json", f"{'a' * 64}.gif")]
    for path in (*left, new := site.inbox.folder / f"{'b' * 64}.gif"):
        path.write_bytes(b"GIF89a")
    for path in left:
        os.utime(path, (time.time() - 7200,) * 2)
    part = next(iter((site.inbox.folder / "features").rglob("*.parquet")))
    part.write_bytes(b"PAR1 damaged")
    summary = site.build().run
    assert summary.items == CORPUS + SERVED - 3
    assert summary.encoded <= 1  # the one whose features were damaged
    assert not left[0].exists()
    assert left[1].exists()  # an entry that cannot be read may need it
    for path in entries[:3]:
        path.unlink()
    site.build()
    assert not left[1].exists()
    assert new.exists()  # its entry may be under way


def test_what_retention_expires_is_not_missing_for_the_gate_and_goes_after_publishing(site: Site) -> None:
    site.search()
    assert nightly(NightlySettings(site.settings())).outcome == "published"
    backdated(site, {f"giphy/id{number}": 40 for number in range(SERVED)})
    make_older(site)
    refused = nightly(NightlySettings(site.settings(max_days=30), GateSettings(min_recall=2)))
    assert refused.outcome == "refused"
    assert "max_shrink" not in refused.refused
    assert len(list(site.inbox.folder.glob("*.gif"))) == SERVED
    night = nightly(NightlySettings(site.settings(max_days=30)))
    assert (night.outcome, night.build.run.items) == ("published", CORPUS)
    assert not list(site.inbox.folder.glob("*.gif"))


def test_rejects_of_the_inbox_do_not_count_for_the_gate(site: Site) -> None:
    site.search()
    for path in list(site.inbox.folder.glob("*.gif"))[:7]:
        path.write_bytes(b"")
    night = nightly(NightlySettings(site.settings()))
    assert (night.outcome, night.build.run.rejects, night.build.run.inbox_rejects) == ("published", 7, 7)


def test_features_of_another_encoder_are_not_taken_in(site: Site) -> None:
    site.search()
    folder = next((site.inbox.folder / "features").iterdir())
    folder.rename(folder.with_name("0" * 16))
    assert site.build().run.encoded == SERVED


def test_an_inbox_that_is_not_there_is_an_error(site: Site) -> None:
    site.inbox.folder.rmdir()
    before = site.ids()
    with pytest.raises(WorkspaceError, match=r"there is no inbox .*; expected a folder: create it, mount it"):
        site.build()
    assert site.ids() == before
    with pytest.raises(ConfigError, match="max_days of the inbox is given, but no inbox is"):
        InboxSettings(max_days=3)


def test_an_inbox_that_cannot_be_written_costs_only_a_notice(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    (site.root / "file").write_text("")
    hits = site.search(inbox=site.root / "file")
    assert len([hit for hit in hits if hit.source]) == SERVED
    (message,) = caplog.messages
    assert message.startswith("the outside source giphy gave GIFs that could not be kept in the inbox")


ANSWERS = {
    "429": "/busy/3600", "500": "/status/500", "truncated": "/truncated/x", "huge": "/huge/x", "html": "/html/x",
    "silent": "/silent/x", "drip": "/drip/body", "loop": "/loop/x", "gone": "/status/404",
}  # fmt: skip


def candidates_at(service: Service, paths: dict[str, str]) -> None:
    """Let the service's search answer with GIFs at some paths, by id."""
    rows = [{"id": key, "images": {"original": {"url": service.url(path)}}} for key, path in paths.items()]
    service.answers["/v1/gifs/search"] = {"data": rows}


def test_files_of_a_server_that_misbehaves_cost_only_themselves(site: Site) -> None:
    candidates_at(site.service, {**ANSWERS, "good": "/gif/1", "copy": "/gif/1?again", "flaky": "/flaky/500/1"})
    started = time.monotonic()
    found = [hit for hit in site.search(budget=DownloadBudget(seconds=1.5)) if hit.source]
    assert time.monotonic() - started < 5
    assert {hit.id for hit in found} == {"giphy/flaky", min({"giphy/good", "giphy/copy"} & {hit.id for hit in found})}
    assert len(site.inbox.entries()) == 2
    assert site.build().run.rejects == 0


def test_a_file_that_cannot_be_decoded_is_not_kept(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.service.answers["/broken"] = b"GIF89a" + bytes(30)
    candidates_at(site.service, {"broken": "/broken"})
    assert [hit for hit in site.search() if hit.source] == []
    (message,) = caplog.messages
    assert message.startswith("the outside source giphy gave nothing that can be used, of 1; the first: ")
    assert site.inbox.entries() == []


def test_a_redirect_to_loopback_is_refused_unless_allowed(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    allowed = HttpOptions(addresses=AddressRules(private_hosts=frozenset({"127.0.0.1"})))
    inside = site.service.url("/gif/1", "localhost")
    candidates_at(site.service, {"a": f"/to/{inside}"})
    assert [hit for hit in site.search(http=allowed) if hit.source] == []
    (message,) = caplog.messages
    assert "localhost leads to 127.0.0.1, which is not a public address" in message.replace("::1", "127.0.0.1")
    assert site.service.asked["/gif/1"] == 0
    assert [hit for hit in site.search(http=None) if hit.source] == []  # the default allows no private address
    assert len([hit for hit in site.search() if hit.source]) == 1


@pytest.mark.parametrize("kind", ["429", "500", "truncated", "huge", "html", "silent", "drip"])
def test_a_service_that_misbehaves_leaves_the_indexes_own_answer(
    site: Site, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    source = GiphySource(KEY, site.service.url(ANSWERS[kind].replace("/x", "")), options=replace(HTTP, attempts=1))
    started = time.monotonic()
    hits = site.search(5, source=source, seconds=0.5)
    assert time.monotonic() - started < 2
    assert hits == gifdex.open(site.root / "ws" / "index").search(SENTENCE, 5)
    (message,) = caplog.messages
    assert message.startswith("the outside source giphy was not used: ")


@pytest.fixture(autouse=True)
def _warnings_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")  # which commands in this process may have raised
