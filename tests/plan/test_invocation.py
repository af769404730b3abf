"""Questions about what was gathered."""

from __future__ import annotations

from sandbox.plan.invocation import at, is_below, origin_of
from sandbox.profile.build import DEFAULT
from sandbox.profile.model import Origin, Profile


def test_defaults_have_no_origin() -> None:
    profile = Profile(origins={"a": DEFAULT, "b": Origin("p.toml", 3), "c": Origin("option --c")})
    assert [str(origin_of(profile, key)) for key in "abcd"] == ["", "p.toml:3", "option --c", ""]
    assert [at(origin_of(profile, key)) for key in "ab"] == ["", "p.toml:3: "]


def test_is_below() -> None:
    assert is_below("/a/b", "/a") and is_below("/a", "/a") and is_below("/a", "/")
    assert not is_below("/ab", "/a") and not is_below("/", "/a")
