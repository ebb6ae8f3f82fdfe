"""GIPHY's search against a server that speaks its JSON."""

from __future__ import annotations

import dataclasses
import logging
import time
import traceback

import pytest

from gifdex.index.sources.base import CandidateSource
from gifdex.index.sources.downloads import download
from gifdex.index.sources.giphy import GiphySource, shortened
from gifdex.index.sources.http import HttpOptions
from gifdex.index.sources.rate_limit import RateLimit
from gifdex.schemas.errors import SourceError
from tests.index.sources.http_service import KEY, Service

SEARCH = "/v1/gifs/search"


@pytest.fixture
def giphy(service: Service, local: HttpOptions) -> GiphySource:
    return GiphySource(KEY, service.url(), options=local)


def test_a_sentence_finds_candidates_that_download(giphy: GiphySource, service: Service, local: HttpOptions) -> None:
    assert isinstance(giphy, CandidateSource)
    found = giphy.candidates("a cat & a dog", 4)
    assert [each.id for each in found] == ["id0", "id1", "id2", "id3"]
    assert (found[1].source, found[1].title, found[1].page_url) == ("giphy", "GIF 1", "https://giphy.com/gifs/id1")
    assert service.queries == [
        {"api_key": [KEY], "q": ["a cat & a dog"], "rating": ["g"], "lang": ["en"], "limit": ["4"], "offset": ["0"]}
    ]
    results = {each.candidate.id: each.data for each in download(found, options=local)}
    assert [results[each.id] for each in found] == service.gifs[:4]


def test_a_small_rendition_is_chosen_over_the_original(giphy: GiphySource, service: Service) -> None:
    (found,) = giphy.candidates("cat", 1)
    assert found.uri == service.url("/gif/0?cid=1&rid=200.gif")


def test_many_candidates_come_page_by_page(giphy: GiphySource, service: Service) -> None:
    service.gifs = service.gifs * 12
    assert len({each.id for each in giphy.candidates("cat", 110)}) == 110
    assert [(query["offset"], query["limit"]) for query in service.queries] == [
        (["0"], ["50"]), (["50"], ["50"]), (["100"], ["10"]),
    ]  # fmt: skip


def test_fewer_than_wanted_is_an_answer(giphy: GiphySource, service: Service) -> None:
    assert len(giphy.candidates("cat", 100)) == 10
    assert service.asked[SEARCH] == 1
    service.gifs = []
    assert giphy.candidates("cat", 100) == []


def test_none_wanted_asks_nothing(giphy: GiphySource, service: Service) -> None:
    assert giphy.candidates("cat", 0) == []
    assert service.asked[SEARCH] == 0


def test_a_service_that_repeats_itself_is_not_asked_forever(giphy: GiphySource, service: Service) -> None:
    item = {"id": "same", "images": {"original": {"url": "https://example.com/x.gif"}}}
    service.answers[SEARCH] = {"data": [item] * 50}
    assert [each.uri for each in giphy.candidates("cat", 200)] == ["https://example.com/x.gif"]
    assert service.asked[SEARCH] == 2


def test_items_without_an_id_or_a_gif_are_left_out(giphy: GiphySource, service: Service) -> None:
    good = {"id": "good", "images": {"fixed_height": {"url": ""}, "downsized": {"url": "https://example.com/d.gif"}}}
    bad: list[object] = [None, 3, {}, {"id": 7, "images": good["images"]}, {"id": "x"}, {"id": "x", "images": []}]
    bad += [{"id": "x", "images": {"original": {"mp4": "y"}}}, {"id": "x", "images": {"original": "z"}}]
    service.answers[SEARCH] = {"data": [*bad, good]}
    (found,) = giphy.candidates("cat", 20)
    assert (found.id, found.uri, found.title) == ("good", "https://example.com/d.gif", None)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"<html>", "the answer of 127.0.0.1 is not JSON; check the URL"),
        (b"\xff\xfe", "the answer of 127.0.0.1 is not JSON"),
        (b"[" * 100_000, "the answer of 127.0.0.1 is not JSON"),
        (b"", "the answer of 127.0.0.1 is not JSON"),
        (b" " * (9 << 20), "127.0.0.1 sent more than the 8,388,608 bytes"),
        ({"meta": {"status": 200}}, 'the answer of GIPHY has no list "data"; check the base URL'),
        ([], 'the answer of GIPHY has no list "data"'),
    ],
)
def test_nonsense_is_one_error(giphy: GiphySource, service: Service, answer: object, expected: str) -> None:
    service.answers[SEARCH] = answer
    with pytest.raises(SourceError) as raised:
        giphy.candidates("cat", 10)
    assert str(raised.value).startswith(expected)


