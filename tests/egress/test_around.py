"""The policy of a sandbox on a private network, whose own name server knows its neighbours."""

from __future__ import annotations

import pytest

from tests.egress.lab import Lab
from tests.egress.test_kernel import lab, lines

__all__ = ["lab"]  # the fixture

pytestmark = pytest.mark.integration

#: that of the laboratory's network is "user"
NAMES = {
    "db": ["198.51.100.1"],
    "db.user": ["198.51.100.1"],
    "evil": ["203.0.113.1"],
    "both.user": ["203.0.113.1", "198.51.100.2", "2001:db8:1::1"],
    "good.example": ["203.0.113.1"],
    "dbuser": ["203.0.113.1"],
}


@pytest.fixture
def around(lab: Lab) -> Lab:
    return lab.but(peers=("198.51.100.0/24",), names=NAMES)


def test_neighbours_need_no_entry(around: Lab) -> None:
    assert lines(
        around.but(allow=("good.example:8022",)),
        "hello('db')",
        "hello('db.user')",
        "hello('good.example')",
        "http('db').splitlines()[0]",
        "resolve('nosuch.user')",
    ) == [
        "hello from 198.51.100.1",
        "hello from 198.51.100.1",
        "hello from 203.0.113.1",
        "HTTP/1.1 200 OK",
        "unknown",
    ]


def test_nobody_there_is_anywhere_else(around: Lab) -> None:
    """Whatever their names lead to: what the network does not have is not opened by them."""
    found = lines(
        around.but(allow=()),
        "resolve('evil')",
        "resolve('both.user')",
        "hello('203.0.113.1')",
        "hello('both.user')",
        "tls('evil', '203.0.113.1')",
    )
    assert found == [
        "unknown",
        ["198.51.100.2"],
        "EHOSTUNREACH",
        "hello from 198.51.100.2",
        "TLSV1_ALERT_ACCESS_DENIED",
    ]


def test_one_that_is_denied(around: Lab) -> None:
    denied = around.but(allow=("good.example",), deny=("db", "198.51.100.2"))
    assert lines(denied, "resolve('db')", "hello('db.user')", "hello('both.user')") == [
        "unknown",
        "hello from 198.51.100.1",
        "EHOSTUNREACH",
    ]
