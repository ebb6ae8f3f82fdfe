"""How often a service may be asked."""

from __future__ import annotations

import threading
import time
from collections import deque

from gifdex.schemas.errors import SourceError


class RateLimit:
    """At most `calls` calls in any `seconds`, over all threads that share this object."""

    def __init__(self, calls: int, seconds: float) -> None:
        if calls < 1 or not seconds > 0:
            raise ValueError(f"got {calls} calls in {seconds} seconds; expected at least 1 in more than 0")
        self._calls, self._seconds = calls, seconds
        self._starts: deque[float] = deque(maxlen=calls)
        self._lock = threading.Lock()

    def wait(self, until: float) -> None:
        """Sleep until a call is allowed; raises SourceError if that is after `until`, in `time.monotonic()`."""
        with self._lock:
            start = time.monotonic()
            if len(self._starts) == self._calls:
                start = max(start, self._starts[0] + self._seconds)
            if start > until:
                raise SourceError(
                    f"the rate limit of {self._calls} calls in {self._seconds:g} seconds is reached; ask again in "
                    f"{start - time.monotonic():.0f} seconds, or raise the limit"
                )
            self._starts.append(start)
        time.sleep(max(0.0, start - time.monotonic()))
