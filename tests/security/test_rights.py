"""What a payload may do to init, to the mounts, to the kernel, and to what it was started with."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import sandbox
from sandbox.launch.backend import Backend, Native
from sandbox.root import tables
from sandbox.seccomp import machines
from tests.security.inside import PYTHON, errno_of, output, python
from tests.support.needs import need

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

AS_ROOT = {"user.map": "root"}


def test_init_can_be_neither_read_nor_traced() -> None:
    """CVE-2019-5736, CVE-2016-8659: through /proc/1 the launcher's file and memory would be in reach."""
    for name in ("exe", "cwd", "root"):
        assert errno_of(f"os.readlink('/proc/1/{name}')") == "EACCES"
    for name in ("mem", "environ", "maps"):
        assert errno_of(f"open('/proc/1/{name}', 'rb').read(1)") == "EACCES"
    assert errno_of("open('/proc/1/exe', 'r+b')") == "EACCES"
    assert errno_of("os.listdir('/proc/1/fd')") == "EACCES"
    assert errno_of("call(101, 16, 1, 0, 0)", profile="base") == "EPERM"  # ptrace(PTRACE_ATTACH, 1)


def test_status_says_no_rights() -> None:
    """CVE-2022-24769: inheritable capabilities, which nobody had asked for."""
    status = dict(
        line.split(":\t", 1)
        for line in output("print(open('/proc/self/status').read())").splitlines()
        if ":\t" in line
    )
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_no_new_privileges_without_a_filter_too() -> None:
    """With one the kernel asks for it; without, nobody but us."""
    code = "print([l.split() for l in open('/proc/self/status') if l.startswith('NoNewPrivs')])"
    assert output(code, profile="base", overrides={"process.seccomp": "off"}) == "[['NoNewPrivs:', '1']]"


def test_root_inside_can_undo_nothing() -> None:
    """The payload's B has no rights over A, which owns the mounts, even with every capability in B."""
    all_rights = {
        **AS_ROOT,
        "process.nested": True,
        "process.seccomp": "off",
        "process.capabilities": [
            "CAP_SYS_ADMIN",
            "CAP_NET_ADMIN",
            "CAP_SYS_CHROOT",
            "CAP_SETUID",
            "CAP_SYS_RESOURCE",
        ],
    }
    code = """
        import ctypes, errno, os, socket, struct, fcntl, subprocess
        libc = ctypes.CDLL(None, use_errno=True)
        def say(what, result):
            print(what, errno.errorcode[ctypes.get_errno()] if result < 0 else "done")
        assert int([l for l in open('/proc/self/status') if l.startswith('CapEff')][0].split()[1], 16) != 0
        say("umount", libc.umount2(b"/usr", 2))
        say("remount", libc.mount(None, b"/usr", None, 32 | 4096, None))
        say("mount", libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
        say("unhide", libc.umount2(b"/proc/keys", 2))
        say("hostname", libc.sethostname(b"x", 1))
        s = socket.socket()
        try:
            fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 0))
            print("lo done")
        except OSError as error:
            print("lo", errno.errorcode[error.errno])
        nft = subprocess.run(["nft", "add", "table", "inet", "mine"], capture_output=True, text=True)
        print("nft", "EPERM" if "Operation not permitted" in nft.stderr else nft)
    """
    need("nft")
    lines = output(code, profile="base", overrides=all_rights).splitlines()
    assert {line.split()[1] for line in lines} <= {"EPERM", "EINVAL", "EACCES"}, lines
    assert len(lines) == 7


@pytest.mark.parametrize(
    "attempt",
    [
        "resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))",
        "resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))",
        "os.setpriority(os.PRIO_PROCESS, 1, 19)",
        "os.setpriority(os.PRIO_USER, os.getuid(), 19)",
        "os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))",
        "os.sched_setaffinity(1, {0})",
    ],
)
def test_init_is_not_the_payloads_to_limit(attempt: str) -> None:
    """It is of the same user; without descriptors it could measure nothing, and find nobody to kill."""
    assert errno_of(attempt, imports="os, resource") == "EPERM"


