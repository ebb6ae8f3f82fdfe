"""Sockets for httpx that connect only to checked addresses and give up at a point of time.

httpx and httpcore pass timeouts through without reading them, one per operation. A server that sends a byte now and
then keeps within any such timeout forever. So requests through `CheckedTransport` carry **points of time** there
(`time.monotonic()`), and this module turns them into the seconds that are left.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any

from gifdex.index.sources.addresses import AddressRules
from gifdex.schemas.errors import MissingExtraError, SourceError

try:
    import httpcore
    import httpx
except ImportError as err:
    raise MissingExtraError("an outside source", err.name or "httpx", "hybrid") from err

HIDDEN_QUERY = "gifdex_hidden_query"  # request extension: bytes that end the URL, which no log and no error shows


class CheckedTransport(httpx.BaseTransport):
    """Sends requests over `CheckedBackend`. Proxies of the environment are not used: they would resolve names."""

    def __init__(self, backend: CheckedBackend) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(), max_connections=None, network_backend=backend
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; errors are httpcore's."""
        target = request.url.raw_path
        if hidden := request.extensions.get(HIDDEN_QUERY, b""):
            target += (b"&" if b"?" in target else b"?") + hidden
        url = httpcore.URL(
            scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port, target=target
        )
        response = self._pool.handle_request(
            httpcore.Request(
                request.method, url, headers=request.headers.raw, content=b"", extensions=request.extensions
            )
        )
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class CheckedBackend(httpcore.NetworkBackend):
    """Connects to the addresses that `rules` allow, and to exactly those that were checked (no DNS rebinding).

    A connection takes at most `connect_seconds` to open, and `idle_seconds` without a byte end it.
    """

    def __init__(self, rules: AddressRules, connect_seconds: float, idle_seconds: float) -> None:
        self._rules, self._connect_seconds, self._idle_seconds = rules, connect_seconds, idle_seconds
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to one address of `host` before the point of time `timeout`; see `AddressRules.addresses`."""
        until = time.monotonic() + _left(timeout, self._connect_seconds, httpcore.ConnectTimeout)
        addresses = self._addresses(host, port, until)
        for position, address in enumerate(addresses):
            # A dead first address must leave time for the others.
            seconds = _left(until, self._connect_seconds, httpcore.ConnectTimeout) / (len(addresses) - position)
            try:
                stream = self._sockets.connect_tcp(address, port, seconds, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if position + 1 == len(addresses):
                    raise
            else:
                return _TimedStream(stream, self._connect_seconds, self._idle_seconds)
        raise httpcore.ConnectError(f"{host} has no address")

    def _addresses(self, host: str, port: int, until: float) -> list[str]:
        try:
            return self._rules.addresses(host, port, max(0.0, until - time.monotonic()))
        except TimeoutError as err:
            raise httpcore.ConnectTimeout("the name was not resolved in time") from err
        except (OSError, UnicodeError) as err:
            if isinstance(err, socket.gaierror) and err.errno == socket.EAI_AGAIN:
                raise httpcore.ConnectError(str(err)) from err
            raise SourceError(f"the host {host} is not known; check its name") from err


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, connect_seconds: float, idle_seconds: float) -> None:
        self._stream, self._connect_seconds, self._idle_seconds = stream, connect_seconds, idle_seconds

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, self._idle_seconds, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout, self._idle_seconds, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        seconds = _left(timeout, self._connect_seconds, httpcore.ConnectTimeout)
        stream = self._stream.start_tls(ssl_context, server_hostname, seconds)
        return _TimedStream(stream, self._connect_seconds, self._idle_seconds)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(until: float | None, at_most: float, error: type[httpcore.TimeoutException]) -> float:
    """Return the seconds left until a point of time, and no more than `at_most`; raises `error` at zero."""
    seconds = at_most if until is None else min(at_most, until - time.monotonic())
    if seconds <= 0:
        raise error("the time is over")
    return seconds
