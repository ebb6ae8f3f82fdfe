"""Hybrid search: what an outside source gives is ranked together with the index's own items.

What is fetched here is in an inbox already, with its features, so nothing is downloaded or encoded.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import gifdex
from gifdex.encoders.base import FloatArray, unit
from gifdex.encoders.feature_cache import Outcome
from gifdex.index.inbox import Inbox
from gifdex.index.lookup import Index
from gifdex.index.sources.base import Candidate
from gifdex.index.sources.downloads import DownloadBudget
from gifdex.schemas.errors import QueryError, SourceError
from tests.conftest import GifMaker

SENTENCE = "a cat playing the piano"
FINGERPRINT, FEATURES = "1" * 16, 4  # of the versions that make_version makes


@dataclass
class Listed:
    """A source that gives the candidates it was made with."""

    found: Sequence[Candidate]
    error: SourceError | None = None
    sleeps: float = 0.0
    asked: int = 0

    name = "listed"
    fingerprint = "listed"

    def candidates(self, sentence: str, count: int) -> list[Candidate]:
        self.asked += 1
        threading.Event().wait(self.sleeps)
        if self.error is not None:
            raise self.error
        return list(self.found)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, make_version: Callable[..., Path], clustered: Any) -> Index:
    return gifdex.open(make_version(tmp_path_factory.mktemp("hybrid") / ("0" * 16), clustered(60)))


class Fetched:
    """An inbox with GIFs whose features are random, and the source that they came from."""

    def __init__(self, folder: Path, make_gif: GifMaker, count: int = 20) -> None:
        self.inbox = Inbox(folder)
        self.source = Listed([Candidate(f"id {n}", f"https://x.example/{n}.gif", "listed") for n in range(count)])
        self.features = np.random.default_rng(1).standard_normal((count, FEATURES)).astype(np.float32)
        cache = self.inbox.features(FINGERPRINT, FEATURES)
        for number, candidate in enumerate(self.source.found):
            data = make_gif(f"fetched/{number}.gif", seed=number).read_bytes()
            key = make_key(data)
            self.inbox.add(candidate, SENTENCE, data, Outcome(key, 4, self.features[number]), cache)

    def outside(self, when: str = "always", **changes: Any) -> gifdex.Outside:
        return gifdex.Outside(**{"source": self.source, "when": when, "inbox": self.inbox.folder, **changes})

    def scores(self, index: Index) -> dict[str, float]:
        """The score of each by its id, computed from its features."""
        projection = index._examples._projection
        assert projection is not None
        cosines = unit(projection.embed_images(self.features)).astype(np.float64) @ index.embed([SENTENCE])[0]
        return {f"listed/id%20{number}": float(score) for number, score in enumerate(cosines)}


def make_key(data: bytes) -> str:
    from hashlib import sha256

    return sha256(data).hexdigest()


@pytest.fixture
def fetched(tmp_path: Path, make_gif: GifMaker) -> Fetched:
    return Fetched(tmp_path / "inbox", make_gif)


def test_candidates_and_items_are_one_list_by_score_that_says_where_each_came_from(
    index: Index, fetched: Fetched
) -> None:
    hits = index.search(SENTENCE, 100, outside=fetched.outside())
    own = {hit.id: hit.score for hit in index.search(SENTENCE, 100)}
    assert {hit.id: hit.score for hit in hits if hit.source is None} == own
    others = {hit.id: hit.score for hit in hits if hit.source is not None}
    assert others == pytest.approx(fetched.scores(index), abs=1e-6)
    assert {hit.source for hit in hits} == {None, "listed"}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert {hit.uri for hit in hits if hit.source} == {candidate.uri for candidate in fetched.source.found}
    assert index.search(SENTENCE, 7, outside=fetched.outside()) == hits[:7]


def test_a_source_is_asked_only_where_no_item_reaches_the_minimum(index: Index, fetched: Fetched) -> None:
    own = index.search(SENTENCE, 100)
    below, above = own[3].score, own[0].score + 1e-3
    assert index.search(SENTENCE, 100, min_score=below, outside=fetched.outside("below")) == own[:4]
    assert fetched.source.asked == 0
    hits = index.search(SENTENCE, 100, min_score=above, outside=fetched.outside("below"))
    assert fetched.source.asked == 1
    assert {hit.id for hit in hits} == {key for key, score in fetched.scores(index).items() if score >= above}
    assert all(hit.source == "listed" for hit in hits)


def test_below_a_score_of_its_own_the_source_is_asked_and_all_are_ranked(index: Index, fetched: Fetched) -> None:
    best = index.search(SENTENCE, 1)[0].score
    everything = index.search(SENTENCE, 100, outside=fetched.outside())
    assert index.search(SENTENCE, 100, outside=fetched.outside("below", below=best + 1e-3)) == everything
    asked = fetched.source.asked
    own = index.search(SENTENCE, 100, outside=fetched.outside("below", below=best - 1e-3))
    assert (own, fetched.source.asked) == (index.search(SENTENCE, 100), asked)


def test_the_minimum_and_the_weight_hold_for_candidates_too(index: Index, fetched: Fetched) -> None:
    hits = index.search(SENTENCE, 100, min_score=0.1, outside=fetched.outside())
    assert hits == [hit for hit in index.search(SENTENCE, 100, outside=fetched.outside()) if hit.score >= 0.1]
    doubled = index.search(SENTENCE, 100, fields={"image": 2}, outside=fetched.outside())
    assert [hit.id for hit in doubled] == [hit.id for hit in index.search(SENTENCE, 100, outside=fetched.outside())]
    assert doubled[0].score == pytest.approx(2 * index.search(SENTENCE, 1, outside=fetched.outside())[0].score)


def test_several_sentences_are_asked_one_by_one(index: Index, fetched: Fetched) -> None:
    both = index.search([SENTENCE, "a dog"], 5, outside=fetched.outside())
    for sentence, hits in zip((SENTENCE, "a dog"), both, strict=True):
        assert [hit.id for hit in hits] == [hit.id for hit in index.search(sentence, 5, outside=fetched.outside())]


def test_titles_and_pages_come_with_a_hit_as_printable_text(index: Index, fetched: Fetched) -> None:
    first = fetched.source.found[0]
    odd = Candidate(first.id, first.uri, "listed", "https://x.example/page", "a \x1b[31mred\ud800 " + "x" * 2000)
    (hit,) = [hit for hit in index.search(SENTENCE, 100, outside=fetched.outside(source=Listed([odd]))) if hit.source]
    assert hit.metadata["outside_page_url"] == "https://x.example/page"
    assert hit.metadata["outside_title"].startswith("a  [31mred  xx")
    assert len(hit.metadata["outside_title"]) == 1000


def test_bytes_that_the_index_holds_are_left_out(index: Index, fetched: Fetched, make_gif: GifMaker) -> None:
    held, new = Candidate("held", "https://x.example/h.gif", "listed"), fetched.source.found[0]
    key = index._opened.items._whole["sha256"][3].as_py()
    cache = fetched.inbox.features(FINGERPRINT, FEATURES)
    fetched.inbox.add(held, SENTENCE, make_gif("held.gif").read_bytes(), Outcome(key, 4, fetched.features[0]), cache)
    assert index._opened.items.holding([key, "f" * 64]) == {key}
    hits = index.search(SENTENCE, 100, outside=fetched.outside(source=Listed([held, new])))
    assert [hit.id for hit in hits if hit.source] == ["listed/id%200"]


@pytest.mark.parametrize("broken", [{"error": SourceError("x.example answered 500 (an error); try again later")}, {}])
def test_a_source_that_fails_or_has_nothing_leaves_the_indexes_own_answer(
    index: Index, broken: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        hits = index.search(SENTENCE, 5, outside=gifdex.Outside(Listed([], **broken), "always"))
    assert hits == index.search(SENTENCE, 5)
    expected = ["the outside source listed was not used: x.example answered 500 (an error); try again later"]
    assert caplog.messages == (expected if broken else [])


def test_a_source_that_hangs_costs_no_more_than_its_seconds(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        hits = index.search(SENTENCE, 5, outside=gifdex.Outside(Listed([], sleeps=5), "always", seconds=0.2))
    assert time.monotonic() - started < 1
    assert hits == index.search(SENTENCE, 5)
    assert caplog.messages == [
        "the outside source listed was not used: it did not answer within 0.2 seconds; try again later"
    ]


def test_a_source_gives_no_more_than_it_was_asked_for_and_no_id_twice(index: Index, fetched: Fetched) -> None:
    twice = Listed([*fetched.source.found, *fetched.source.found])
    found = [hit for hit in index.search(SENTENCE, 100, outside=fetched.outside(source=twice, count=30)) if hit.source]
    assert len(found) == 20
    few = [hit for hit in index.search(SENTENCE, 100, outside=fetched.outside(count=3)) if hit.source]
    assert {hit.id for hit in few} == {"listed/id%200", "listed/id%201", "listed/id%202"}


def test_any_error_in_a_source_leaves_the_indexes_own_answer(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    candidate: Any = Candidate(5, "http://x.example/a.gif", "listed")  # type: ignore[arg-type]
    error: Any = ZeroDivisionError("key=SECRET")
    for source in (Listed([], error), Listed([candidate]), Listed(["text"])):  # type: ignore[list-item]
        caplog.clear()
        assert index.search(SENTENCE, 5, outside=gifdex.Outside(source, "always")) == index.search(SENTENCE, 5)
        (message,) = caplog.messages
        assert "listed was not used: its code failed with" in message
        assert "SECRET" not in message


def test_seconds_may_be_infinite(index: Index, fetched: Fetched) -> None:
    fetched.source.sleeps = 0.05
    assert any(hit.source for hit in index.search(SENTENCE, 100, outside=fetched.outside(seconds=float("inf"))))


def test_a_candidate_whose_id_the_index_has_is_left_out(
    tmp_path: Path, make_version: Callable[..., Path], items_table: Any, clustered: Any, fetched: Fetched
) -> None:
    items = items_table(60, 0)
    ids = pa.array(["listed/id%200", *items["id"].to_pylist()[1:]])
    items = items.set_column(items.column_names.index("id"), items.schema.field("id"), ids)
    index = gifdex.open(make_version(tmp_path / ("0" * 16), clustered(60), items=items))
    found = {hit.id for hit in index.search(SENTENCE, 100, outside=fetched.outside()) if hit.source}
    assert found == {f"listed/id%20{number}" for number in range(1, 20)}


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        (SENTENCE, {"fields": {"image": 1, "caption": 1}}, "ranked by the field image alone, but fields is"),
        (SENTENCE, {"where": {"row": 3}}, "a filter knows nothing of GIFs from outside"),
        (np.ones(16), {}, "the query is a vector, which an outside source cannot be asked"),
        (SENTENCE, {"when": "below"}, "nothing says when to ask the outside source: give the score below which"),
        (SENTENCE, {"below": float("nan")}, "below is nan; expected a number, such as 0.2"),
        (SENTENCE, {"when": "never"}, "is asked 'never'; expected when='below' or when='always'"),
        (SENTENCE, {"count": 0}, "may give 0 candidates in 20.0 seconds"),
        (SENTENCE, {"seconds": float("nan")}, "may give 100 candidates in nan seconds"),
        (SENTENCE, {"count": "5"}, "count is '5' and seconds is 20.0; expected a whole number and a number"),
        (SENTENCE, {"seconds": None}, "seconds is None"),
        (SENTENCE, {"inbox": 5}, "the inbox is 5; expected a local folder"),
        (SENTENCE, {"inbox": "s3://b/inbox"}, "the inbox is 's3://b/inbox'; expected a local folder"),
        (SENTENCE, {"budget": 5}, "budget is 5; expected a DownloadBudget"),
        (SENTENCE, {"http": "x"}, "http is 'x'; expected a HttpOptions"),
        (SENTENCE, {"source": "giphy"}, "the source is a str; expected an object with name"),
        (SENTENCE, {"outside": "giphy"}, "outside is a str; expected a gifdex.Outside"),
    ],
)
def test_a_mistake_gives_one_sentence(index: Index, query: Any, options: dict[str, Any], message: str) -> None:
    ours = {
        name: options.pop(name)
        for name in ("when", "below", "count", "seconds", "source", "inbox", "budget", "http")
        if name in options
    }

    def search() -> None:
        outside = options.pop("outside", None) or gifdex.Outside(**{"source": Listed([]), "when": "always", **ours})
        index.search(query, outside=outside, **options)

    with pytest.raises(QueryError, match=message):
        search()


def test_an_index_without_its_image_encoder_says_so_before_it_downloads(index: Index) -> None:
    source = Listed([Candidate("a", "http://192.0.2.1/a.gif", "listed")], sleeps=0.15)
    outside = gifdex.Outside(source, "always", seconds=0.2, budget=DownloadBudget(seconds=60))
    started = time.monotonic()
    with pytest.raises(gifdex.GifdexError, match="there is no image encoder 'pixels'"):
        index.search(SENTENCE, outside=outside)  # which is loaded first
    assert time.monotonic() - started < 1


def test_a_search_without_an_outside_source_imports_nothing_of_it(index: Index) -> None:
    code = (
        f"import sys, gifdex\nindex = gifdex.open({str(index.path)!r})\nindex.search('a cat', min_score=0.1)\n"
        "names = ('httpx', 'httpcore', 'tenacity', 'jmespath', 'PIL', 'tensorflow', 'gifdex.index.inbox')\n"
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_scores_are_those_of_embeddings_by_the_indexes_own_projection(index: Index, fetched: Fetched) -> None:
    best = max(fetched.scores(index).items(), key=lambda pair: pair[1])
    hit = next(hit for hit in index.search(SENTENCE, 100, outside=fetched.outside()) if hit.source)
    vector: FloatArray = index._examples.embed(fetched.features[[int(hit.id[11:])]])[0]
    assert (hit.id, hit.score) == (best[0], pytest.approx(float(vector @ index.embed([SENTENCE])[0]), abs=1e-6))
