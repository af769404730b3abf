"""Files: what a payload plants for us to read, to write or to run later."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sandbox
from tests.security.inside import PYTHON, soon, unchanged

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
        for attempt in (lambda: box.read_file("/tmp/x"), lambda: box.write_file("/tmp/x", b"new")):
            assert isinstance(soon(attempt), OSError)


@pytest.mark.parametrize(
    "path", ["/proc/self/environ", "/proc/self/status", "/proc/version", "/tmp/dir/environ"]
)
def test_read_file_never_reads_the_kernels_files_as_us(path: str) -> None:
    with sandbox.Sandbox("base") as box:
        plant(box, "os.symlink('/proc/self', '/tmp/dir')")
        with pytest.raises(OSError):
            box.read_file(path)


def test_read_file_takes_no_way_through_our_own_descriptors(tmp_home: Path) -> None:
    """init holds the directory on disk in which overlays keep their changes, and others of the host's."""
    (tmp_home / "canary").write_text("host")
    (tmp_home / "work").mkdir()
    (tmp_home / "work").chmod(0o755)
    values = {"root.writable": "disk", "mounts": {".": "overlay"}}
    ups = ["/".join([".."] * depth) for depth in range(10)]
    with sandbox.Sandbox("base", overrides=values, cwd=tmp_home / "work") as box:
        plant(box, "for n in range(40): os.symlink(f'/proc/self/fd/{n}', f'/tmp/{n}')")
        for start in (*(f"/tmp/{n}" for n in range(40)), "/proc/self/cwd", "/proc/self/root"):
            for name in ("canary", f"{tmp_home}/canary", "file"):
                for up in ups:
                    with pytest.raises(OSError):
                        box.read_file(f"{start}/{up}/{name}")


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
        end = time.monotonic() + 60
        tries = 0
        while tries < 200 or (b"box" not in seen and time.monotonic() < end):
            tries += 1
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


@pytest.mark.parametrize("mode", ["ro", "rw", "overlay"])
def test_what_is_hidden_shows_nowhere_else(tmp_home: Path, mode: str) -> None:
    """Under the name of another mount, or by a bind of a directory above."""
    (tmp_home / ".ssh").mkdir()
    (tmp_home / ".ssh" / "id").write_text("secret")
    work = open_home(tmp_home)
    tmp_home.parent.chmod(0o755)
    mounts = {
        str(tmp_home / ".ssh"): "hide",
        "/mnt": {"source": str(tmp_home), "mode": mode},
        "/srv": {"source": str(tmp_home.parent), "mode": mode},
    }
    script = (
        f"for d in /mnt /srv/{tmp_home.name}; do cat $d/.ssh/id; mv $d/.ssh $d/x; cat $d/x/id; ls $d; done"
    )
    command = ["sh", "-c", f"{script} 2>/dev/null; true"]
    result = sandbox.run(command, profile="base", overrides={"mounts": mounts}, cwd=work, text=True)
    assert result.stdout.split().count("work") == 2, (result.stdout, result.message)
    assert "secret" not in result.stdout


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


def test_a_read_only_mount_can_not_be_written(tmp_path: Path) -> None:
    """Not by its owner, who can do what the permissions forbid to others."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "file").write_text("mine")
    for each in (work, work / "file"):
        each.chmod(0o777)
    script = "echo x >file; echo x >new; mkdir d; rm file; mv file other; chmod 0 file; touch file; cat file"
    with unchanged(work):
        result = sandbox.run(["sh", "-c", script], profile="untrusted", cwd=work, text=True)
    assert result.stdout == "mine"
    assert result.stderr.count("Read-only file system") == 7, result.stderr


MOUNT_BELOW = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mount(b"none", sys.argv[1].encode(), b"tmpfs", 0, None) == 0, os.strerror(ctypes.get_errno())
import sandbox
command = ["sh", "-c", "echo x >mount/new; ls mount; grep -c /mount /proc/self/mountinfo"]
result = sandbox.run(command, profile="untrusted", text=True)
print(result.stdout, result.stderr, result.message)
"""


def test_what_is_mounted_below_a_read_only_mount_is_read_only_too(tmp_path: Path) -> None:
    """A bind that is not recursive would leave it out, and a remount that is not would leave it writable."""
    work = tmp_path / "work"
    (work / "mount").mkdir(parents=True)
    work.chmod(0o755)
    who = [] if os.getuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    done = subprocess.run(
        ["unshare", *who, "--mount", sys.executable, "-B", "-c", MOUNT_BELOW, str(work / "mount")],
        cwd=work,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.split()[0] == "1", done.stdout  # nothing listed, and the mount is there
    assert "mount/new: Read-only file system" in done.stdout


def test_devices_in_a_directory_that_is_given_are_no_devices(
    tmp_path: Path, need: Callable[..., None]
) -> None:
    """As in a root that somebody unpacked in a project: whoever may open one could use it."""
    need("root")
    tmp_path.chmod(0o755)
    os.mknod(tmp_path / "null", 0o666 | 0o020000, os.makedev(1, 3))
    (tmp_path / "null").chmod(0o666)
    for mode in ("ro", "rw", "overlay"):
        mounts = {"/mnt": {"source": str(tmp_path), "mode": mode}}
        result = sandbox.run(["cat", "/mnt/null"], profile="base", overrides={"mounts": mounts}, text=True)
        assert "Permission denied" in result.stderr, mode


def test_a_mount_does_not_follow_a_planted_link(tmp_path: Path, sandbox_cmd: Callable[..., Any]) -> None:
    work = tmp_path / "work"
    work.mkdir()
    work.chmod(0o777)  # root's payload is not root
    (tmp_path / "keys").write_text("secret\n")
    assert sandbox_cmd("run", "--", "ln", "-s", "../keys", "data", cwd=work).returncode == 0
    for profile in ("default", "untrusted", "test"):
        done = sandbox_cmd("run", "-p", profile, "-v", "./data:/d:ro", "--", "cat", "/d", cwd=work)
        assert (done.returncode, done.stdout) == (125, "")
        assert f"{work}/data, which an earlier command may have left" in done.stderr
    done = sandbox_cmd("run", "-v", f"{tmp_path}/keys:/d:ro", "--", "cat", "/d", cwd=work)
    assert (done.returncode, done.stdout) == (0, "secret\n")


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
