"""Hybrid search: candidates of an outside source, embedded as the index's own GIFs were, and ranked together with them.

As DeepGIF did (Zain Shah, 2015): precomputed vectors answer if they score high enough. Otherwise the first candidates
of a GIF service are fetched, ranked by the same model, and kept.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.index.field_records import IMAGE
from gifdex.index.hits import Hit
from gifdex.index.opened import Opened
from gifdex.index.queries.cutoff import Cutoff
from gifdex.index.queries.examples import ExampleEncoder
from gifdex.index.queries.options import checked_score
from gifdex.index.sources.base import Candidate, CandidateSource
from gifdex.index.sources.deadline import within
from gifdex.schemas.errors import QueryError, SourceError
from gifdex.schemas.files import is_url
from gifdex.schemas.progress import Progress

if TYPE_CHECKING:  # which import the extra hybrid, or take time
    from gifdex.encoders.feature_cache import FeatureCache, Outcome
    from gifdex.index.inbox import Inbox
    from gifdex.index.sources.downloads import DownloadBudget
    from gifdex.index.sources.http import HttpOptions

BELOW, ALWAYS = "below", "always"
_WRITERS = 8  # threads that write to the inbox, as they mostly wait for the disk


class _Logged:
    """A Progress that logs notices as warnings."""

    def stage(self, name: str, done: int, total: int) -> None:
        pass

    def notice(self, sentence: str) -> None:
        logging.getLogger(__name__).warning(sentence)


_LOGGED = _Logged()


@dataclass(frozen=True)
class Outside:
    """An outside source that a search asks, and what that may cost.

    It is asked where the index's best hit scores less than `below` (`when="below"`), or for every query
    (`when="always"`). Without `below` it is asked where no item reaches the search's `min_score`.

    Its first `count` candidates are downloaded within `budget` (a `DownloadBudget`) and `http` (an `HttpOptions`, which
    also says which addresses are allowed). `seconds` bound all of that; encoding what has arrived comes on top. What
    was fetched is kept in the folder `inbox`, which `gifdex build --inbox` takes in.

    A source that fails gives no error: the index's own hits are returned, and `progress` gets a notice, which is
    logged as a warning by default.
    """

    source: CandidateSource
    when: str = BELOW
    below: float | None = None
    count: int = 100
    seconds: float = 20.0
    budget: DownloadBudget | None = None
    http: HttpOptions | None = None
    inbox: str | os.PathLike[str] | None = None
    progress: Progress = _LOGGED

    def __post_init__(self) -> None:
        if not isinstance(self.source, CandidateSource):
            raise QueryError(
                f"the source is a {type(self.source).__name__}; expected an object with name, fingerprint and "
                "candidates(sentence, count), such as gifdex.index.sources.giphy.GiphySource()"
            )
        if self.when not in (BELOW, ALWAYS):
            raise QueryError(f"an outside source is asked {self.when!r:.40}; expected when='below' or when='always'")
        checked_score(self.below, "below")
        if not _is_number(self.count, int) or not _is_number(self.seconds, (int, float)):
            raise QueryError(
                f"count is {self.count!r:.40} and seconds is {self.seconds!r:.40}; expected a whole number and a number"
            )
        if self.count < 1 or not self.seconds > 0:
            raise QueryError(
                f"an outside source may give {self.count} candidates in {self.seconds} seconds; expected at least 1, "
                "in more than 0"
            )
        if self.inbox is not None and (not isinstance(self.inbox, str | os.PathLike) or is_url(self.inbox)):
            raise QueryError(f"the inbox is {self.inbox!r:.80}; expected a local folder")
        self._check_records()

    def _check_records(self) -> None:
        if self.budget is None and self.http is None:  # whose modules take time to import
            return
        from gifdex.index.sources.downloads import DownloadBudget
        from gifdex.index.sources.http import HttpOptions

        for name, given, kind in (("budget", self.budget, DownloadBudget), ("http", self.http, HttpOptions)):
            if given is not None and not isinstance(given, kind):
                raise QueryError(f"{name} is {given!r:.80}; expected a {kind.__name__}")


def _is_number(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def check(
    outside: Outside, query: Any, fields: Mapping[str, float] | None, where: Any, has_minimum: bool, groups: bool
) -> None:
    """Raise QueryError if a search with these options cannot ask an outside source."""
    if not isinstance(outside, Outside):
        raise QueryError(f"outside is a {type(outside).__name__}; expected a gifdex.Outside(source)")
    if isinstance(query, np.ndarray):
        raise QueryError("the query is a vector, which an outside source cannot be asked; give a sentence")
    if fields is not None and list(fields) != [IMAGE]:
        raise QueryError(
            f"GIFs from outside are ranked by the field {IMAGE} alone, but fields is {dict(fields)!r:.80}: leave it out"
        )
    if where is not None:
        raise QueryError("a filter knows nothing of GIFs from outside: leave out where, or outside")
    if groups:
        raise QueryError("GIFs from outside cannot be grouped with near duplicates: leave out group, or outside")
    if outside.when == BELOW and outside.below is None and not has_minimum:
        raise QueryError(
            "nothing says when to ask the outside source: give the score below which the index's best hit is not good "
            "enough (below=, --outside-below), or min_score, or ask always (when='always', --outside-when always)"
        )


def with_outside(
    opened: Opened,
    encoder: ExampleEncoder,
    outside: Outside,
    sentence: str,
    query: FloatArray,
    own: list[Hit],
    k: int,
    cutoff: Cutoff,
) -> list[Hit]:
    """Return the k best of the index's own hits and of the candidates from outside for a unit query (d,)."""
    if own and outside.when == BELOW and (outside.below is None or own[0].score >= outside.below):
        return own
    fetched = _Fetch(opened, encoder, outside, sentence).run()
    if not fetched:
        return own
    embeddings = encoder.embed(np.stack([features for _, features in fetched]))
    cosines = np.clip(embeddings.astype(np.float64) @ query.astype(np.float64), -1, 1)
    scores = cutoff.weight * cosines
    order = np.argsort(-scores, kind="stable")[: cutoff.kept(-np.sort(-scores))]
    shares = cutoff.of(scores)
    found = [
        _hit(fetched[place][0], float(scores[place]), None if shares is None else float(shares[place]))
        for place in order.tolist()
    ]
    return sorted([*own, *found], key=lambda hit: -hit.score)[:k]


