"""Download candidates at the same time under budgets; one bad candidate costs nothing but a reason."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from gifdex.encoders.frames.decoders.base import format_of
from gifdex.index.sources.base import Candidate
from gifdex.index.sources.http import Http, HttpOptions
from gifdex.schemas.errors import SourceError, UnsupportedFormatError

_SIGNATURE = 12  # bytes that tell the format


@dataclass(frozen=True)
class DownloadBudget:
    """What all downloads of one query may cost: files, bytes of one, bytes in all, seconds and connections."""

    max_files: int = 100
    max_file_bytes: int = 8 << 20
    max_bytes: int = 128 << 20
    seconds: float = 10.0
    connections: int = 16

    def __post_init__(self) -> None:
        if (
            min(self.max_file_bytes, self.max_bytes, self.connections) < 1
            or self.max_files < 0
            or not self.seconds >= 0
        ):
            raise ValueError(f"{self} has a limit that is too low")


@dataclass(frozen=True)
class Download:
    """One candidate with its bytes, or with one sentence that says why there are none."""

    candidate: Candidate
    data: bytes | None = None
    reason: str | None = None


def download(
    candidates: Sequence[Candidate], budget: DownloadBudget | None = None, options: HttpOptions | None = None
) -> Generator[Download, None, None]:
    """Yield one result for each candidate, as they arrive; never raises for one of them.

    Only http:// and https:// are fetched, and only from public addresses (see `AddressRules`); redirects are checked
    in the same way. The bytes begin as an animation that gifdex reads; the rest is the decoder's to judge. The
    seconds of the budget run from the first result that is asked for, and what is unfinished then has a reason.
    """
    budget = budget or DownloadBudget()
    for candidate in candidates[budget.max_files :]:
        yield Download(candidate, reason=f"not fetched: {budget.max_files} files are the limit")
    with Http(options or HttpOptions(attempts=2)) as http:
        run = _Run(http, budget)
        threads = ThreadPoolExecutor(budget.connections, thread_name_prefix="gifdex-download")
        try:
            futures = [threads.submit(run.fetch, candidate) for candidate in candidates[: budget.max_files]]
            for future in as_completed(futures):
                yield future.result()
        finally:
            run.stopped.set()  # if the caller wants no more
            threads.shutdown(cancel_futures=True)


class _Run:
    """What the threads of one call share."""

    def __init__(self, http: Http, budget: DownloadBudget) -> None:
        self._http, self._budget = http, budget
        self._until = time.monotonic() + budget.seconds
        self._bytes = 0
        self._lock = threading.Lock()
        self.stopped = threading.Event()

    def fetch(self, candidate: Candidate) -> Download:
        try:
            self._check_budget(0)
            data = self._http.fetch(candidate.uri, self._until, self._budget.max_file_bytes, self._check)
            format_of(data)
        except (SourceError, UnsupportedFormatError) as err:
            return Download(candidate, reason=str(err))
        except Exception as err:  # noqa: BLE001  # one bad candidate costs nothing but a reason
            return Download(candidate, reason=f"cannot be fetched ({type(err).__name__})")
        return Download(candidate, data)

    def _check(self, taken: bytearray, new: int) -> None:
        """Raise an error if a download may not go on: the budget, or bytes that are no animation."""
        self._check_budget(new)
        if len(taken) >= _SIGNATURE:
            format_of(bytes(taken[:_SIGNATURE]))

    def _check_budget(self, new: int) -> None:
        with self._lock:
            self._bytes += new
            spent = self._bytes
        if self.stopped.is_set():
            raise SourceError("not fetched: the caller wants no more")
        if spent > self._budget.max_bytes or (new == 0 and spent == self._budget.max_bytes):
            raise SourceError(f"not fetched: {self._budget.max_bytes:,} bytes for all downloads are the limit")
        if time.monotonic() >= self._until:
            raise SourceError(f"not fetched: {self._budget.seconds:g} seconds for all downloads are over")
