"""Files: what a payload plants for us to read, to write or to run later."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sandbox
from tests.security.inside import PYTHON, unchanged

pytestmark = [pytest.mark.integration, pytest.mark.as_root]


def plant(box: sandbox.Sandbox, code: str) -> None:
    result = box.run([PYTHON, "-I", "-S", "-c", f"import os\n{code}"], text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "code",
    [
        "os.symlink('/proc/1/environ', '/tmp/x')",
        "os.symlink('/proc/self/environ', '/tmp/x')",
        "os.symlink('/etc/hostname', '/tmp/x')",
        "os.mkfifo('/tmp/x')",
        "os.mkdir('/tmp/x')",
        "import socket; socket.socket(socket.AF_UNIX).bind('/tmp/x')",
        "os.symlink('x', '/tmp/x')",
    ],
)
def test_read_file_takes_regular_files_only(code: str) -> None:
    """podman cp's CVE-2019-10152, and a FIFO that would make the reader wait for ever."""
    with sandbox.Sandbox("base") as box:
        plant(box, code)
        with pytest.raises(OSError):
            box.read_file("/tmp/x")
        with pytest.raises(OSError):
            box.write_file("/tmp/x", b"new")


@pytest.mark.parametrize(
    "path", ["/proc/self/environ", "/proc/self/status", "/proc/version", "/tmp/dir/environ"]
)
def test_read_file_never_reads_the_kernels_files_as_us(path: str) -> None:
    with sandbox.Sandbox("base") as box:
        plant(box, "os.symlink('/proc/self', '/tmp/dir')")
        with pytest.raises(OSError):
            box.read_file(path)


def test_read_file_stays_inside_while_directories_are_swapped(tmp_path: Path) -> None:
    """A directory that turns into a link out, again and again, while it is read through."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "x").write_text("host")
    swap = f"""
import os
os.mkdir('/tmp/a'); open('/tmp/a/x', 'w').write('box')
os.symlink('{secret}', '/tmp/b')
os.mkdir('/tmp/c')
while True:
    os.rename('/tmp/a', '/tmp/c/a'); os.rename('/tmp/b', '/tmp/a')
    os.rename('/tmp/a', '/tmp/b'); os.rename('/tmp/c/a', '/tmp/a')
"""
    with sandbox.Sandbox("base") as box:
        process = box.popen([PYTHON, "-I", "-S", "-c", swap])
        seen = set()
        for _ in range(200):
            try:
                seen.add(box.read_file("/tmp/a/x"))
            except OSError:
                seen.add(b"error")
        process.kill()
        process.wait()
    assert seen <= {b"box", b"error"}
    assert b"box" in seen


def test_write_file_has_the_payloads_rights_and_no_more() -> None:
    with sandbox.Sandbox("base") as box:
        for path in ("/usr/new", "/etc/passwd", "/new"):
            with pytest.raises(OSError):
                box.write_file(path, b"x")


def test_what_the_payload_may_not_read_we_do_not_read_for_its_caller() -> None:
    with sandbox.Sandbox("base") as box:
        plant(box, "open('/tmp/x', 'w').write('x'); os.chmod('/tmp/x', 0)")
        with pytest.raises(PermissionError):
            box.read_file("/tmp/x")


def test_stdin_from_a_file_gives_no_rights_on_the_file(tmp_path: Path) -> None:
    """Reopened through /proc/self/fd, a descriptor has the rights of whoever reopens it."""
    given = tmp_path / "given"
    given.write_text("answer")
    reopen = "import os; f = os.open('/proc/self/fd/0', os.O_RDWR | os.O_TRUNC)"
    with open(given) as file:
        sandbox.run([PYTHON, "-c", reopen], profile="base", stdin=file)
    assert given.read_text() == "answer"


def test_stdout_to_a_file_can_not_take_back_what_was_there(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("earlier\n")
    code = "import os; print('now', flush=True); os.truncate('/proc/self/fd/1', 0)"
    with open(log, "a") as file:
        sandbox.run([PYTHON, "-c", code], profile="base", stdout=file)
    assert log.read_text().startswith("earlier\n")


def test_a_directory_as_stdin_is_no_way_out() -> None:
    fd = os.open("/", os.O_RDONLY)
    try:
        with pytest.raises(sandbox.SandboxError):
            sandbox.run(["true"], profile="base", stdin=fd)
    finally:
        os.close(fd)


def open_home(home: Path) -> Path:
    """Open it to whoever the payload is (called by root, not root), and make a directory to work in."""
    home.chmod(0o777)
    (home / "work").mkdir(mode=0o755)
    return home / "work"


PLANT = """
import os, sys
home, failed = sys.argv[1], 0
def attempt(what, action):
    try:
        action()
        print("done", what)
    except OSError:
        pass
for name in sys.argv[2:]:
    path = os.path.join(home, name)
    attempt(name, lambda: open(os.path.join(path, "planted"), "w").write("x"))
    attempt(name + " moved", lambda: os.rename(path, path + ".old"))
    while os.path.dirname(path) != home:
        path = os.path.dirname(path)
        attempt(path + " moved", lambda: os.rename(path, path + ".old"))
