"""Entries of allow and deny lists, and what they say together."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.destination import Destination, Policy, Way, host, name_of, parse


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Example.ORG.", "example.org"),
        ("*.Example.org:443", "*.example.org:443"),
        ("*", "*"),
        ("*:443/tcp", "*:443/tcp"),
        ("_dmarc.example.org", "_dmarc.example.org"),
        ("localhost", "localhost"),
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.0/24:443", "192.0.2.0/24:443"),
        ("10.0.0.0/8/udp", "10.0.0.0/8/udp"),
        ("192.0.2.1/32:53/udp", "192.0.2.1:53/udp"),
        ("2001:DB8::1", "2001:db8::1"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("2001:db8::/32:443", "[2001:db8::/32]:443"),
        ("[2001:db8::]/32:443", "[2001:db8::/32]:443"),
        ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1:80"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("bücher.example:443", "xn--bcher-kva.example:443"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
    ],
)
def test_each_has_one_spelling(text: str, same: str) -> None:
    assert str(parse(text)) == same
    assert parse(same) == parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a host name"),
        (".", "not a host name"),
        ("a..b", "not a host name"),
        ("a b", "not a host name"),
        ("-a.org", "not a host name"),
        ("a" * 64 + ".org", "not a host name"),
        ("a." * 127 + "org", "253"),
        ("a\0b", "not a host name"),
        ("a.b:", "not a port"),
        ("a.b:0", "not a port"),
        ("a.b:99999", "not a port"),
        ("a.b:https", "not a port"),
        ("a.b:٤٤٣", "not a port"),
        ("a.b:443/sctp", "not a port"),
        ("https://a.b/", "write its host"),
        ("a*.b", "only at the beginning"),
        ("*.*.b", "only at the beginning"),
        ("a.*", "only at the beginning"),
        ("*.", "not a host name"),
        ("*.192.0.2.1", "not an address"),
        # what inet_aton takes for 127.0.0.1
        ("127.1", "not an address"),
        ("2130706433", "not an address"),
        ("0x7f000001", "not an address"),
        ("0x7f.0.0.1", "not an address"),
        ("0x7f.1", "not an address"),
        ("0177.0.0.1", "not an address"),
        ("127.0.0.0x1", "not an address"),
        ("127.0.0.1.", "not an address"),
        ("١٢٧.0.0.1", "not a host name|not an address"),
        ("1.2.3.4.5", "not an address"),
        ("10.0.0.1/8", 'did you mean "10.0.0.0/8"'),
        ("10.0.0.0/33", "not an address"),
        ("10.0.0.0/255.0.0.0", "not an address"),
        ("[192.0.2.1]:80", "only IPv6 addresses"),
        ("[example.org]:80", "only IPv6 addresses"),
        ("[::1", "only IPv6 addresses"),
        ("[::1]80", "only IPv6 addresses"),
        ("fe80::1%eth0", "not an address"),
        ("straße.example", "more than one name"),
        ("a\u200db.example", "more than one name"),
        ("exa\u2024mple.org", "more than one name|not a host name"),  # one dot leader
        ("\uff41.example", "more than one name"),  # full width: IDNA makes "a" of it
    ],
)
def test_what_is_none(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(text)


LABEL = st.from_regex(r"[a-z_]([a-z0-9_-]{0,10}[a-z0-9_])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=5).map(".".join).filter(lambda name: "xn--" not in name)
PORT = st.integers(0, 65535)
PROTOCOL = st.sampled_from(["", "tcp", "udp"])


@given(st.text(max_size=40) | st.from_regex(r"[0-9a-fx.:*/\[\]%-]{0,30}", fullmatch=True))
def test_any_text_is_a_destination_or_a_value_error(text: str) -> None:
    try:
        found = parse(text)
    except ValueError as error:
        assert str(error)
        return
    assert parse(str(found)) == found
    assert str(found).isascii()
    if found.network is None:
        assert found.name == found.name.lower()
        with pytest.raises(ValueError, match="does not appear"):
            ip_address(found.name)


@given(NAME, PORT, PROTOCOL, st.booleans())
def test_names_come_back(name: str, port: int, protocol: str, below: bool) -> None:
    made = Destination(name, below, None, port, protocol)  # type: ignore[arg-type]
    assert parse(str(made)) == made


@given(st.text(max_size=30))
def test_any_text_is_a_host_or_a_value_error(text: str) -> None:
    try:
        found = host(text)
    except ValueError:
        return
    assert host(str(found)) == found


@pytest.mark.parametrize("text", ["127.1", "0x7f.1", "017700000001", "2130706433", "1.2.3", "fe80::1%1", ""])
def test_a_host_in_other_notations_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|can be"):
        host(text)


def test_hosts() -> None:
    assert host("127.0.0.1.") == ip_address("127.0.0.1")
    assert host("::ffff:7f00:1") == ip_address("127.0.0.1")
    assert host("A.b.") == name_of("a.B") == "a.b"


def policy(allow: str | None, deny: str = "") -> Policy:
    return Policy(None if allow is None else map(parse, allow.split()), map(parse, deny.split()))


def test_no_list_allows_everything_and_an_empty_one_nothing() -> None:
    everything, nothing = policy(None), policy("")
    address = ip_address("192.0.2.1")
    assert (
        everything.may_name("a.b", 443) and everything.may_address(address, 80) and everything.resolves("a")
    )
    assert not nothing.may_name("a.b", 443)
    assert not nothing.may_address(address, 80)
    assert not nothing.resolves("a")


def test_below_is_not_the_name_itself() -> None:
    some = policy("*.example.org")
    assert some.may_name("a.example.org", 1) and some.may_name("a.b.example.org", 1)
    assert not some.may_name("example.org", 1)
    assert not some.may_name("badexample.org", 1)
    assert not some.may_name("example.org.evil.net", 1)


def test_deny_wins() -> None:
    some = policy("*.example.org 192.0.2.0/24 x.net", "ads.example.org b.example.org:25 192.0.2.7 x.net/udp")
    assert not some.resolves("ads.example.org")
    assert some.resolves("b.example.org") and some.may_name("b.example.org", 443)
    assert not some.may_name("b.example.org", 25)
    assert not some.may_address(ip_address("192.0.2.7"), 80)
    assert some.grants(ip_address("192.0.2.8"), 80)
    assert some.may_name("x.net", 53, "tcp") and not some.may_name("x.net", 53, "udp")
    assert some.ways("b.example.org") == ([Way(0, "")], [Way(25, "")])


def test_ports() -> None:
    some = policy("a.org:443 b.org:53/udp 192.0.2.1:22")
    assert some.may_name("a.org", 443) and not some.may_name("a.org", 80)
    assert some.may_name("b.org", 53, "udp") and not some.may_name("b.org", 53, "tcp")
    assert some.may_address(ip_address("192.0.2.1"), 22) and not some.may_address(ip_address("192.0.2.1"), 23)


def test_what_is_checked() -> None:
    some = policy("a.org b.org:443/tcp c.org:8443 d.org/tcp")
    assert some.checked("a.org", 443) and some.checked("a.org", 80) and some.checked("d.org", 443)
    assert not some.checked("b.org", 443)
    assert not some.checked("c.org", 8443)
    assert policy(None, "e.org").checked("a.org", 443)


@given(NAME, st.lists(NAME, max_size=3), st.lists(NAME, max_size=3), PORT.filter(bool), PROTOCOL.filter(bool))
def test_a_policy_never_gives_what_is_denied(
    name: str, allow: list[str], deny: list[str], port: int, protocol: str
) -> None:
    some = Policy([Destination(each, True) for each in allow], [Destination(each) for each in (*deny, name)])
    assert not some.may_name(name, port, protocol)
    assert not some.resolves(name)
    one = Policy([Destination(name)], [])
    assert one.may_name(name, port, protocol)
    assert not one.may_name(f"x.{name}", port, protocol)
