"""What root pushed to a registry, an ordinary user pulls and runs: two users, with a store each
and no files in common. Only root can be both."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.image.peers import Registry
from tests.image.test_root import BASE
from tests.support import debian
from tests.support.needs import need

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

ROOT = Path(__file__).resolve().parents[2]


def ordinary_user() -> pwd.struct_passwd | None:
    """Somebody who has a range of ids."""
    for line in Path("/etc/subuid").read_text().splitlines():
        try:
            return pwd.getpwnam(line.partition(":")[0])
        except KeyError:
            continue
    return None


@pytest.fixture
def homes() -> Iterator[Callable[[str, int], Path]]:
    """Make homes that their users can get into: pytest's own directories are root's alone."""
    top = Path(tempfile.mkdtemp(prefix="sandbox-two-users-", dir="/tmp"))
    top.chmod(0o711)

    def make(registry: str, uid: int) -> Path:
        home = top / str(uid)
        settings = home / ".config/sandbox/registries.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text(f'[registry."{registry}"]\ntls = "off"\n')
        (home / "work").mkdir()
        for each in (home, *home.rglob("*")):
            os.chown(each, uid, -1)
        home.chmod(0o700)
        return home

    yield make
    shutil.rmtree(top)


@dataclass
class Users:
    """Root, whose uid is 0, and *them*, each with a home of their own."""

    them: pwd.struct_passwd
    homes: dict[int, Path]

    def call(self, uid: int, *words: str | Path) -> str:
        """What `sandbox` prints for one of them."""
        done = self.run(uid, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(
        self, uid: int, *words: str | Path, env: Mapping[str, str] = MappingProxyType({}), **_: Any
    ) -> subprocess.CompletedProcess[str]:
        become = ["setpriv", f"--reuid={uid}", f"--regid={self.them.pw_gid}", "--init-groups"] if uid else []
        home = self.homes[uid]
        return subprocess.run(
            [*become, sys.executable, "-B", "-m", "sandbox", *words],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(home), **env},
            cwd=home / "work",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def server(registry: Callable[..., Registry]) -> Registry:
    return registry()


@pytest.fixture
def users(server: Registry, homes: Callable[[str, int], Path]) -> Iterator[Users]:
    need("root", "setpriv")
    them = ordinary_user()
    assert them, "an ordinary user with a range in /etc/subuid"
    users = Users(them, {uid: homes(server.name, uid) for uid in (0, them.pw_uid)})
    yield users
    for uid in users.homes:
        for name in users.call(uid, "ps", "-q").split():
            users.call(uid, "rm", name)
        users.call(uid, "image", "rm", "-q", "--all")
        users.call(uid, "image", "prune", "-q", "--unpacked")


def test_pushed_by_root_and_pulled_by_another(server: Registry, users: Users, tmp_path: Path) -> None:
    need("busybox")
    call, they = users.call, users.them.pw_uid
    name = f"{server.name}/team/base:1"
    (tmp_path / "base.tar").write_bytes(BASE)
    call(0, "image", "import", "-q", tmp_path / "base.tar", "base")
    call(
        0,
        *["run", "-p", "test", "--name", "b", "--keep", "--image", "base", "--", "sh", "-c"],
        "echo root > /from",
    )
    call(0, "commit", "b", name)
    call(0, "push", "-q", name)

    call(they, "pull", "-q", name)
    run = ("run", "-p", "test", "--image", name, "--", "sh", "-c")
    assert call(they, *run, "cat /from; id -u; stat -c %u /from /home/node") == "root\n0\n0\n1000\n"
    assert call(0, *run, "cat /from; stat -c %u /home/node") == "root\n1000\n"
    store = users.homes[they] / ".local/share/sandbox/images"
    assert {path.stat().st_uid for path in (store / "oci").rglob("*")} <= {they}


def test_a_debian_that_one_extends_runs_for_root(server: Registry, users: Users) -> None:
    need("mmdebstrap", "dpkg-deb")
    they = users.them.pw_uid
    theirs, roots = partial(users.call, they), partial(users.call, 0)
    name = f"{server.name}/team/hellod:1"
    work = users.homes[they] / "work"
    deb = debian.package(work)
    theirs("image", "load", "-q", debian.archive(partial(users.run, they), they), "--name", "debian:12")
    kept = f"run --image debian:12 -u root --name box --keep -v {deb}:/mnt/hellod.deb:ro".split()
    theirs(*kept, "--", *debian.INSTALL)
    id = theirs("commit", "box", name)
    theirs("push", "-q", name)
    assert roots("pull", "-q", name) == id
    assert roots("run", "-p", "test", "--image", name, *debian.ASK) == debian.ANSWER
