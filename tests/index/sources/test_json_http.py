"""Any JSON over HTTP."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gifdex.index.sources.base import Candidate, CandidateSource
from gifdex.index.sources.http import HttpOptions
from gifdex.index.sources.json_http import JsonKeys, JsonSource
from gifdex.schemas.errors import SourceError
from tests.index.sources.http_service import KEY, Service

KEYS = JsonKeys(items="results[*]", url="media.gif.href", id="id", page_url="link", title="text")
ITEMS = [
    {"id": number, "media": {"gif": {"href": f"https://example.com/{number}.gif"}}, "text": f"n {number}", "link": "l"}
    for number in range(5)
]


def source(
    service: Service, local: HttpOptions, template: str = "/find?q={query}", keys: JsonKeys = KEYS, **more: Any
) -> JsonSource:
    return JsonSource("media", service.url(template), keys, options=local, **more)


def test_expressions_say_where_things_are(service: Service, local: HttpOptions) -> None:
    service.answers["/find"] = {"results": ITEMS}
    media = source(service, local)
    assert isinstance(media, CandidateSource)
    found = media.candidates("a cat & a dog?", 3)
    assert found[1] == Candidate("1", "https://example.com/1.gif", "media", "l", "n 1")
    assert len(found) == 3
    assert service.queries == [{"q": ["a cat & a dog?"]}]


def test_a_jsonpath_root_is_allowed(service: Service, local: HttpOptions) -> None:
    service.answers["/find"] = {"results": ITEMS}
    keys = JsonKeys(items="$.results[*].media.gif", url="href")
    found = source(service, local, keys=keys).candidates("cat", 9)
    assert [each.uri for each in found] == [f"https://example.com/{number}.gif" for number in range(5)]
    assert len({each.id for each in found}) == 5


def test_giphy_is_one_such_service(service: Service, local: HttpOptions) -> None:
    template = f"/v1/gifs/search?api_key={KEY}&q={{query}}&limit={{count}}&offset={{offset}}"
    keys = JsonKeys(items="data[*]", url="images.fixed_height.url", id="id")
    found = source(service, local, template, keys, page_size=4).candidates("cat", 9)
    assert [each.id for each in found] == [f"id{number}" for number in range(9)]
    assert [query["offset"] for query in service.queries] == [["0"], ["4"], ["8"]]


def test_a_template_without_an_offset_is_asked_once(service: Service, local: HttpOptions) -> None:
    service.answers["/find"] = {"results": ITEMS}
    media = source(service, local, "/find?q={query}&n={count}", page_size=4)
    assert len(media.candidates("cat", 5)) == 5
    assert service.queries == [{"q": ["cat"], "n": ["4"]}]


def test_a_query_in_the_path_is_quoted(service: Service, local: HttpOptions) -> None:
    service.answers["/tags/a%2Fb%3Fc%20d/gifs"] = {"results": ITEMS}
    assert len(source(service, local, "/tags/{query}/gifs").candidates("a/b?c d", 5)) == 5


def test_headers_and_parameters_are_sent_and_shown_nowhere(
    service: Service, local: HttpOptions, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    template, headers = f"/status/403?key={KEY}1&q={{query}}&tag=a&tag=b", {"Authorization": f"Bearer {KEY}2"}
    media = source(service, local, template, headers=headers)
    with pytest.raises(SourceError, match=r"answered 403 \(Forbidden\); check the API key") as raised:
        media.candidates("cat", 5)
    assert service.queries == [{"key": [f"{KEY}1"], "q": ["cat"], "tag": ["a", "b"]}]
    assert service.headers[0]["Authorization"] == f"Bearer {KEY}2"
    assert KEY not in caplog.text + str(raised.value) + repr(media) + media.fingerprint


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, r"the answer of media has no list at 'results\[\*\]'; check the expression"),
        ({"results": "x"}, "the answer of media has no list at"),
        (7, "the answer of media has no list at"),
        ({"results": [{"id": 1}, 2]}, "none of the 2 items of media has a text at 'media.gif.href' and at 'id'"),
        ({"results": [{"media": {"gif": {"href": "x"}}}]}, "none of the 1 items of media has a text at"),
    ],
)
def test_missing_keys_are_one_error(service: Service, local: HttpOptions, answer: object, expected: str) -> None:
    service.answers["/find"] = answer
    with pytest.raises(SourceError, match=expected):
        source(service, local).candidates("cat", 5)


def test_an_item_without_a_url_is_left_out(service: Service, local: HttpOptions) -> None:
    service.answers["/find"] = {"results": [{"id": 9}, *ITEMS]}
    assert [each.id for each in source(service, local).candidates("cat", 2)] == ["0", "1"]


def test_no_items_is_an_answer(service: Service, local: HttpOptions) -> None:
    service.answers["/find"] = {"results": []}
    assert source(service, local).candidates("cat", 5) == []


@pytest.mark.parametrize("template", ["/find", "/find?q={quary}", "/find?q={query}&x={}", "/find?q={query", "{query}}"])
def test_a_template_that_cannot_be_filled_is_refused(service: Service, local: HttpOptions, template: str) -> None:
    with pytest.raises(SourceError, match="template"):
        source(service, local, template)


def test_an_expression_that_is_none_is_refused(service: Service, local: HttpOptions) -> None:
    with pytest.raises(SourceError, match=r"'data\[' is not a JMESPath expression"):
        source(service, local, keys=JsonKeys(items="data[", url="x"))


def test_an_expression_that_does_not_fit_is_one_error(service: Service, local: HttpOptions) -> None:
    service.answers["/find"] = {"results": ITEMS}
    with pytest.raises(SourceError, match="does not fit the answer"):
        source(service, local, keys=JsonKeys(items="keys(results)", url="x")).candidates("cat", 5)


def test_what_shapes_an_answer_is_in_the_fingerprint(service: Service, local: HttpOptions) -> None:
    one, other = source(service, local), source(service, local, "/find?q={query}&rating=g")
    assert one.fingerprint == source(service, local, seconds=3.0).fingerprint != other.fingerprint


@pytest.mark.parametrize("field", ["{query:d}", "{query!z}", "{query:>{count}}"])
def test_a_field_with_a_format_is_refused(field: str) -> None:
    with pytest.raises(SourceError, match="a field with ! or :"):
        JsonSource("media", f"http://x.example/?q={field}", KEYS)


@pytest.mark.parametrize("items", ["[99999999999999999999", "`", "(" * 3000, "data[::0]", "map(&x, data)", "avg(data)"])
def test_any_expression_gives_a_list_or_one_sentence(service: Service, local: HttpOptions, items: str) -> None:
    service.answers["/find"] = {"data": ["x"]}
    with pytest.raises(SourceError, match="expression"):
        source(service, local, keys=JsonKeys(items, "url")).candidates("a", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"page_size": 0}, "page_size of media is 0"), ({"name": ""}, "an empty name"), ({"url": "x/{query}"}, "http://")],
)
def test_settings_that_no_source_can_have_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        JsonSource(**{"name": "media", "url": "http://x.example/?q={query}", "keys": KEYS, **changes})


def test_other_headers_are_another_source_and_stay_secret() -> None:
    def made(token: str) -> str:
        return JsonSource("media", "http://x.example/?q={query}", KEYS, headers={"Authorization": token}).fingerprint

    assert made("SECRET one") != made("SECRET two")
    assert "SECRET" not in made("SECRET one")