def test_a_sandbox_that_can_not_be_measured_ends() -> None:
    code = "import resource, time; resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3)); time.sleep(15)"
    result = python(code, profile="base", overrides={"process.seccomp": "off", "limits.memory": "64M"})
    assert result.verdict == "killed", result.verdict


def test_groups_can_not_be_changed() -> None:
    """CVE-2014-8989: dropping a group can give rights that the group was denied."""
    assert errno_of("os.setgroups([])") == "EPERM"


def outer(code: str, *arguments: str) -> str:
    """The output of a caller of its own, whose groups and keys can be changed."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-B", "-c", code, *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_roots_own_groups_stay_outside() -> None:
    """CVE-2022-2989. An ordinary caller's can't be dropped (user_namespaces(7)), and is documented so."""
    need("root")
    code = (
        "import os, sandbox\nos.setgroups([4, 24, 27])\nfor ids in ('single', 'range'):\n"
        "    values = {'user.ids': ids, 'user.map': 'root'}\n"
        "    print(sandbox.run(['id', '-G'], profile='base', text=True, overrides=values).stdout)"
    )
    assert outer(code).split() == ["0", "0"]


KEYS = """
import ctypes, sys, sandbox
libc, (keyctl, add_key) = ctypes.CDLL(None), map(int, sys.argv[2:])
assert libc.syscall(keyctl, 1, None) > 0  # KEYCTL_JOIN_SESSION_KEYRING
assert libc.syscall(add_key, b"user", b"canary", b"x", 1, -3) > 0  # to the session's
session = libc.syscall(keyctl, 0, -3, 0)  # KEYCTL_GET_KEYRING_ID
code = (
    f"import ctypes; libc = ctypes.CDLL(None); print(libc.syscall({keyctl}, 0, -3, 0) == {session},"
    f" libc.syscall({keyctl}, 10, -3, b'user', b'canary', 0))"  # KEYCTL_SEARCH
)
run = sandbox.run([sys.argv[1], "-c", code], profile="base", text=True, overrides={"process.seccomp": "off"})
print(run.stdout, run.stderr)
"""


def test_the_callers_session_keyring_stays_outside() -> None:
    """Where the filter leaves keyctl(2) open, keys of the launching user would be in reach."""
    calls = machines.load(platform.machine()).calls
    assert outer(KEYS, PYTHON, str(calls["keyctl"]), str(calls["add_key"])).split() == ["False", "-1"]


def test_only_the_standard_descriptors_are_inherited() -> None:
    """CVE-2024-21626: a directory of the host, open in the launcher."""
    extra = [os.open("/", os.O_RDONLY) for _ in range(20)]
    try:
        for fd in extra:
            os.set_inheritable(fd, True)
        code = "import os; print(sorted(os.listdir('/proc/self/fd'), key=int))"
        listings = {output(code) for _ in range(4)}  # the later ones by a supervisor that was made ahead
    finally:
        for fd in extra:
            os.close(fd)
    assert listings == {"['0', '1', '2', '3']"}  # 3 is the listing itself


def test_a_working_directory_behind_a_descriptor_is_refused() -> None:
    with pytest.raises(sandbox.SandboxError):
        sandbox.run(["pwd"], profile="base", overrides={"process.workdir": "/proc/self/fd/5"})


@pytest.mark.parametrize("place", ["/", "/usr", "/etc", "/proc/sys", "/sys", "/dev", "/sys/fs/cgroup"])
def test_what_is_the_sandboxs_own_can_not_be_written(place: str) -> None:
    found = output(f"import os; print(os.path.lexists({place!r}) and os.access({place!r}, os.W_OK))")
    assert found == "False"


@pytest.mark.parametrize("name", [name for name in tables.PROC_MASKED if os.path.exists(f"/proc/{name}")])
def test_what_shows_the_machine_is_masked(name: str) -> None:
    """Keys, addresses, what interrupts and timers tell of other sandboxes (amicontained's list)."""
    code = f"""
        import os
        path = "/proc/{name}"
        try:
            print(len(os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)))
        except PermissionError:
            print(0)
        print(os.access(path, os.W_OK))
    """
    assert output(code, profile="base") == "0\nFalse"


def test_root_inside_sets_no_sysctl() -> None:
    """Those of the network namespace belong to A's uid 0, which root inside is."""
    name = "/proc/sys/net/ipv4/ip_forward"
    assert errno_of(f"open({name!r}, 'w').write('1')", profile="base", overrides=AS_ROOT) == "EROFS"


def test_nothing_of_the_callers_environment_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2020-14370. Everything in /proc is looked at, init included."""
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x-canary-x")
    found = output("""
        import glob
        for name in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):
            try:
                if b'x-canary' in open(name, 'rb').read() and not name.endswith('cmdline'):
                    print(name)
            except OSError:
                pass
    """)
    assert found == ""


@pytest.mark.parametrize("backend", [None, Native()], ids=["made ahead", "spawned"])
def test_process_1_does_not_show_how_it_was_started(backend: Backend | None) -> None:
    """Its command line is open to all. A forked copy that has not executed anything yet has it, too."""
    code = "print(open('/proc/1/cmdline', 'rb').read(), open('/proc/1/comm').read().strip())"
    assert output(code, backend=backend) == r"b'sandbox-helper\x00' sandbox-helper"


def test_no_cgroup_of_the_hosts_has_a_name_inside() -> None:
    """CVE-2022-0492 began with a hierarchy that a payload could mount and write."""
    paths = output("print({l.rstrip().split(':')[2] for l in open('/proc/self/cgroup')})", profile="base")
    assert paths == "{'/'}"
    code = "import os; print([d for d, _, _ in os.walk('/sys') if os.access(d, os.W_OK)])"
    assert output(code, profile="base") == "[]"
    assert output("import os; print(os.listdir('/sys'))") in ("[]", "['fs']")  # its own group's


def test_a_command_named_like_an_option_is_executed(tmp_path: Path) -> None:
    """CVE-2024-32462."""
    work = tmp_path / "work"
    work.mkdir(mode=0o755)
    program = work / "--bind"
    program.write_text("#!/bin/sh\necho executed\n")
    program.chmod(0o755)
    result = sandbox.run(["--bind"], profile="untrusted", cwd=work, env={"PATH": str(work)}, text=True)
    assert result.stdout == "executed\n"


@pytest.mark.parametrize("user", ["1000abc", "-1", "0:-1", "4294967295", "", "1:2:3", "99999999999:1"])
def test_junk_is_no_user(user: str) -> None:
    """CVE-2026-30892."""
    with pytest.raises(sandbox.ProfileError):
        sandbox.run(["true"], profile="base", overrides={"user.map": user})


def test_user_namespaces_are_closed_twice() -> None:
    """By the filter, and by the count of A should the filter be off (bubblewrap's --disable-userns)."""
    assert errno_of("call(272, 0x10000000)") == "EPERM"
    assert errno_of("call(272, 0x10000000)", profile="base", overrides={"process.seccomp": "off"}) in (
        "ENOSPC",
        "EUSERS",
    )


def test_core_dumps_reach_no_handler() -> None:
    """A limit of 0 still runs a piped handler, on the host and as root; 1 does not (core(5))."""
    assert output("import resource; print(resource.getrlimit(resource.RLIMIT_CORE))") == "(1, 1)"
    for value in ("(0, 0)", "(0, 1)"):
        code = f"""
            import resource
            try:
                resource.setrlimit(resource.RLIMIT_CORE, {value})
            except (OSError, ValueError):
                pass
            print(resource.getrlimit(resource.RLIMIT_CORE))
        """
        assert output(code) == "(1, 1)"


def test_python_is_where_these_tests_think() -> None:
    assert sandbox.run([PYTHON, "-V"], profile="base").returncode == 0
