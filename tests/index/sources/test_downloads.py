"""Downloads from a server that misbehaves: one result for each candidate, within the budget."""

from __future__ import annotations

import dataclasses
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gifdex.index.sources.addresses import AddressRules
from gifdex.index.sources.base import Candidate
from gifdex.index.sources.downloads import Download, DownloadBudget, download
from gifdex.index.sources.http import HttpOptions, _retry_after
from tests.index.sources.http_service import Service, serving


def candidate(uri: str) -> Candidate:
    return Candidate(uri[-20:], uri, "test")


def fetch(service: Service, options: HttpOptions, *paths: str, **limits: Any) -> dict[str, Download]:
    """Download paths of a service; return the results by path."""
    budget = dataclasses.replace(DownloadBudget(), **limits)
    wanted = {service.url(path): path for path in paths}
    results = list(download([candidate(uri) for uri in wanted], budget, options))
    found = {wanted[result.candidate.uri]: result for result in results}
    assert len(found) == len(paths) == len(results)
    assert all((result.data is None) != (result.reason is None) for result in results)
    return found


def reason(service: Service, options: HttpOptions, path: str, **limits: Any) -> str:
    result = fetch(service, options, path, **limits)[path]
    assert result.data is None
    assert result.reason is not None
    assert "\n" not in result.reason
    return result.reason


def test_gifs_arrive_as_they_are_served(service: Service, local: HttpOptions) -> None:
    found = fetch(service, local, *(f"/gif/{number}" for number in range(10)))
    assert [found[f"/gif/{number}"].data for number in range(10)] == service.gifs


def test_one_bad_candidate_costs_the_others_nothing(service: Service, local: HttpOptions) -> None:
    bad = ["/status/404", "/html/x", "/huge/x", "/truncated/x", "/loop/x", "/silent/x", "/drip/body", "/endless/x"]
    found = fetch(service, local, "/gif/1", *bad, "/gif/2", seconds=1.5)
    assert {path for path, result in found.items() if result.data} == {"/gif/1", "/gif/2"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/status/404", "127.0.0.1 answered 404 (Not Found); check the URL"),
        ("/status/500", "127.0.0.1 answered 500 (Internal Server Error); try again later"),
        ("/status/799", "127.0.0.1 answered 799 (an unknown status); check the request"),
        ("/status/204", "127.0.0.1 answered 204 (No Content); check the request"),
        ("/html/x", "the file begins with b'<!DOCTYP'; expected a GIF"),
        ("/huge/x", "127.0.0.1 sent more than the 8,388,608 bytes that one file may have"),
        ("/endless/x", "127.0.0.1 sent more than the 8,388,608 bytes that one file may have"),
        ("/truncated/x", "127.0.0.1 broke off its answer"),
        ("/loop/x", "127.0.0.1 redirects more than 5 times"),
        ("/to/ftp://example.com/x.gif", "127.0.0.1 cannot be asked"),
        ("/to/http://[::1", "127.0.0.1 cannot be asked"),
        ("/packed/x", "127.0.0.1 sent compressed bytes, although it was asked not to"),
        ("/busy/3600", "127.0.0.1 answered 429 (Too Many Requests) and asks to wait 3600 seconds; ask less often"),
    ],
)
def test_what_cannot_be_fetched_has_one_sentence(
    service: Service, local: HttpOptions, path: str, expected: str
) -> None:
    assert reason(service, local, path).startswith(expected)


def test_an_empty_file_has_a_reason(service: Service, local: HttpOptions) -> None:
    service.answers["/empty"] = b""
    assert reason(service, local, "/empty").startswith("the file is empty; expected a GIF")


@pytest.mark.parametrize("path", ["/silent/x", "/drip/body", "/drip/headers"])
def test_a_dead_or_slow_server_costs_no_more_than_the_budget(service: Service, local: HttpOptions, path: str) -> None:
    started = time.monotonic()
    assert "too slow" in reason(service, local, path, seconds=0.5)
    assert 0.4 < time.monotonic() - started < 1.5


def test_retries_stop_before_the_time_is_over(service: Service, local: HttpOptions) -> None:
    started = time.monotonic()
    assert "asks to wait 2 seconds" in reason(service, local, "/busy/2", seconds=1)
    assert time.monotonic() - started < 1
    assert service.asked["/busy/2"] == 1


