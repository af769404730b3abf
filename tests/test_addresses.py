"""Which addresses are special, against the standard library's tables where they mean the same."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.addresses import CLOSED, PRIVATE, plain, special


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.255", "loopback"),
        ("128.0.0.0", ""),
        ("0.0.0.0", "this host"),
        ("10.1.2.3", "private"),
        ("172.31.255.255", "private"),
        ("172.32.0.0", ""),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "private"),
        ("169.254.169.254", "link-local"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("255.255.255.255", "reserved"),
        ("224.0.0.251", "multicast"),
        ("192.0.2.1", ""),  # documentation
        ("9.9.9.9", ""),
        ("::", "this host"),
        ("::1", "loopback"),
        ("::127.0.0.1", "IPv4 as IPv6"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:9.9.9.9", ""),
        ("fe80::1", "link-local"),
        ("fd12::1", "private"),
        ("ff02::fb", "multicast"),
        ("2001:db8::1", ""),
        ("2620:fe::fe", ""),
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b::169.254.169.254", "link-local"),
        ("64:ff9b::9.9.9.9", ""),
        ("2002:7f00:1::1", "loopback"),
        ("2002:909:909::1", ""),
        ("2001:0:909:909::", "a tunnel"),
    ],
)
def test_special(address: str, kind: str) -> None:
    assert special(ip_address(address)) == kind


@given(st.ip_addresses())
def test_nothing_that_the_standard_library_calls_local_is_open(address: IPv4Address | IPv6Address) -> None:
    found = special(address)
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        assert found
    if found == "private":
        assert not plain(address).is_global or address in ip_network("64:ff9b::/96")


@given(st.data())
def test_every_address_of_a_listed_network_is_special(data: st.DataObject) -> None:
    network = ip_network(data.draw(st.sampled_from([*PRIVATE, *(each for each, _ in CLOSED)])))
    inside = st.integers(0, network.num_addresses - 1).map(lambda number: network[number])
    address = data.draw(inside)
    if address not in ip_network("::ffff:0:0/96"):
        assert special(address)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_the_same_in_ipv6(address: IPv4Address) -> None:
    mapped = IPv6Address(f"::ffff:{address}")
    assert plain(mapped) == address
    assert special(mapped) == special(address) == special(IPv6Address(f"64:ff9b::{address}"))
