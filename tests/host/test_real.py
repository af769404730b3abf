"""Trials with the real helper, here, and in places where one thing is missing: made by unshare(1)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox import host
from sandbox.host import trials
from sandbox.host.facts import gather

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]

ROWS = """
import sys
from sandbox import host, paths
from sandbox.host import trials
from sandbox.host.facts import gather
helper = paths.helper()
rows = trials.rows(gather(helper=helper), helper, sys.argv[1:])
print(host.to_json(list(rows.values())))
"""

EXPLAIN = """
import sys
from sandbox import host
row = host.explain(*sys.argv[1:])
print(host.to_json([row] if row else []))
"""


def elsewhere(
    shell: str, program: str, *arguments: str, root: bool = True
) -> dict[str, dict[str, str | bool]]:
    """The rows that *program* prints in a user namespace of our own after *shell* was run there."""
    python = [sys.executable, "-c", program, *arguments]
    command = ["unshare", "--user", "--map-root-user" if root else "--map-current-user", "--mount"]
    done = subprocess.run(
        [*command, "sh", "-c", f'{shell}; exec "$@"', "sh", *python],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)["checks"]}


@pytest.mark.as_root
def test_everything_that_a_launch_needs_works_here(need: Callable[..., None], helper: Path) -> None:
    need("userns")
    rows = trials.rows(
        gather(helper=str(helper)), str(helper), ("userns", "proc", "seccomp", "net", "overlay")
    )
    for row in rows.values():
        assert row.ok, row


@pytest.mark.as_root
def test_a_range_works_here(need: Callable[..., None], helper: Path) -> None:
    need("userns", *(["idrange"] if os.geteuid() else []))
    row = trials.rows(gather(helper=str(helper)), str(helper), ["idrange"])["idrange"]
    assert row.ok, row


def test_opaque_directories_are_really_tried(need: Callable[..., None], helper: Path, tmp_path: Path) -> None:
    """Without the mark the hidden program is found: so the trial can tell."""
    need("userns")
    found = gather(helper=str(helper))
    with trials._two_lowers(str(tmp_path)) as (top, bottom, marked):
        if not marked:
            pytest.skip("no extended attributes in the test's directory")
        hides = trials._overlay_of(found, str(helper), top, bottom, marked=True)
        assert isinstance(hides, str) and "hide" in hides
        os.removexattr(f"{top}/opaque", "user.overlay.opaque")
        shows = trials._overlay_of(found, str(helper), top, bottom, marked=True)
        assert isinstance(shows, trials.Outcome) and "deleted files show" in shows.message


def test_a_filter_is_really_tried(
    need: Callable[..., None], helper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("userns")
    allow = b"\x06\0\0\0\0\0\xff\x7f"
    monkeypatch.setattr(trials, "_mute_filter", lambda machine: allow)
    assert not trials.rows(gather(helper=str(helper)), str(helper), ["seccomp"])["seccomp"].ok


def test_where_no_more_namespaces_are_allowed(need: Callable[..., None]) -> None:
    need("userns", "plain user")
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces"
    rows = elsewhere(forbid, ROWS, "userns", "overlay")
    assert not rows["userns"]["ok"] and "max_user_namespaces is 0" in str(rows["userns"]["detail"])
    assert rows["overlay"]["mend"] == "mend userns first"
    message = "cannot make namespaces: the limit on user namespaces or their depth is reached"
    explained = elsewhere(forbid, EXPLAIN, "", "ENOSPC", message)
    assert "sudo sysctl -w user.max_user_namespaces=" in str(explained["userns"]["mend"])


def test_where_proc_is_covered(need: Callable[..., None]) -> None:
    need("userns", "plain user")
    cover = "mount -t tmpfs none /proc/fs"
    rows = elsewhere(cover, ROWS, "userns", "proc", "net")
    assert rows["userns"]["ok"] and not rows["proc"]["ok"]
    assert "/proc/fs" in str(rows["proc"]["detail"]) and rows["proc"]["mend"]
    assert rows["net"]["mend"] == "mend proc first"
    explained = elsewhere(cover, EXPLAIN, "mount a fresh proc on /proc", "EPERM", "cannot mount a fresh proc")
    assert not explained["proc"]["ok"]


def test_in_a_namespace_with_one_id(need: Callable[..., None]) -> None:
    """Called root, but nobody: sandboxes work, ranges don't."""
    need("userns", "plain user")
    rows = elsewhere("true", ROWS, "userns", "overlay", "idrange")
    assert rows["userns"]["ok"] and rows["overlay"]["ok"] and not rows["idrange"]["ok"]


def test_in_a_namespace_under_our_own_name(need: Callable[..., None]) -> None:
    need("userns", "plain user")
    assert elsewhere("true", ROWS, "userns", root=False)["userns"]["ok"]


@pytest.mark.as_root
def test_a_failure_that_a_fine_row_does_not_explain(need: Callable[..., None]) -> None:
    need("userns")
    assert host.explain("", "EPERM", "cannot make namespaces: user namespaces are not allowed here") is None


@pytest.mark.as_root
def test_doctor_here(need: Callable[..., None], tmp_home: Path) -> None:
    need("userns")
    rows = {row.name: row for row in host.checks()}
    assert all(row.ok for row in rows.values() if row.required)
    assert host.probe(need=["overlay"]).checks["overlay"].detail == rows["overlay"].detail
    assert [path.name for path in (tmp_home / ".cache" / "sandbox").iterdir()] == ["host"]
