"""Network modes that exist, and the files they give."""

from __future__ import annotations

import pytest

from sandbox import net
from sandbox.profile.model import Net


@pytest.mark.parametrize("mode", ["none", "host"])
def test_modes_that_exist(mode: str) -> None:
    assert net.shares_host(Net(mode)) == (mode == "host")


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