@pytest.mark.parametrize("path", ["/flaky/429/2", "/flaky/503/2", "/flaky/500/1", "/hangup/1"])
def test_what_passes_is_asked_again(service: Service, local: HttpOptions, path: str) -> None:
    assert fetch(service, local, path)[path].data == service.gifs[0]
    assert service.asked[path] > 1


def test_only_so_many_attempts_are_made(service: Service, local: HttpOptions) -> None:
    assert "503" in reason(service, local, "/flaky/503/9")
    assert service.asked["/flaky/503/9"] == local.attempts


def test_retry_after_is_honoured(service: Service, local: HttpOptions) -> None:
    started = time.monotonic()
    reason(service, dataclasses.replace(local, attempts=2), "/busy/1")
    assert time.monotonic() - started >= 1
    assert service.asked["/busy/1"] == 2


def test_a_file_of_the_limit_is_taken_and_one_byte_more_is_not(service: Service, local: HttpOptions) -> None:
    size = len(service.gifs[3])
    assert fetch(service, local, "/gif/3", max_file_bytes=size)["/gif/3"].data == service.gifs[3]
    assert f"more than the {size - 1:,} bytes" in reason(service, local, "/gif/3", max_file_bytes=size - 1)


def test_all_bytes_together_have_a_limit(service: Service, local: HttpOptions) -> None:
    paths = [f"/gif/{number}" for number in range(10)]
    total = sum(len(gif) for gif in service.gifs[:3])
    found = fetch(service, local, *paths, max_bytes=total, connections=1)
    assert [path for path in paths if found[path].data] == paths[:3]
    assert all(
        found[path].reason == f"not fetched: {total:,} bytes for all downloads are the limit" for path in paths[3:]
    )
    assert service.asked["/gif/9"] == 0


def test_only_so_many_files_are_fetched(service: Service, local: HttpOptions) -> None:
    found = fetch(service, local, "/gif/0", "/gif/1", "/gif/2", max_files=2)
    assert found["/gif/2"].reason == "not fetched: 2 files are the limit"
    assert service.asked["/gif/2"] == 0


def test_candidates_that_had_no_turn_in_time_have_a_reason(service: Service, local: HttpOptions) -> None:
    found = fetch(service, local, "/silent/1", "/silent/2", "/gif/0", seconds=0.4, connections=2)
    assert found["/gif/0"].reason == "not fetched: 0.4 seconds for all downloads are over"


def test_a_caller_that_stops_early_leaves_nothing_running(service: Service, local: HttpOptions) -> None:
    results = download([candidate(service.url(f"/gif/{number % 10}?{number}")) for number in range(50)],
                       DownloadBudget(connections=1), local)  # fmt: skip
    assert next(results).data
    results.close()
    assert sum(service.asked.values()) < 50


def test_loopback_is_refused_by_default(service: Service) -> None:
    options = HttpOptions()
    assert "127.0.0.1 leads to 127.0.0.1, which is not a public address" in reason(service, options, "/gif/0")
    uri = service.url("/gif/0", host="localhost")  # a name that resolves to it
    (result,) = download([candidate(uri)], options=options)
    assert result.reason is not None
    assert "localhost leads to" in result.reason
    assert service.asked["/gif/0"] == 0


def test_a_redirect_to_loopback_is_refused(service: Service) -> None:
    """The first host may be private, as a public one may: the address of each redirect is checked again."""
    rules = AddressRules(private_hosts=frozenset({"gifs.example"}), resolver=lambda host, port: ["127.0.0.1"])
    options = HttpOptions(addresses=rules)
    here, there = service.url("", host="gifs.example"), service.url("/gif/0", host="localhost")
    candidates = [
        candidate(f"{here}/to/{there}"),
        candidate(f"{here}/to//gif/1"),
        candidate(f"{here}/to/{service.url('/gif/2')}"),
    ]
    results = {result.candidate.uri: result for result in download(candidates, options=options)}
    assert "localhost leads to 127.0.0.1" in str(results[candidates[0].uri].reason)
    assert results[candidates[1].uri].data == service.gifs[1]
    assert "127.0.0.1 leads to 127.0.0.1" in str(results[candidates[2].uri].reason)
    assert service.asked["/gif/0"] == service.asked["/gif/2"] == 0