def test_the_key_is_in_no_error_no_log_and_no_repr(
    giphy: GiphySource, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    giphy.candidates("cat", 3)
    assert "HTTP Request: GET" in caplog.text  # httpx logs each URL
    errors = []
    for base in (service.url("/status/403"), service.url("/to"), service.url("/busy"), "http://127.0.0.1:1"):
        with pytest.raises(SourceError) as raised:
            dataclasses.replace(giphy, base_url=base).candidates("cat", 3)
        errors += traceback.format_exception(raised.value)
    told = caplog.text + "".join(errors) + repr(giphy) + giphy.fingerprint
    assert KEY not in told


def test_a_wrong_key_is_one_error(giphy: GiphySource) -> None:
    with pytest.raises(SourceError, match=r"^127\.0\.0\.1 answered 401 \(Unauthorized\); check the API key$"):
        dataclasses.replace(giphy, api_key="wrong").candidates("cat", 3)


def test_the_key_comes_from_the_environment(giphy: GiphySource, monkeypatch: pytest.MonkeyPatch) -> None:
    without = dataclasses.replace(giphy, api_key=None)
    monkeypatch.delenv("GIPHY_API_KEY", raising=False)
    with pytest.raises(SourceError, match="put it into the environment variable GIPHY_API_KEY"):
        without.candidates("cat", 3)
    monkeypatch.setenv("GIPHY_API_KEY", f"{KEY}\n")
    assert len(without.candidates("cat", 3)) == 3


def test_redirects_are_not_followed_with_the_key(giphy: GiphySource, service: Service) -> None:
    with pytest.raises(SourceError, match=r"answered 302 \(Found\); redirects are not followed here"):
        dataclasses.replace(giphy, base_url=service.url("/to")).candidates("cat", 3)


def test_loopback_is_refused_by_default(giphy: GiphySource, service: Service) -> None:
    with pytest.raises(SourceError, match=r"127\.0\.0\.1 leads to 127\.0\.0\.1, which is not a public address"):
        dataclasses.replace(giphy, options=HttpOptions()).candidates("cat", 3)
    assert service.asked[SEARCH] == 0


@pytest.mark.parametrize("path", ["/silent", "/drip"])
def test_a_dead_service_costs_no_more_than_its_seconds(giphy: GiphySource, service: Service, path: str) -> None:
    started = time.monotonic()
    with pytest.raises(SourceError, match="too slow"):
        dataclasses.replace(giphy, base_url=service.url(path), seconds=0.5).candidates("cat", 3)
    assert time.monotonic() - started < 1.5


def test_a_rate_limit_holds_over_calls(giphy: GiphySource, service: Service) -> None:
    limited = dataclasses.replace(giphy, rate_limit=RateLimit(2, 0.5))
    started = time.monotonic()
    for _ in range(4):
        limited.candidates("cat", 1)
    assert 0.5 <= time.monotonic() - started < 1.5
    hourly = dataclasses.replace(giphy, rate_limit=RateLimit(1, 3600))
    hourly.candidates("cat", 1)
    asked = service.asked[SEARCH]
    with pytest.raises(SourceError, match="the rate limit of 1 calls in 3600 seconds is reached; ask again in 3600"):
        hourly.candidates("cat", 1)
    assert service.asked[SEARCH] == asked


def test_a_long_sentence_is_cut_after_a_word(giphy: GiphySource, service: Service) -> None:
    giphy.candidates("a grey cat that plays the piano while a dog in a hat listens", 1)
    assert service.queries[0]["q"] == ["a grey cat that plays the piano while a dog in a"]
    assert shortened("x" * 60, 50) == "x" * 50
    assert shortened("  a \n b ", 50) == "a b"
    assert shortened("abc def", 7) == "abc def"
    assert shortened("abc def", 3) == "abc"
