"""Which addresses may be connected to."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gifdex.index.sources.addresses import AddressRules, is_public
from gifdex.schemas.errors import SourceError

PRIVATE = [
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200",
    "0.0.0.0", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.0.0.192", "192.0.2.1",
    "198.18.0.1", "203.0.113.1", "168.63.129.16",
    "::1", "::", "fe80::1", "fe80::1%1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "::127.0.0.1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001::1",
    "64:ff9b:1::1", "fec0::1", "3fff::1", "5f00::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "151.101.2.2", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_on_the_internet_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_on_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_an_ipv6_envelope_is_as_public_as_the_ipv4_address_in_it(address: object) -> None:
    assert is_public(f"::ffff:{address}") == is_public(f"64:ff9b::{address}") == is_public(str(address))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "127.1", "2130706433", "0x7f.1", "017700000001"])
def test_every_way_to_write_a_loopback_address_is_refused(host: str) -> None:
    with pytest.raises(SourceError, match="which is not a public address"):
        AddressRules().addresses(host, 80, 5)


def test_a_host_with_one_private_address_among_others_is_refused() -> None:
    rules = AddressRules(resolver=lambda host, port: ["8.8.8.8", "10.1.2.3"])
    with pytest.raises(SourceError, match=r"gifs\.example leads to 10\.1\.2\.3"):
        rules.addresses("gifs.example", 443, 5)


def test_private_hosts_are_allowed_by_name() -> None:
    rules = AddressRules(private_hosts=frozenset({"Media.Intranet"}), resolver=lambda host, port: ["10.1.2.3"])
    assert rules.addresses("media.intranet", 80, 5) == ["10.1.2.3"]
    with pytest.raises(SourceError, match="not a public address"):
        rules.addresses("other.intranet", 80, 5)


def test_a_resolver_that_hangs_costs_no_more_than_its_seconds() -> None:
    def hang(host: str, port: int) -> list[str]:
        time.sleep(2)
        return ["8.8.8.8"]

    started = time.monotonic()
    with pytest.raises(TimeoutError):
        AddressRules(resolver=hang).addresses("gifs.example", 80, 0.1)
    assert time.monotonic() - started < 1