def test_the_checked_address_is_the_one_connected_to(service: Service) -> None:
    """A name that resolves to something else the second time (DNS rebinding) is resolved once."""
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["8.8.8.8"] if len(asked) > 1 else ["127.0.0.1"]

    options = HttpOptions(attempts=1, addresses=AddressRules(allow_private=True, resolver=rebinding))
    (result,) = download([candidate(service.url("/gif/0", host="gifs.example"))], options=options)
    assert result.data == service.gifs[0]
    assert asked == ["gifs.example"]
    assert service.hosts == [f"gifs.example:{service.port}"]


def test_a_dead_first_address_leaves_time_for_the_second(service: Service) -> None:
    rules = AddressRules(allow_private=True, resolver=lambda host, port: ["127.0.0.2", "127.0.0.1"])
    (result,) = download([candidate(service.url("/gif/0", host="gifs.example"))], options=HttpOptions(addresses=rules))
    assert result.data == service.gifs[0]


def test_an_endless_redirect_is_followed_without_its_body(service: Service, local: HttpOptions) -> None:
    assert fetch(service, local, "/endless/redirect")["/endless/redirect"].data == service.gifs[0]


def test_cookies_are_not_kept(service: Service, local: HttpOptions) -> None:
    assert fetch(service, local, "/cookie/x")["/cookie/x"].data
    assert not any("Cookie" in headers for headers in service.headers)


def test_a_port_where_nothing_listens_has_a_reason(service: Service, local: HttpOptions) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}/x.gif"
        (result,) = download([candidate(uri)], options=local)
    assert str(result.reason).startswith("127.0.0.1 cannot be connected to")


@pytest.mark.parametrize(
    "uri",
    ["", "x.gif", "/etc/passwd", "file:///etc/passwd", "ftp://example.com/x.gif", "http://", "http:///x", "http://[::1",
     "http://a:99999999/", "data:image/gif;base64,R0lGODlh", "\x00", "http://exa mple/\n", "http://" + "a" * 300 + "/"],
)  # fmt: skip
def test_what_is_not_a_url_has_a_reason(uri: str) -> None:
    rules = AddressRules(resolver=lambda host, port: ["127.0.0.1"])
    (result,) = download([candidate(uri)], options=HttpOptions(addresses=rules))
    assert result.data is None
    assert result.reason


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(st.text() | st.text().map("http://{}".format) | st.text().map("https://a.example/{}".format), max_size=5)
)
def test_no_text_as_a_uri_raises(uris: list[str]) -> None:
    rules = AddressRules(resolver=lambda host, port: ["127.0.0.1"])
    results = list(download([candidate(uri) for uri in uris], options=HttpOptions(addresses=rules)))
    assert len(results) == len(uris)
    assert all(result.reason for result in results)


def test_an_unknown_host_has_a_reason() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    options = HttpOptions(addresses=AddressRules(resolver=unknown))
    (result,) = download([candidate("https://nowhere.invalid/x.gif")], options=options)
    assert result.reason == "the host nowhere.invalid is not known; check its name"


def test_tls_checks_the_name_of_the_url_not_the_address(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=gifs.example"]
    command += ["-addext", "subjectAltName=DNS:gifs.example", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl makes the certificate, and is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    rules = AddressRules(allow_private=True, resolver=lambda host, port: ["127.0.0.1"])
    with serving(context) as secure:
        secure.gifs = service.gifs
        uris = [secure.url("/gif/0", host="gifs.example"), secure.url("/gif/0", host="other.example")]
        results = {each.candidate.uri: each for each in download([candidate(uri) for uri in uris], None,
                   HttpOptions(attempts=1, addresses=rules))}  # fmt: skip
    assert results[uris[0]].data == service.gifs[0]
    assert "other.example cannot be connected to" in str(results[uris[1]].reason)


def test_a_budget_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="a limit that is too low"):
        DownloadBudget(connections=0)


@pytest.mark.parametrize(
    "value",
    ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "Mon, 01 Jan 2020 00:00:00 +9999", "Mon", "1 1 1", '"('],
)
def test_a_retry_after_that_is_no_time_counts_as_none(value: str) -> None:
    assert _retry_after(value) == 0


def test_an_error_nobody_expected_is_a_reason(local: HttpOptions) -> None:
    (result,) = download([Candidate("a", 5, "s")], options=local)  # type: ignore[arg-type]
    assert result.reason == "cannot be fetched (AttributeError)"
