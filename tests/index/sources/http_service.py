"""A real HTTP server that speaks GIPHY's JSON, serves GIFs, and misbehaves where a path asks for it."""

from __future__ import annotations

import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "s3cret-key"


class Service(ThreadingHTTPServer):
    """Counts requests by path; `gifs` are served at /gif/N, `answers` (JSON, or bytes) at their paths."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.gifs: list[bytes] = []
        self.answers: dict[str, Any] = {}
        self.asked: Counter[str] = Counter()
        self.queries: list[dict[str, list[str]]] = []
        self.headers: list[dict[str, str]] = []
        self.hosts: list[str] = []
        self.stopping = threading.Event()
        self.scheme = "http"

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def url(self, path: str = "", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up early is what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.asked[parts.path] += 1
        self.server.queries.append(parse_qs(parts.query))
        self.server.headers.append(dict(self.headers))
        self.server.hosts.append(self.headers["Host"])
        first, _, rest = parts.path.lstrip("/").partition("/")
        if parts.path in self.server.answers:
            answer = self.server.answers[parts.path]
            self.send(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
        elif parts.path == "/v1/gifs/search":
            self.giphy(self.server.queries[-1])
        else:
            kinds: dict[str, Callable[[str], None]] = {
                name[3:]: getattr(self, name) for name in dir(self) if name.startswith("at_")
            }
            kinds.get(first, lambda _: self.send(b"", 404))(rest)

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def giphy(self, query: dict[str, list[str]]) -> None:
        if query.get("api_key") != [KEY]:
            self.send(json.dumps({"data": [], "meta": {"status": 401, "msg": "Unauthorized"}}).encode(), 401)
            return
        offset, limit = int(query["offset"][0]), int(query["limit"][0])
        numbers = range(len(self.server.gifs))[offset : offset + min(limit, 50)]
        body = {
            "data": [self.giphy_item(number) for number in numbers],
            "pagination": {"total_count": len(self.server.gifs), "count": len(numbers), "offset": offset},
            "meta": {"status": 200, "msg": "OK", "response_id": "x"},
        }
        self.send(json.dumps(body).encode(), Content_Type="application/json")

    def giphy_item(self, number: int) -> dict[str, Any]:
        small = {"url": self.server.url(f"/gif/{number}?cid=1&rid=200.gif"), "height": "200", "size": "1"}
        original = {"url": self.server.url("/endless/x"), "height": "2000", "size": "99999999"}
        return {
            "type": "gif",
            "id": f"id{number}",
            "url": f"https://giphy.com/gifs/id{number}",
            "title": f"GIF {number}",
            "images": {"original": original, "fixed_height": small, "downsized_small": {"mp4": "x"}},
        }

    # What is below answers at the path after "at_".

    def at_gif(self, rest: str) -> None:
        self.send(self.server.gifs[int(rest)], Content_Type="image/gif")

    def at_status(self, rest: str) -> None:
        self.send(b"no", int(rest))

    def at_flaky(self, rest: str) -> None:
        """/flaky/429/2: the first two times that status, then a GIF."""
        status, times = rest.split("/")
        if self.server.asked[urlsplit(self.path).path] <= int(times):
            self.send(b"later", int(status), Retry_After="0")
        else:
            self.at_gif("0")

    def at_busy(self, rest: str) -> None:
        """/busy/3600: 429 with that Retry-After."""
        self.send(b"", 429, Retry_After=rest)

    def at_hangup(self, rest: str) -> None:
        """/hangup/1: the connection ends without an answer the first time."""
        if self.server.asked[urlsplit(self.path).path] <= int(rest):
            self.close_connection = True
        else:
            self.at_gif("0")

    def at_silent(self, rest: str) -> None:
        self.server.stopping.wait(30)

    def at_drip(self, rest: str) -> None:
        """A byte now and then, of the body or of the headers."""
        self.close_connection = True
        if rest == "headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        else:
            self.send(b"GIF89a", Content_Length="1000000")
        while not self.server.stopping.wait(0.05):
            self.wfile.write(b"x")

    def at_truncated(self, rest: str) -> None:
        self.close_connection = True
        self.send(self.server.gifs[0][:100], Content_Length=str(len(self.server.gifs[0])))

    def at_huge(self, rest: str) -> None:
        self.close_connection = True
        self.send(b"GIF89a" + bytes(10), Content_Length=str(10**12))

    def at_endless(self, rest: str) -> None:
        """A body without an end, of a GIF or of a redirect."""
        self.close_connection = True
        self.send_response(302 if rest == "redirect" else 200)
        if rest == "redirect":
            self.send_header("Location", "/gif/0")
        self.end_headers()
        self.wfile.write(b"GIF89a")
        while not self.server.stopping.is_set():
            self.wfile.write(bytes(65536))

    def at_html(self, rest: str) -> None:
        self.send(b"<!DOCTYPE html><title>Log in</title>", Content_Type="text/html")

    def at_packed(self, rest: str) -> None:
        self.send(b"\x1f\x8b", Content_Encoding="gzip")

    def at_to(self, rest: str) -> None:
        """/to/URL: a redirect there."""
        self.send(b"", 302, Location=rest)

    def at_loop(self, rest: str) -> None:
        self.send(b"", 302, Location=self.path)

    def at_cookie(self, rest: str) -> None:
        self.send(b"", 302, Location="/gif/0", Set_Cookie="who=me; Path=/")


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Service]:
    """Run a service in a thread, over TLS with a context."""
    with Service() as service:
        if context is not None:
            service.socket = context.wrap_socket(service.socket, server_side=True)
            service.scheme = "https"
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield service
        finally:
            service.stopping.set()
            service.shutdown()
            thread.join()
