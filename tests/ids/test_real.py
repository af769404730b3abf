"""Id plans that the kernel and newuidmap really take, and whose files they make."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from sandbox.host.facts import gather
from sandbox.host.trials import run
from sandbox.ids import IdPlan, plan_ids
from sandbox.profile.model import User
from sandbox.wire import Kind, Mount, Record

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

NAMESPACES = 0x0200_0000 | 0x0400_0000 | 0x0800_0000
READ = int(Mount.READONLY | Mount.NOSUID | Mount.NODEV | Mount.CREATE | Mount.RECURSIVE)
WRITE = int(Mount.NOSUID | Mount.NODEV | Mount.CREATE)


def sandboxed(plan: IdPlan, directory: Path, *argv: str) -> list[Record]:
    """The host's programs, and *directory* writable at /d."""
    tools = ("newuidmap", "newgidmap")
    found = gather().host
    records = [
        Record(Kind.NAMESPACES, "make namespaces", "", (NAMESPACES,)),
        Record(Kind.IDENTITY, "", "", (plan.uid, plan.gid)),
        Record(Kind.ENVIRONMENT, "", "", ("PATH=/usr/bin:/bin",)),
        Record(Kind.WORKDIR, "", "", ("/",)),
        Record(Kind.TMPFS, "make the root", "", ("/", 0, 0o755, 0, 0)),
    ]
    for which, maps in ((0, plan.uids), (1, plan.gids)):
        for line in maps:
            fields = (which, line.inside, line.outside, line.count)
            records.append(Record(Kind.IDMAP, "map ids", "", fields))
    if plan.tool:
        records.append(
            Record(Kind.IDTOOL, "map ids with newuidmap", "", tuple(getattr(found, t) or "" for t in tools))
        )
    for path in ("/usr", "/bin", "/lib", "/lib64"):
        if os.path.islink(path):
            records.append(Record(Kind.SYMLINK, "link", "", (path, os.readlink(path))))
        elif os.path.exists(path):
            records.append(Record(Kind.BIND, f"bind {path}", "", (path, READ, path, "")))
    records.append(Record(Kind.BIND, "bind it", "", ("/d", WRITE, str(directory.resolve()), "")))
    return [*records, Record(Kind.ARGV, "", "", argv)]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


@pytest.mark.parametrize("ids", ["single", "range"])
@pytest.mark.parametrize("text", ["keep", "root", "4321:1234", "70000:80000"])
def test_ids_inside_and_outside(
    text: str, ids: Literal["single", "range"], need: Callable[..., None], helper: Path, shared: Path
) -> None:
    need("userns")
    if ids == "range" and os.geteuid() != 0:
        need("idrange")
    plan = plan_ids(User(map=text, ids=ids), gather().host)
    script = "id -u > /d/uid; id -g > /d/gid; id -G > /d/groups"
    outcome = run(str(helper), sandboxed(plan, shared, "sh", "-c", script))
    assert outcome.status == 0, outcome
    assert (shared / "uid").read_text().strip() == str(plan.uid)
    assert (shared / "gid").read_text().strip() == str(plan.gid)
    status = (shared / "uid").stat()
    assert (status.st_uid, status.st_gid) == (plan.host_uid, plan.host_gid)
    if ids == "range":  # the caller's other groups are dropped, which one id does not allow
        assert (shared / "groups").read_text().split() == [str(plan.gid)]


def test_a_range_reaches_from_the_first_id_to_the_last(
    need: Callable[..., None], helper: Path, shared: Path
) -> None:
    """Files of every end of the map, made outside as far as we may, show inside as planned."""
    need("userns")
    if os.geteuid() != 0:
        pytest.skip("only root can give files to the ids of a range")
    plan = plan_ids(User(map="5:5", ids="range"), gather().host)
    wanted = {}
    for line in plan.uids:
        for inside, outside in (
            (line.inside, line.outside),
            (line.inside + line.count - 1, line.outside + line.count - 1),
        ):
            path = shared / f"of-{inside}"
            path.touch()
            os.chown(path, outside, plan.host_gid)
            wanted[path.name] = str(inside)
    (shared / "of-root").touch()
    outcome = run(str(helper), sandboxed(plan, shared, "sh", "-c", "cd /d; stat -c '%n %u' of-* > seen"))
    assert outcome.status == 0, outcome
    seen = dict(line.split() for line in (shared / "seen").read_text().splitlines())
    assert seen.pop("of-root") == "65534"  # the machine's root is nobody inside
    assert seen == wanted


def test_root_outside_is_out_of_reach(need: Callable[..., None], helper: Path, shared: Path) -> None:
    """What only root may read on the host stays closed to a payload that is called root."""
    need("userns")
    plan = plan_ids(User(map="root"), gather().host)
    secret = shared / "secret"
    secret.write_text("x")
    secret.chmod(0)
    if os.geteuid() == 0:
        outcome = run(str(helper), sandboxed(plan, shared, "cat", "/d/secret"))
        assert outcome.status == 1, outcome
        secret.chmod(0o004)
    else:
        secret.chmod(0o400)
    assert run(str(helper), sandboxed(plan, shared, "cat", "/d/secret")).status == 0