def _hit(candidate: Candidate, score: float, percentile: float | None) -> Hit:
    from gifdex.index.inbox import clean, item_id, metadata_of

    metadata = metadata_of(candidate.title, candidate.page_url)
    return Hit(item_id(candidate), score, clean(candidate.uri), metadata, percentile, source=clean(candidate.source))


class _Fetch:
    """Fetches and encodes the candidates for one sentence."""

    def __init__(self, opened: Opened, encoder: ExampleEncoder, outside: Outside, sentence: str) -> None:
        self._opened, self._encoder, self._outside, self._sentence = opened, encoder, outside, sentence
        self._until = time.monotonic() + outside.seconds
        self._candidates: dict[str, Candidate] = {}  # by SHA-256
        self._data: dict[str, bytes] = {}
        self._reasons: list[str] = []
        self._held = 0  # candidates that the index has
        self._inbox: Inbox | None = None
        if outside.inbox is not None:
            from gifdex.index.inbox import Inbox

            self._inbox = Inbox(Path(outside.inbox))

    def run(self) -> list[tuple[Candidate, FloatArray]]:
        """Return the candidates that the index does not have, with their features float32 (d_image,)."""
        candidates = self._asked()
        if not candidates:
            return []
        known, missing = self._from_inbox(candidates)
        made = self._encoded(missing)
        self._keep([outcome for outcome in made if outcome.features is not None])
        # In an order that does not depend on arrival, on which last digits of products and equal scores do.
        found = [
            (self._candidates[outcome.sha256], outcome.features)
            for outcome in sorted([*known, *made], key=lambda outcome: outcome.sha256)
            if outcome.features is not None
        ]
        self._reasons += [outcome.reason for outcome in made if outcome.features is None and outcome.reason]
        if not found and self._reasons and not self._held:
            first = self._reasons[0]
            self._notice(f"gave nothing that can be used, of {len(candidates):,}; the first: {first}")
        return found

    def _encoded(self, missing: Sequence[Candidate]) -> list[Outcome]:
        if not missing:
            return []
        with closing(self._sources(missing)) as sources:
            return self._encoder.outcomes(sources)

    def _notice(self, what: str) -> None:
        self._outside.progress.notice(f"the outside source {self._outside.source.name} {what}")

    def _asked(self) -> Sequence[Candidate]:
        """Return the source's candidates, none if it fails or takes too long."""
        outside = self._outside
        try:
            found = within(outside.seconds, outside.source.candidates, self._sentence, outside.count)
            return self._new(list(found)[: outside.count])
        except SourceError as err:
            self._notice(f"was not used: {err}")
        except TimeoutError:
            self._notice(f"was not used: it did not answer within {outside.seconds:g} seconds; try again later")
        except Exception as err:  # noqa: BLE001  # a source may be anybody's code, and its message hold secrets
            self._notice(f"was not used: its code failed with {type(err).__name__}; see what it does for this sentence")
        return []

    def _new(self, found: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates whose ids the index does not have, each id once; raises TypeError for other things."""
        from gifdex.index.inbox import item_id

        for each in found:
            needed, described = (each.id, each.uri, each.source), (each.page_url, each.title)
            if not all(isinstance(text, str) for text in (*needed, *(text or "" for text in described))):
                raise TypeError("what describes a candidate is text")
        by_id = {item_id(candidate): candidate for candidate in found}
        known = self._opened.items.with_ids(list(by_id))
        self._held += len(known)
        return [candidate for key, candidate in by_id.items() if key not in known]

    def _from_inbox(self, candidates: Sequence[Candidate]) -> tuple[list[Outcome], Sequence[Candidate]]:
        """Return the outcomes of candidates that are in the inbox and not in the index; and the other candidates."""
        if self._inbox is None:
            return [], candidates
        from gifdex.index.inbox import features_of

        entries = [(candidate, self._inbox.find(candidate)) for candidate in candidates]
        keys = {entry.sha256: candidate for candidate, entry in entries if entry is not None}
        outcomes = features_of(self._cache(self._inbox), keys)
        held = self._opened.items.holding(list(keys))
        self._held += len(held)
        self._candidates |= {key: keys[key] for key in outcomes if key not in held}
        done = outcomes.keys() | held
        missing = [candidate for candidate, entry in entries if entry is None or entry.sha256 not in done]
        return [outcomes[key] for key in self._candidates], missing

    def _sources(self, missing: Sequence[Candidate]) -> Generator[tuple[str, bytes], None, None]:
        """Yield the distinct GIFs that the index does not have, as they arrive."""
        from gifdex.index.sources.downloads import DownloadBudget, download

        budget = self._outside.budget or DownloadBudget()
        budget = replace(budget, seconds=max(0.0, min(budget.seconds, self._until - time.monotonic())))
        progress, total = self._outside.progress, len(missing)
        progress.stage("fetch", 0, total)
        with closing(download(missing, budget, self._outside.http)) as downloads:
            for done, result in enumerate(downloads, start=1):
                progress.stage("fetch", done, total)
                if result.data is None:
                    self._reasons.append(result.reason or "")
                    continue
                key = sha256(result.data).hexdigest()
                if self._opened.items.holding([key]):
                    self._held += 1
                elif key not in self._candidates:
                    self._candidates[key], self._data[key] = result.candidate, result.data
                    yield key, result.data

    def _cache(self, inbox: Inbox) -> FeatureCache:
        return inbox.features(*self._encoder.cached_as)

    def _keep(self, outcomes: Sequence[Outcome]) -> None:
        """Write what was fetched to the inbox, if there is one."""
        if self._inbox is None:
            return
        inbox, cache = self._inbox, self._cache(self._inbox)

        def add(outcome: Outcome) -> None:
            key = outcome.sha256
            inbox.add(self._candidates[key], self._sentence, self._data[key], outcome, cache)

        try:
            with ThreadPoolExecutor(_WRITERS, thread_name_prefix="gifdex-inbox") as threads:
                list(threads.map(add, outcomes))
        except (OSError, ValueError) as err:  # such as a folder whose name is no Unicode
            from gifdex.index.inbox import clean

            why = getattr(err, "strerror", None) or type(err).__name__
            self._notice(
                f"gave GIFs that could not be kept in the inbox {clean(str(inbox.folder))}: {why}; free some space, "
                "fix the permissions, or name another folder"
            )
