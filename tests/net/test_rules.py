"""The nftables table: that nft takes it whatever it is made of, and what stands before what."""

from __future__ import annotations

import itertools
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.destination import Destination, Policy, parse
from sandbox.net.rules import HOST_SETS, SETS, TABLE, Rules

REACH = ("private", "host", "loopback", "link-local")


def loaded(text: str) -> str:
    """What the kernel has after loading it."""
    script = "/usr/sbin/nft -f - && /usr/sbin/nft list ruleset"
    done = subprocess.run(["unshare", "-rn", "sh", "-c", script], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + text
    return done.stdout


def policy(allow: str | None, deny: str = "") -> Policy:
    return Policy(None if allow is None else map(parse, allow.split()), map(parse, deny.split()))


def whole(**changes: object) -> Rules:
    made: dict[str, object] = {
        "own": ("10.0.2.100", "fd00::100"),
        "resolvers": ("10.0.2.3", "fd00::3", "9.9.9.9"),
        "gateways": ("10.0.2.2", "fd00::2"),
        "forwarders": ("10.0.2.3", "fd00::3"),
        "policy": policy("a.org 10.1.0.0/16:443 [2001:db8::/32]:5/udp", "192.0.2.7 1.2.3.0/24/udp b.org:25"),
        "redirect": 61080,
        "services": True,
    }
    return Rules(**{**made, **changes})  # type: ignore[arg-type]


@pytest.mark.integration
@pytest.mark.parametrize("services", [False, True])
@pytest.mark.parametrize("reach", [each for n in range(5) for each in itertools.combinations(REACH, n)])
def test_the_kernel_takes_it(need, services: bool, reach: tuple[str, ...]) -> None:
    need("nft", "userns")
    text = loaded(whole(reach=reach, services=services, redirect=61080 if services else 0).text())
    assert f"table inet {TABLE}" in text
    for name in HOST_SETS:
        assert f"set {name} " in text
    assert all((f"set {name}4 " in text) == services for name in SETS)


NETWORKS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
).map(lambda pair: _network(*pair))


def _network(address, size):
    import ipaddress

    return str(ipaddress.ip_network(f"{address}/{size}", strict=False))


@pytest.mark.integration
@settings(max_examples=15)
@given(
    st.lists(NETWORKS, max_size=8),
    st.lists(NETWORKS, max_size=8),
    st.integers(0, 65535),
    st.sampled_from(["", "tcp", "udp"]),
)
def test_any_networks(allow: list[str], deny: list[str], port: int, protocol: str) -> None:
    def entries(texts: list[str]) -> list[Destination]:
        return [parse(each)._replace(port=port, protocol=protocol) for each in texts]  # type: ignore[arg-type]

    loaded(whole(policy=Policy(entries(allow), entries(deny)), own=tuple(allow)).text())


def test_whatever_is_not_accepted_is_refused() -> None:
    for made in (whole(), whole(policy=None), whole(policy=policy("")), Rules()):
        output = made.text().partition("chain output {")[2].partition("  chain leaving")[0].splitlines()
        assert "policy drop" in output[1]
        last = output[-2].strip()
        allowed = made.policy is None or made.policy.allow is None
        assert last == ("counter name connections accept" if allowed else "goto refuse")


def order(text: str, *parts: str) -> None:
    output = text.partition("chain output {")[2]
    places = [output.index(part) for part in parts]
    assert places == sorted(places), parts


def test_the_host_stands_before_all_that_is_allowed() -> None:
    text = whole().text()
    order(
        text, "@host4 goto refuse", "192.0.2.7/32 goto refuse", "10.1.0.0/16 ", "192.168.0.0/16 } goto refuse"
    )
    order(
        text,
        "192.168.0.0/16 } goto refuse",
        "2001:db8::/32 meta l4proto udp th dport 5",
        "@noallow4 goto refuse",
    )
    order(text, "@noallow4 goto refuse", "@allow4 ", "th dport { 80, 443 } goto refuse", "@any4 ")


def test_without_services_there_are_no_marks_and_no_names() -> None:
    text = whole(services=False, redirect=0, policy=policy(None, "192.0.2.0/24")).text()
    assert "mark" not in text and "redirect" not in text and "@any4" not in text
    assert "ip daddr 192.0.2.0/24 goto refuse" in text


@pytest.mark.integration
@pytest.mark.parametrize(("allow", "deny"), [(True, False), (False, True)])
def test_thousands_of_networks(need, allow: bool, deny: bool) -> None:
    """Of a list of countries, say; an ordinary user's netlink socket takes them."""
    need("nft", "userns")
    many = " ".join(f"203.{number >> 8}.{number & 255}.0/24" for number in range(0, 4000, 2))
    text = loaded(whole(policy=policy(many if allow else None, many if deny else "")).text())
    assert "203.15.158.0/24" in text


def test_networks_of_one_kind_are_one_rule() -> None:
    rules = whole(policy=policy(None, "1.2.3.0/24 1.2.3.4 9.9.9.9 9.9.9.9:53 2001:db8::/32 9.9.8.8:53/udp"))
    denied = [line.strip() for line in rules.text().splitlines() if "goto refuse" in line]
    assert "ip daddr { 1.2.3.0/24, 9.9.9.9/32 } goto refuse" in denied
    assert "ip daddr 9.9.9.9/32 meta l4proto { tcp, udp } th dport 53 goto refuse" in denied
    assert "ip daddr 9.9.8.8/32 meta l4proto udp th dport 53 goto refuse" in denied
    assert "ip6 daddr 2001:db8::/32 goto refuse" in denied
