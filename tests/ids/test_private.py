"""Private ids: slices of the caller's range that no other running sandbox has."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox import ids, leases, paths
from sandbox.errors import HostError, ProfileError
from sandbox.host.facts import gather
from sandbox.host.model import Host, Range
from sandbox.ids import plan_ids
from sandbox.profile.model import User
from tests.ids.test_maps import PLAIN, ROOT
from tests.support.needs import need

PRIVATE = User(ids="private")


def outside(lines: tuple[ids.IdMap, ...], own: int) -> set[int]:
    return {line.outside + at for line in lines for at in range(line.count)} - {own}


@pytest.mark.parametrize(
    ("host", "count"),
    [
        (PLAIN, 64),
        (ROOT, 63),  # one of them is its payloads' own
        (replace(PLAIN, subgid=(Range(200000, 5000),)), 4),
        (replace(PLAIN, subuid=(Range(100000, 1000), Range(300000, 1000), Range(500000, 1000))), 2),
        (replace(PLAIN, subuid=(Range(100000, 2 * 65536),), subgid=(Range(100000, 2 * 65536),)), 128),
        (replace(PLAIN, subuid=(Range(100000, 1023),)), 0),
        (replace(PLAIN, subuid=()), 0),
    ],
)
def test_slices_share_nothing(host: Host, count: int) -> None:
    assert ids.slices(host) == count
    seen_uids: set[int] = set()
    seen_gids: set[int] = set()
    for number in range(count):
        plan = plan_ids(PRIVATE, host, number=number)
        uids, gids = outside(plan.uids, plan.host_uid), outside(plan.gids, plan.host_gid)
        assert len(uids) == len(gids) == ids.SLICE - (host.uid < ids.SLICE)  # it has an id inside, too
        assert not (uids & seen_uids or gids & seen_gids)
        assert plan.uids[0].inside == plan.gids[0].inside == 0
        seen_uids |= uids
        seen_gids |= gids


def test_beyond_what_others_have_first() -> None:
    large = replace(PLAIN, subuid=(Range(100000, 2 * 65536),), subgid=(Range(400000, 2 * 65536),))
    every = outside(plan_ids(User(ids="range"), large).uids, 1000)
    for number in (0, 62):
        assert not ids.is_shared(large, number)
        assert not outside(plan_ids(PRIVATE, large, number=number).uids, 1000) & every
    assert ids.is_shared(large, 64)
    assert ids.is_shared(PLAIN, 0)


def test_too_small_a_range() -> None:
    with pytest.raises(HostError, match="slices of 1024"):
        plan_ids(PRIVATE, replace(PLAIN, subuid=(Range(100000, 100),)))


# --- real ones ---------------------------------------------------------------------------------------


@pytest.fixture
def real(tmp_home: Path, tmp_path: Path, helper: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    need("userns")
    if os.geteuid():
        need("idrange")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def mapped(text: str) -> set[int]:
    """The ids outside of a uid_map(5), less those of one id alone: the payload's own."""
    found: set[int] = set()
    for line in text.splitlines():
        _, first, count = map(int, line.split())
        if count > 1:
            found |= set(range(first, first + count))
    return found


def taken(count: int) -> list[int]:
    """All slices but *count*."""
    directory = os.path.join(paths.state_dir(), "ids")
    os.makedirs(directory, 0o700, exist_ok=True)
    return [leases.take(directory, str(each), ()) for each in range(count, ids.slices(gather().host))]


MAP = ["cat", "/proc/self/uid_map"]


@pytest.mark.integration
@pytest.mark.as_root
def test_no_two_have_the_same(real: Path) -> None:
    with ExitStack() as stack:
        seen: set[int] = set()
        for fd in taken(3):
            stack.callback(os.close, fd)
        for _ in range(3):
            box = stack.enter_context(sandbox.Sandbox("test", ids="private"))
            found = mapped(_outer(box))
            assert len(found) >= ids.SLICE - 2 and not found & seen
            seen |= found
        with pytest.raises(HostError, match="have all of your") as caught:
            sandbox.run(["true"], profile="test", ids="private")
        assert "usermod --add-subuids" in str(caught.value.mend)
        box.close()
        assert sandbox.run(["true"], profile="test", ids="private").returncode == 0


@pytest.mark.integration
@pytest.mark.as_root
def test_kill_9_gives_them_up(real: Path) -> None:
    with ExitStack() as stack:
        for fd in taken(1):
            stack.callback(os.close, fd)
        box = stack.enter_context(sandbox.Sandbox("test", ids="private"))
        with pytest.raises(HostError, match="have all"):
            sandbox.run(["true"], profile="test", ids="private")
        box._channel.helper.kill()
        box._channel.helper.wait()
        assert sandbox.run(["true"], profile="test", ids="private").returncode == 0


@pytest.mark.integration
@pytest.mark.as_root
def test_a_cached_command_takes_others_where_its_own_are_taken(
    real: Path, sandbox_cmd: Callable[..., Any]
) -> None:
    (real / "sandbox.toml").write_text("")
    (real / "p.toml").write_text('extends = "test"\n[user]\nids = "private"\n')
    words = ["run", "-p", str(real / "p.toml"), "--", *MAP]
    directory = os.path.join(paths.state_dir(), "ids")
    with ExitStack() as stack:
        for fd in taken(2):
            stack.callback(os.close, fd)
        for _ in range(3):
            assert sandbox_cmd(*words).returncode == 0
        held = [leases.take(directory, "0", ())]
        stack.callback(os.close, held[0])
        assert held[0] >= 0, "nothing runs"
        assert sandbox_cmd(*words).returncode == 0
        other = leases.take(directory, "1", ())
        stack.callback(os.close, other)
        done = sandbox_cmd(*words)
        assert done.returncode == 125 and "have all of your" in done.stderr


def test_images_have_no_private_ids(tmp_home: Path) -> None:
    with pytest.raises(ProfileError, match="many owners"):
        sandbox.run(["true"], image="base", ids="private")


def _outer(box: sandbox.Sandbox) -> str:
    """The map of the sandbox's outer namespace: its init's."""
    pid = box._channel.helper.pid
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        children = file.read().split()
    return "".join(Path(f"/proc/{each}/uid_map").read_text() for each in children[:1])
