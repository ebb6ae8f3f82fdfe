"""Any service that answers a GET request with JSON: a URL template, and expressions that say where things are."""

from __future__ import annotations

import hashlib
import json
import string
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote

from gifdex.index.sources.base import Candidate
from gifdex.index.sources.http import Http, HttpOptions
from gifdex.index.sources.paging import Page, gather
from gifdex.index.sources.rate_limit import RateLimit
from gifdex.schemas.errors import MissingExtraError, SourceError

try:
    import jmespath
    from jmespath.exceptions import JMESPathError
except ImportError as err:
    raise MissingExtraError("an outside source", err.name or "jmespath", "hybrid") from err

# jmespath lets Python's own errors through for some expressions.
_EXPRESSION_ERRORS = (
    JMESPathError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)
_FIELDS = frozenset({"query", "count", "offset"})


@dataclass(frozen=True)
class JsonKeys:
    """Where things are in an answer: `items` in the whole of it, the others in one item.

    Each is a JMESPath expression (https://jmespath.org), such as `data[*]` or `images.original.url`; a leading `$.`,
    as in JSONPath, is allowed. Without `id`, an item's id is made from its URL.
    """

    items: str
    url: str
    id: str | None = None
    page_url: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class JsonSource:
    """Asks a service at a URL template with `{query}`, and `{count}` and `{offset}` where it has pages.

    `headers` may hold secrets, as may everything after the `?` of the template: neither is ever in a message.
    `page_size` is the most items that one call may ask for, `seconds` bounds one call of `candidates`. Raises
    SourceError for a template or an expression that cannot be used.
    """

    name: str
    url: str = field(repr=False)
    keys: JsonKeys
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    page_size: int = 50
    seconds: float = 10.0
    options: HttpOptions = field(default_factory=HttpOptions)
    rate_limit: RateLimit | None = None

    def __post_init__(self) -> None:
        _check_source(self)
        fields = _fields(self.url)
        if "query" not in fields or not fields <= _FIELDS:
            raise SourceError(
                f"the URL template of {self.name} has the fields {sorted(fields)}; expected {{query}}, and {{count}} "
                "and {offset} if the service has pages; write other braces twice"
            )
        for expression in (self.keys.items, self.keys.url, self.keys.id, self.keys.page_url, self.keys.title):
            _compiled(expression or "@")

    @property
    def fingerprint(self) -> str:
        """A digest of everything that shapes an answer: URL and headers may hold secrets, so it is not readable."""
        keys, headers = self.keys, sorted(self.headers.items())
        parts = [self.url, self.page_size, keys.items, keys.url, keys.id, keys.page_url, keys.title, headers]
        return f"{self.name} {hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"

    def candidates(self, sentence: str, count: int) -> list[Candidate]:
        """Return up to `count` candidates in the service's order; raises SourceError."""
        until = time.monotonic() + self.seconds
        pages = "offset" in _fields(self.url)
        with Http(self.options, self.rate_limit) as http:

            def fetch(offset: int, limit: int) -> Page:
                url, params = self._filled(sentence, limit, offset)
                return self._page(http.json(url, params, self.headers, until))

            if not pages:
                return gather(count, count, lambda offset, limit: fetch(0, limit) if offset == 0 else Page(0, []))
            return gather(count, self.page_size, fetch)

    def _filled(self, sentence: str, count: int, offset: int) -> tuple[str, list[tuple[str, str]]]:
        """Return the URL up to the question mark, and the parameters after it."""
        count = min(count, self.page_size)
        url = self.url.format(query=quote(sentence, safe=""), count=count, offset=offset)
        path, _, query = url.partition("?")
        return path, parse_qsl(query.partition("#")[0], keep_blank_values=True)

    def _page(self, answer: Any) -> Page:
        items = _found(self.keys.items, answer)
        if not isinstance(items, list):
            raise SourceError(f"the answer of {self.name} has no list at {self.keys.items!r}; check the expression")
        candidates = [candidate for item in items if (candidate := self._candidate(item))]
        if items and not candidates:
            raise SourceError(
                f"none of the {len(items)} items of {self.name} has a text at {self.keys.url!r}"
                + (f" and at {self.keys.id!r}" if self.keys.id else "")
                + "; check the expressions"
            )
        return Page(len(items), candidates)

    def _candidate(self, item: Any) -> Candidate | None:
        keys = self.keys
        uri = _text(keys.url, item)
        if uri is None:
            return None
        name = _text(keys.id, item) if keys.id else hashlib.sha256(uri.encode(errors="replace")).hexdigest()[:16]
        if name is None:
            return None
        return Candidate(name, uri, self.name, _text(keys.page_url, item), _text(keys.title, item))


def _check_source(source: JsonSource) -> None:
    """Raise SourceError for a name, a page size or an address that no source can have."""
    if not source.name.strip():
        raise SourceError("an outside source has an empty name; give it one, such as gifs")
    if source.page_size < 1:
        raise SourceError(f"page_size of {source.name} is {source.page_size}; expected at least 1")
    if not source.seconds > 0:
        raise SourceError(f"seconds of {source.name} is {source.seconds}; expected more than 0")
    if not source.url.startswith(("http://", "https://")):
        raise SourceError(f"the URL of {source.name} does not begin with http:// or https://; write the whole URL")


def _fields(template: str) -> set[str]:
    """Return the names in braces of a template; raises SourceError unless each stands alone."""
    try:
        found = [parts for parts in string.Formatter().parse(template) if parts[1] is not None]
    except ValueError as err:
        raise SourceError(f"a URL template cannot be read ({err}); write a brace that is no field twice") from err
    if any(form or conversion for _, _, form, conversion in found):
        raise SourceError("a URL template has a field with ! or :; expected {query}, {count} or {offset} alone")
    return {str(name) for _, name, _, _ in found}


def _compiled(expression: str) -> Any:
    try:
        return jmespath.compile(expression.removeprefix("$."))
    except _EXPRESSION_ERRORS as err:
        raise SourceError(f"{expression!r:.200} is not a JMESPath expression; write one such as data[*].url") from err


def _found(expression: str, value: Any) -> Any:
    try:
        return _compiled(expression).search(value)
    except _EXPRESSION_ERRORS as err:  # a function applied to a value of another type
        raise SourceError(f"the expression {expression!r:.200} does not fit the answer; check it") from err


def _text(expression: str | None, item: Any) -> str | None:
    """Return the text at an expression; numbers become text."""
    value = _found(expression, item) if expression else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None
