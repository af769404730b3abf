"""Network modes that exist, and the files they give."""

from __future__ import annotations

import pytest

from sandbox import net
from sandbox.errors import NotAvailableError
from sandbox.profile.model import Net


@pytest.mark.parametrize("mode", ["none", "host"])
def test_modes_that_exist(mode: str) -> None:
    net.check(Net(mode))
    assert net.shares_host(Net(mode)) == (mode == "host")


@pytest.mark.parametrize(
    "asked",
    [
        Net("user"),
        Net("lab"),
        Net("host", publish=("80:80",)),
        Net("host", deny=("192.0.2.0/24",)),
        Net("host", dns=("192.0.2.1",)),
        Net("host", rate="1M"),
        Net("host", allow=()),
        Net("none", allow=("example.org",)),
    ],
)
def test_what_is_not_built_is_refused(asked: Net) -> None:
    with pytest.raises(NotAvailableError, match=r"^p\.toml:3: net\.\w+.* is not available yet"):
        net.check(asked, "p.toml:3")


def test_an_empty_allow_list_is_held_by_no_network() -> None:
    net.check(Net("none", allow=()))


def test_hosts() -> None:
    extra = Net("none", hosts={"db": "192.0.2.7"})
    assert net.hosts(extra, "box").splitlines() == [
        "127.0.0.1 localhost box",
        "::1 localhost ip6-localhost ip6-loopback",
        "192.0.2.7 db",
    ]
    assert net.hosts(Net("none"), "box", "192.0.2.9 secret\n").count("secret") == 0
    assert net.hosts(Net("host"), "box", "192.0.2.9 intranet").endswith("\n192.0.2.9 intranet\n")


def test_resolv_conf() -> None:
    assert net.resolv_conf(Net("none"), "nameserver 192.0.2.1\n") == ""
    assert net.resolv_conf(Net("host"), "nameserver 192.0.2.1\n") == "nameserver 192.0.2.1\n"