"""

OURS = [".config/sandbox", ".cache/sandbox", ".local/state/sandbox", ".local/share/sandbox"]


def test_with_home_read_write_our_own_files_can_not_be_replaced(tmp_home: Path) -> None:
    """A planted profile, trust file or cached plan would be believed by the next run."""
    work = open_home(tmp_home)
    for name in OURS:
        (tmp_home / name).mkdir(parents=True, exist_ok=True)
        (tmp_home / name / "mine").write_text("mine")
    values = {"mounts": {str(tmp_home): {"source": str(tmp_home), "mode": "rw"}}}
    with unchanged(*(tmp_home / name for name in OURS)):
        result = sandbox.run(
            [PYTHON, "-I", "-S", "-c", PLANT, str(tmp_home), *OURS],
            profile="base",
            overrides=values,
            cwd=work,
            text=True,
        )
    for name in OURS:
        (tmp_home / name / "mine").unlink()
    assert result.returncode == 0, (result.message, result.stderr)
    assert result.stdout == ""


def test_the_helper_is_the_same_after_a_run_with_home_read_write(tmp_home: Path, helper: Path) -> None:
    """CVE-2019-5736 with the installation below a directory that the payload may write."""
    installed = tmp_home / "lib" / "sandbox"
    shutil.copytree(Path(sandbox.__file__).parent, installed, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(sandbox.__file__).parent.parent / "configs", tmp_home / "lib" / "configs")
    work = open_home(tmp_home)
    code = (
        "import sandbox, sys;"
        " mounts = {sys.argv[3]: {'source': sys.argv[3], 'mode': 'rw'}};"
        " argv = [sys.argv[1], '-I', '-S', '-c', sys.argv[2], *sys.argv[3:]];"
        " r = sandbox.run(argv, profile='base', text=True, overrides={'mounts': mounts});"
        " print(r.stdout, r.stderr, r.message)"
    )
    with unchanged(installed):
        done = subprocess.run(
            [
                "/usr/bin/env",
                f"PYTHONPATH={tmp_home / 'lib'}:{os.pathsep.join(p for p in sys.path if p)}",
                sys.executable,
                "-B",
                "-c",
                code,
                PYTHON,
                PLANT,
                str(tmp_home),
                "lib/sandbox",
                "lib/sandbox/_helper",
            ],
            cwd=work,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert "done" not in done.stdout, done.stdout


def test_a_hidden_path_can_not_be_uncovered(tmp_home: Path) -> None:
    (tmp_home / ".ssh").mkdir()
    (tmp_home / ".ssh" / "id").write_text("secret")
    work = open_home(tmp_home)
    values = {
        "mounts": {str(tmp_home): {"source": str(tmp_home), "mode": "rw"}, str(tmp_home / ".ssh"): "hide"}
    }
    code = (
        "import os, sys\nd = sys.argv[1]\n"
        "actions = [lambda: os.rename(d, d + '.old'), lambda: os.rmdir(d)]\n"
        "actions += [lambda: os.link(d + '/id', d + '.x')]\n"
        "for action in actions:\n"
        "    try: action(); print('done')\n"
        "    except OSError: pass\n"
        "try: print(os.listdir(d))\n"
        "except OSError: pass\n"
    )
    result = sandbox.run(
        [PYTHON, "-c", code, str(tmp_home / ".ssh")], profile="base", overrides=values, cwd=work, text=True
    )
    assert result.stdout in ("", "[]\n"), result.stdout
    assert (tmp_home / ".ssh" / "id").read_text() == "secret"


@pytest.mark.parametrize("directory", ["/", "~", "~/.."])
def test_the_working_directory_is_not_given_away_when_it_is_home(tmp_home: Path, directory: str) -> None:
    where = directory.replace("~", str(tmp_home))
    with pytest.raises(sandbox.ProfileError, match=r"(?s)HOME|home|/"):
        sandbox.run(["true"], profile="default", cwd=where)


@pytest.mark.parametrize("mode", ["nested", "capabilities"])
def test_a_payload_with_mount_namespaces_gets_no_directory_that_holds_ours(tmp_home: Path, mode: str) -> None:
    """EBUSY protects a mount point in its own mount namespace only: in another it can be renamed."""
    work = open_home(tmp_home)
    values: dict[str, object] = {"mounts": {str(tmp_home): {"source": str(tmp_home), "mode": "rw"}}}
    if mode == "nested":
        values["process.nested"] = True
    else:
        values["process.seccomp"] = "off"
        values["process.capabilities"] = ["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"]
    with pytest.raises(sandbox.ProfileError, match="could be replaced"):
        sandbox.run(["true"], profile="base", overrides=values, cwd=work)


def test_a_payload_makes_no_mount_namespace() -> None:
    values = {"process.seccomp": "off", "process.capabilities": ["CAP_SYS_ADMIN"]}
    code = "import ctypes; print(ctypes.CDLL(None).unshare(0x20000))"
    result = sandbox.run([PYTHON, "-c", code], profile="base", overrides=values, text=True)
    assert result.stdout == "-1\n"


def test_a_report_does_not_follow_a_planted_link(tmp_path: Path, sandbox_cmd: Callable[..., Any]) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    work = tmp_path / "work"
    work.mkdir(mode=0o755)
    (work / "v.json").symlink_to(precious)
    done = sandbox_cmd("run", "-p", "untrusted", "--report", "v.json", "--", "true", cwd=work)
    assert done.returncode == 125
    assert precious.read_text() == "mine"
    os.mkfifo(work / "fifo")
    assert sandbox_cmd("run", "-p", "untrusted", "--report", "fifo", "--", "true", cwd=work).returncode == 125
