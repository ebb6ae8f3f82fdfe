"""GIPHY's search, version 1 of its API (`gifs/search`).

See https://developers.giphy.com/docs/api/endpoint#search. What may be stored, shown, and for how long is in GIPHY's
terms; gifdex does not know them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gifdex.index.sources.base import Candidate
from gifdex.index.sources.http import Http, HttpOptions
from gifdex.index.sources.paging import Page, gather
from gifdex.index.sources.rate_limit import RateLimit
from gifdex.schemas.errors import SourceError

API_KEY = "GIPHY_API_KEY"  # the environment variable
_MAX_QUERY, _MAX_LIMIT, _MAX_OFFSET = 50, 50, 4999  # characters, GIFs a page, and where the last page may begin
# The first that an item has: 200 pixels high, below 2 MB, 200 pixels wide; the original may have any size.
_RENDITIONS = ("fixed_height", "downsized", "fixed_width", "downsized_medium", "original")


@dataclass(frozen=True)
class GiphySource:
    """Searches GIPHY. `seconds` bounds one call of `candidates`, retries and all pages included.

    Without `api_key`, the environment variable GIPHY_API_KEY is read at each call. `rating` is the strongest content
    allowed (g, pg, pg-13, r); `language` is a code of two letters. `rate_limit` is shared by all calls.
    """

    api_key: str | None = field(default=None, repr=False)
    base_url: str = "https://api.giphy.com"
    rating: str = "g"
    language: str = "en"
    seconds: float = 10.0
    options: HttpOptions = field(default_factory=HttpOptions)
    rate_limit: RateLimit | None = None

    name = "giphy"

    @property
    def fingerprint(self) -> str:
        """The address and the settings that shape an answer."""
        return f"giphy {self.base_url} rating={self.rating} lang={self.language}"

    def candidates(self, sentence: str, count: int) -> list[Candidate]:
        """Return up to `count` GIFs that GIPHY finds, best first; raises SourceError.

        GIPHY reads 50 characters of a query: a longer sentence is cut after a word.
        """
        params = {
            "api_key": self._key(),
            "q": shortened(sentence, _MAX_QUERY),
            "rating": self.rating,
            "lang": self.language,
        }
        until = time.monotonic() + self.seconds
        url = f"{self.base_url.rstrip('/')}/v1/gifs/search"
        with Http(self.options, self.rate_limit) as http:

            def fetch(offset: int, limit: int) -> Page:
                if offset > _MAX_OFFSET:
                    return Page(0, [])
                page = {"limit": str(limit), "offset": str(offset)}
                return self._page(http.json(url, [*params.items(), *page.items()], {}, until))

            return gather(count, _MAX_LIMIT, fetch)

    def _key(self) -> str:
        key = self.api_key or os.environ.get(API_KEY, "")
        if not key.strip():
            raise SourceError(
                f"GIPHY needs an API key, and none is set; put it into the environment variable {API_KEY}"
            )
        return key.strip()

    def _page(self, answer: Any) -> Page:
        items = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(items, list):
            raise SourceError('the answer of GIPHY has no list "data"; check the base URL')
        found = [self._candidate(item) for item in items]
        return Page(len(items), [candidate for candidate in found if candidate is not None])

    def _candidate(self, item: Any) -> Candidate | None:
        """Return an item of GIPHY's answer as a candidate, or None if it lacks what that needs."""
        if not isinstance(item, dict) or not isinstance(item.get("id"), str) or not item["id"]:
            return None
        uri = _small(item.get("images"))
        if uri is None:
            return None
        return Candidate(item["id"], uri, self.name, _text(item, "url"), _text(item, "title"))


def shortened(sentence: str, characters: int) -> str:
    """Return as many whole words as fit, or the beginning of the first."""
    words = " ".join(sentence.split())
    if len(words) <= characters:
        return words
    return words[: characters + 1].rpartition(" ")[0] or words[:characters]


def _small(images: Any) -> str | None:
    if not isinstance(images, dict):
        return None
    renditions = (images.get(name) for name in _RENDITIONS)
    return next((uri for each in renditions if isinstance(each, dict) and (uri := _text(each, "url"))), None)


def _text(item: Mapping[str, Any], key: str) -> str | None:
    value = item.get(key)
    return value if isinstance(value, str) and value else None
