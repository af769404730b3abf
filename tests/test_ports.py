"""Entries of `net.publish`."""

from __future__ import annotations

import pytest

from sandbox.ports import Published, parse


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("8080:80", [Published("tcp", "127.0.0.1", 8080, 80)]),
        ("0.0.0.0:53:5353/udp", [Published("udp", "0.0.0.0", 53, 5353)]),
        ("0:80", [Published("tcp", "127.0.0.1", 0, 80)]),
        ("[::1]:8080:80/tcp", [Published("tcp", "::1", 8080, 80)]),
        ("[2001:DB8::0]:1:2", [Published("tcp", "2001:db8::", 1, 2)]),
        (
            "8000-8001:90-91",
            [Published("tcp", "127.0.0.1", 8000, 90), Published("tcp", "127.0.0.1", 8001, 91)],
        ),
    ],
)
def test_entries(text: str, ports: list[Published]) -> None:
    assert list(parse(text)) == ports
    assert [parse(str(each)) for each in ports] == [(each,) for each in ports]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("8080", "is not [IP:]PORT:PORT"),
        ("8080:", "is not [IP:]PORT:PORT"),
        ("8080:80/sctp", "is not [IP:]PORT:PORT"),
        ("8080:80 ", "is not [IP:]PORT:PORT"),
        ("0-1:80-81", "is not a port"),
        ("80:0", "is not a port"),
        ("80:65536", "is not a port"),
        ("example.org:80:80", "is not an IP address"),
        (":80:80", "is not an IP address"),
        ("::1:80:80", "is not [IP:]PORT:PORT"),
        ("[127.0.0.1]:80:80", "is not"),
        ("8000-8002:90-91", "3 ports outside and 2 inside"),
        ("8002-8000:2-0", "ends before it begins"),
    ],
)
def test_what_is_none(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    if text != "[127.0.0.1]:80:80":
        assert why in str(caught.value)
