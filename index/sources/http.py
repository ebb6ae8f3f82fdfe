"""The one owner of an httpx client: timeouts, retries, redirects, sizes, and errors of one sentence.

Errors name the host alone, and parameters are added to the URL where neither httpx's log nor an error sees them: API
keys are among them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from gifdex.index.sources.addresses import AddressRules
from gifdex.index.sources.network import HIDDEN_QUERY, CheckedBackend, CheckedTransport
from gifdex.index.sources.rate_limit import RateLimit
from gifdex.schemas.errors import MissingExtraError, SourceError

try:
    import httpcore
    import httpx
    from tenacity import (
        RetryCallState,
        Retrying,
        retry_if_exception_type,
        stop_after_attempt,
        stop_before_delay,
        wait_random_exponential,
    )
except ImportError as err:
    raise MissingExtraError("an outside source", err.name or "httpx", "hybrid") from err

_MAX_JSON_BYTES = 8 << 20
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_ADVICE = {401: "check the API key", 403: "check the API key", 404: "check the URL", 429: "ask less often"}


@dataclass(frozen=True)
class HttpOptions:
    """How patient and how careful a client is.

    `attempts` counts the first one too; between them are pauses of random length up to `backoff_seconds`, twice that,
    and so on, after what a server's Retry-After asks for. `idle_seconds` without a byte end a request.
    """

    attempts: int = 3
    backoff_seconds: float = 0.5
    connect_seconds: float = 5.0
    idle_seconds: float = 10.0
    max_redirects: int = 5
    addresses: AddressRules = field(default_factory=AddressRules)


class _AgainError(SourceError):
    """A failure after which another attempt may succeed, at least `seconds` later."""

    def __init__(self, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class Http:
    """An HTTP client that several threads may use; close it, or use it in a `with` statement.

    Every call ends by `until`, a point of time of `time.monotonic()`, whatever the server does.
    """

    def __init__(self, options: HttpOptions | None = None, rate_limit: RateLimit | None = None) -> None:
        self._options = options = options or HttpOptions()
        self._rate_limit = rate_limit
        backend = CheckedBackend(options.addresses, options.connect_seconds, options.idle_seconds)
        self._client = httpx.Client(
            transport=CheckedTransport(backend),
            headers={"User-Agent": "gifdex", "Accept-Encoding": "identity"},  # compressed bytes may unpack to any size
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def json(self, url: str, params: Sequence[tuple[str, str]], headers: Mapping[str, str], until: float) -> Any:
        """Return the JSON at a URL; raises SourceError. Redirects are errors: `params` and `headers` hold secrets."""
        request = self._request(url, until, headers, urlencode(params).encode())
        taken = bytearray()
        self._get(request, until, False, lambda: _Sink(taken, _MAX_JSON_BYTES))
        try:
            return json.loads(taken)
        except (ValueError, RecursionError) as err:
            raise SourceError(f"the answer of {request.url.host} is not JSON; check the URL") from err

    def fetch(self, url: str, until: float, max_bytes: int, check: Callable[[bytearray, int], None]) -> bytes:
        """Return the bytes at a URL, following redirects; raises SourceError.

        `check` is called for each received piece with all bytes so far and the number of new ones. It may raise
        SourceError to stop.
        """
        taken = bytearray()
        self._get(self._request(url, until), until, True, lambda: _Sink(taken, max_bytes, check))
        return bytes(taken)

    def _request(
        self, url: str, until: float, headers: Mapping[str, str] | None = None, hidden: bytes = b""
    ) -> httpx.Request:
        try:
            request = self._client.build_request(
                "GET",
                url,
                headers=headers,
                timeout=httpx.Timeout(until, pool=None),  # points of time: see `network`
                extensions={HIDDEN_QUERY: hidden},
            )
        except (httpx.InvalidURL, ValueError, TypeError) as err:
            raise SourceError(f"this is not a URL that can be fetched: {url.partition('?')[0][:200]!r}") from err
        if request.url.scheme not in ("http", "https") or not request.url.host:
            raise SourceError(f"this URL has no http:// or https:// and a host: {url.partition('?')[0][:200]!r}")
        return request

    def _get(self, request: httpx.Request, until: float, redirects: bool, new_sink: Callable[[], _Sink]) -> None:
        options = self._options

        def attempt() -> None:
            if self._rate_limit is not None:
                self._rate_limit.wait(until)
            with _errors_of(request.url.host):
                self._attempt(request, redirects, new_sink())

        backoff = wait_random_exponential(multiplier=options.backoff_seconds, max=8)
        Retrying(
            retry=retry_if_exception_type(_AgainError),
            stop=stop_after_attempt(options.attempts) | stop_before_delay(max(0.0, until - time.monotonic())),
            wait=lambda state: _asked_pause(state) + backoff(state),
            reraise=True,
        )(attempt)

    def _attempt(self, request: httpx.Request, redirects: bool, sink: _Sink) -> None:
        for _ in range(self._options.max_redirects + 1):
            response = self._client.send(request, stream=True)
            try:
                if not (redirects and response.next_request):
                    _check_status(response)
                    return sink.take(response)
                # httpx's own way of following reads the redirect's body to its end, and it may have none.
                request = response.next_request
            finally:
                response.close()
        raise SourceError(f"{request.url.host} redirects more than {self._options.max_redirects} times")


class _Sink:
    """Takes the bytes of one response, up to a limit."""

    def __init__(self, taken: bytearray, max_bytes: int, check: Callable[[bytearray, int], None] | None = None) -> None:
        self._taken, self._max_bytes, self._check = taken, max_bytes, check
        taken.clear()  # what an earlier attempt left

    def take(self, response: httpx.Response) -> None:
        host = response.request.url.host
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise SourceError(f"{host} sent compressed bytes, although it was asked not to")
        if int(response.headers.get("Content-Length", 0)) > self._max_bytes:
            raise self._too_large(host)
        for piece in response.iter_raw():
            self._taken += piece
            if len(self._taken) > self._max_bytes:
                raise self._too_large(host)
            if self._check is not None:
                self._check(self._taken, len(piece))

    def _too_large(self, host: str) -> SourceError:
        return SourceError(f"{host} sent more than the {self._max_bytes:,} bytes that one file may have")


def _check_status(response: httpx.Response) -> None:
    """Raise SourceError for any status but 200."""
    status, host = response.status_code, response.request.url.host
    if status == httpx.codes.OK:
        return
    message = f"{host} answered {status} ({httpx.codes.get_reason_phrase(status) or 'an unknown status'})"
    if response.has_redirect_location:
        raise SourceError(f"{message}; redirects are not followed here: use the URL it leads to")
    if status not in _RETRIED:
        raise SourceError(f"{message}; {_ADVICE.get(status, 'check the request')}")
    seconds = _retry_after(response.headers.get("Retry-After", ""))
    asks = f" and asks to wait {seconds:.0f} seconds" if seconds else ""
    raise _AgainError(f"{message}{asks}; {_ADVICE.get(status, 'try again later')}", seconds)


def _retry_after(value: str) -> float:
    """Return the seconds that a Retry-After header asks to wait (RFC 9110, 10.2.3), 0 if it is absent or nonsense."""
    if value.strip().isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):  # such as a year of twenty digits
        return 0.0


def _asked_pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    return error.seconds if isinstance(error, _AgainError) else 0.0


@contextmanager
def _errors_of(host: str) -> Iterator[None]:
    """Turn errors of one request into SourceError; those that may pass become _AgainError."""
    try:
        yield
    except httpcore.ConnectTimeout as err:
        raise _AgainError(f"{host} cannot be connected to in time; try again later") from err
    except httpcore.TimeoutException as err:
        raise SourceError(f"{host} is too slow: it did not send everything in time; try again later") from err
    except httpcore.ConnectError as err:
        raise _AgainError(f"{host} cannot be connected to ({err}); check the address, or try again later") from err
    except (httpcore.NetworkError, httpcore.RemoteProtocolError) as err:
        raise _AgainError(f"{host} broke off its answer ({err}); try again later") from err
    except (httpx.HTTPError, httpx.InvalidURL, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as err:
        raise SourceError(f"{host} cannot be asked, or redirects to what is not a URL ({type(err).__name__})") from err
    except (OSError, ValueError) as err:  # such as a port or a header that is not one
        raise SourceError(f"{host} cannot be asked ({type(err).__name__}); check the URL") from err
