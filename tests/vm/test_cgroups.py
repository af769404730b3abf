"""Limits held by cgroups that a real systemd delegates, for an ordinary user in a session as of ssh."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sandbox
from sandbox.launch import broker

pytestmark = [pytest.mark.guest, pytest.mark.integration]
if not os.path.isdir("/run/systemd/system"):
    pytest.skip("only in the guest of scripts/vm", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent.parent
TOP = Path("/sys/fs/cgroup")
MANAGER = TOP / f"user.slice/user-{os.getuid()}.slice/user@{os.getuid()}.service"
PYTHON = "/usr/bin/python3"
M = 1 << 20
#: what a test asks for when it is about something else
PLAIN = {"memory": "128M"}

Command = Callable[..., subprocess.CompletedProcess[str]]


def python(code: str, **options: object) -> sandbox.Result:
    """Run Python code in a sandbox of its own."""
    return sandbox.run([PYTHON, "-c", code], text=True, **options)  # type: ignore[arg-type]


def scopes() -> list[Path]:
    return sorted(MANAGER.glob("*/sandbox-*.scope"))


def boxes() -> list[Path]:
    return sorted(MANAGER.glob("*/sandbox-*.scope/sandbox-*"))


def wait_until(done: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"still not so: {done}"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def no_broker() -> Iterator[None]:
    """Each test begins and ends without a broker, whose scope would be left."""
    broker.stop()
    yield
    broker.stop()


@pytest.fixture
def delegate() -> Iterator[Callable[..., None]]:
    """Have the user manager delegate these controllers, until the end of the test."""
    changed = []

    def set_controllers(*names: str) -> None:
        changed.append(names)
        subprocess.run(["sudo", "delegate", *names], check=True, capture_output=True)

    yield set_controllers
    if changed:
        broker.stop()
        set_controllers("default")


# --- memory ---------------------------------------------------------------------------------------

HOGS = {
    "anonymous": "x = bytearray(300 << 20)",
    "memfd": "import os; fd = os.memfd_create('x'); [os.write(fd, bytes(1 << 20)) for _ in range(300)]",
    "tmpfs": "f = open('/tmp/x', 'wb'); [f.write(bytes(1 << 20)) for _ in range(300)]",
    "small processes": (
        "import os, time\n"
        "for _ in range(30):\n"
        "    if os.fork() == 0:\n"
        "        x = bytearray(10 << 20); time.sleep(60)\n"
        "time.sleep(60)"
    ),
    "shared mapping": (
        "import mmap; m = mmap.mmap(-1, 300 << 20)\nfor at in range(0, 300 << 20, 4096): m[at] = 1"
    ),
    "unattached segment": (
        "import ctypes; c = ctypes.CDLL(None); c.shmat.restype = ctypes.c_void_p\n"
        "for _ in range(30):\n"
        "    i = c.shmget(0, 10 << 20, 0o1600); a = c.shmat(i, None, 0)\n"
        "    ctypes.memset(a, 1, 10 << 20); c.shmdt(ctypes.c_void_p(a))"
    ),
}


@pytest.mark.parametrize("kind", HOGS)
def test_memory_of_every_kind_is_held(kind: str) -> None:
    result = python(HOGS[kind], memory="64M", disk="500M", timeout=120)
    assert (result.verdict, result.returncode) == ("memory", -9)
    assert result.enforced["memory"] == "cgroup"
    assert result.limit is not None and (result.limit.name, result.limit.value) == ("memory", 64 * M)
    assert result.message == "killed: memory limit 64M (peak 64M, by cgroup)"
    assert result.usage.memory_peak == 64 * M


def test_page_cache_is_held_and_no_reason_to_kill() -> None:
    code = "f = open('/data/x', 'wb')\nfor _ in range(200): f.write(bytes(1 << 20)); f.flush()"
    try:
        result = python(code, memory="48M", binds=["/srv/disk:/data"], timeout=120)
    finally:
        Path("/srv/disk/x").unlink()
    assert result.verdict == "ok" and result.hit == ()
    assert result.usage.memory_peak is not None and result.usage.memory_peak <= 48 * M


def test_the_command_line_says_what_killed(sandbox_cmd: Command, tmp_path: Path) -> None:
    report = tmp_path / "report"
    done = sandbox_cmd("run", "-m", "48M", "--report", report, "--", PYTHON, "-c", HOGS["anonymous"])
    assert done.returncode == 137
    assert done.stderr == "sandbox: killed: memory limit 48M (peak 48M, by cgroup)\n"
    assert json.loads(report.read_text())["limit"]["mechanism"] == "cgroup"


def test_a_neighbour_and_the_host_go_on(sandbox_cmd: Command) -> None:
    with sandbox.Sandbox(memory="64M") as neighbour:
        for kind in ("anonymous", "small processes"):
            assert python(HOGS[kind], memory="48M", timeout=120).verdict == "memory"
            assert neighbour.run(["echo", "here"], text=True).stdout == "here\n"


def test_in_a_sandbox_that_stays_each_command_ends_of_it() -> None:
    with sandbox.Sandbox(memory="64M") as sb:
        bystander = sb.popen(["sleep", "600"])
        result = sb.run([PYTHON, "-c", HOGS["anonymous"]])
        assert result.verdict == "memory" and "by cgroup" in result.message
        bystander.wait(60)
        assert bystander.result is not None and bystander.result.verdict == "memory"
        again = sb.run([PYTHON, "-c", "x = bytearray(8 << 20)"])  # and it can be used again
        assert again.verdict == "ok" and again.hit == ()
        assert again.usage.memory_peak is not None


def test_a_kill_of_another_kind_is_none_for_memory() -> None:
    assert sandbox.run(["sh", "-c", "kill -9 $$"], **PLAIN).verdict == "signal"
    process = sandbox.Sandbox(**PLAIN)
    with process as sb:
        command = sb.popen(["sleep", "600"])
        inside = next(path for path in boxes() if "sleep" in _commands(path / "run"))
        (pid,) = [pid for pid, name in _processes(inside / "run") if name == "sleep"]
        os.kill(pid, signal.SIGKILL)
        command.wait(30)
        assert command.result is not None and command.result.verdict == "signal"


def _processes(group: Path) -> list[tuple[int, str]]:
    found = []
    for pid in (group / "cgroup.procs").read_text().split():
        found.append((int(pid), Path(f"/proc/{pid}/comm").read_text().strip()))
    return found


def _commands(group: Path) -> list[str]:
    try:
        return [name for _, name in _processes(group)]
    except OSError:
        return []


def test_a_limit_of_the_payloads_own_is_not_ours(tmp_path: Path) -> None:
    """A nested payload that sets itself a limit, and is killed for that."""
    code = (
        "import os, subprocess\n"
        "os.mkdir('/sys/fs/cgroup/a')\n"
        "open('/sys/fs/cgroup/a/memory.max', 'w').write('20000000')\n"
        "p = subprocess.run(['sh', '-c', 'echo 0 > /sys/fs/cgroup/a/cgroup.procs; exec '\n"
        f"    '{PYTHON} -c \"x = bytearray(100 << 20)\"'])\n"
        "raise SystemExit(9 if p.returncode == -9 else 1)"
    )
    result = python(code, profile="base", nested=True, **PLAIN)
    assert (result.verdict, result.returncode, result.hit) == ("nonzero", 9, ())


# --- pids, cpu, io ---------------------------------------------------------------------------------


def test_a_fork_bomb_is_held() -> None:
    with sandbox.Sandbox(**PLAIN) as neighbour:
        bomb = sandbox.Sandbox(pids=40, memory="128M")
        with bomb:
            started = bomb.popen(["sh", "-c", "f() { f | f & }; f; sleep 5"], stderr=sandbox.DEVNULL)
            assert neighbour.run(["true"]).verdict == "ok"
            assert subprocess.run(["true"]).returncode == 0
            stats = bomb.stats()
            assert stats.pids is not None and stats.pids <= 40
            started.kill()
            started.wait(60)


def test_pids_have_a_verdict() -> None:
    code = "import os, time\nfor _ in range(60):\n    if os.fork() == 0: time.sleep(60)"
    result = python(code, pids=20, timeout=60)
    assert (result.verdict, result.hit, result.enforced["pids"]) == ("pids", ("pids",), "cgroup")
    assert result.usage.pids_peak == 20
    assert "by cgroup" in result.message
    # Touched and coped with is no failure.
    coped = python(f"try:\n    {code.replace(chr(10), chr(10) + '    ')}\nexcept OSError: pass", pids=20)
    assert coped.verdict == "ok" and coped.hit == ("pids",)


def test_a_cpu_hog_is_held() -> None:
    code = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    result = python(code, cpus=0.25, timeout=4)
    assert result.verdict == "timeout" and result.enforced["cpus"] == "cgroup"
    used = result.usage.cpu_user + result.usage.cpu_system
    assert used <= 0.25 * result.usage.wall * 1.5 + 0.2  # a quota is kept by the tick
    assert result.usage.cpu_throttled


def test_cpu_time_is_exact_and_everybodys() -> None:
    script = "for i in 1 2 3; do (setsid sh -c 'while :; do :; done' &); done; sleep 60"
    result = sandbox.run(["sh", "-c", script], cpu_time=1, timeout=60)
    assert result.verdict == "cpu_time" and result.enforced["cpu_time"] == "cgroup"
    assert result.usage.cpu_user + result.usage.cpu_system >= 1.0


def test_weights_are_the_kernels() -> None:
    with sandbox.Sandbox(cpu_weight=37) as sb:
        sb.run(["true"])
        assert "37" in {(box / "cpu.weight").read_text().strip() for box in boxes()}


def test_a_disk_writer_is_held(delegate: Callable[..., None]) -> None:
    """With io delegated, which systemd does not by itself."""
    with pytest.raises(sandbox.RequirementError, match="does not delegate io") as caught:
        sandbox.run(["true"], io={"/srv/disk": {"wbps": "1M"}})
    assert "Delegate=cpu cpuset io memory pids" in (caught.value.mend or "")
    delegate("cpu", "io", "memory", "pids")
    code = (
        "import os\nfd = os.open('/data/x', os.O_WRONLY | os.O_CREAT | os.O_SYNC)\n"
        "for _ in range(6): os.write(fd, os.urandom(1 << 20))"
    )
    options = {"binds": ["/srv/disk:/data"], "timeout": 120}
    try:
        result = python(code, io={"/srv/disk": {"wbps": "2M"}}, **options)
    finally:
        Path("/srv/disk/x").unlink()
    assert result.verdict == "ok" and result.enforced["io"] == "cgroup"
    assert result.usage.io_written is not None and result.usage.io_written >= 6 * M
    assert result.usage.wall >= 2.0  # 6 MiB at 2 MiB a second: it can't be sooner


@pytest.mark.parametrize("path", ["/dev/shm", "/proc", "/dev/null", "/nowhere"])
def test_io_of_what_is_on_no_disk(path: str) -> None:
    with pytest.raises(sandbox.ProfileError, match=r"limits\.io: "):
        sandbox.run(["true"], io={path: {"wbps": "1M"}})


# --- what is refused --------------------------------------------------------------------------------


def test_a_cpuset_that_is_not_allowed() -> None:
    with pytest.raises(sandbox.SetupError, match="not all of these CPUs are ours to use"):
        sandbox.run(["true"], cpuset="0-3")  # this machine has one
    assert sandbox.run(["true"], cpuset="0").verdict == "ok"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"memory": -1}, "negative"),
        ({"memory": 1 << 70}, "memory"),
        ({"pids": 0}, "pids"),
        ({"pids": 1 << 23}, "pids"),
        ({"cpus": 0.001}, "from 0.01"),
        ({"cpu_weight": 0}, "cpu_weight"),
        ({"io": {"/srv/disk": {"wbps": 0}}}, "wbps"),
        ({"cgroup_parent": "relative"}, "absolute path"),
    ],
)
def test_values_that_the_kernel_would_not_take(options: dict[str, object], why: str) -> None:
    before = boxes()
    with pytest.raises(sandbox.ProfileError, match=why):
        sandbox.run(["true"], **options)  # type: ignore[arg-type]
    assert boxes() == before


def test_a_directory_that_is_not_ours(sandbox_cmd: Command) -> None:
    done = sandbox_cmd("run", "--cgroup-parent", "/sys/fs/cgroup/system.slice", "--", "true")
    assert done.returncode == 125
    assert "system.slice is not ours to write to" in done.stderr and "mend: " in done.stderr


def test_no_user_bus_says_what_to_do() -> None:
    """As in a cron job of a user who does not linger."""
    command = [sys.executable, "-B", "-m", "sandbox", "run", "-p", "base", "--require", "memory", "-m", "64M"]
    variables = ["PYTHONPATH=" + str(ROOT), "HOME=/tmp/other"]
    asked = ["sudo", "-u", "other", "env", "-i", *variables, *command, "--", "true"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd="/", timeout=120)
    assert done.returncode == 125
    assert "there is no /run/user/" in done.stderr
    assert "mend: sudo loginctl enable-linger other" in done.stderr
    # Without the requirement it runs, and says how memory is held.
    asked.remove("--require")
    asked.remove("memory")
    done = subprocess.run(
        [*asked[:-2], "--report", "fd:1", "--", "true"], capture_output=True, text=True, cwd="/", timeout=120
    )
    assert done.returncode == 0 and '"memory":"best-effort' in done.stdout


def test_doctor_names_the_mechanisms(sandbox_cmd: Command) -> None:
    rows = {row["name"]: row for row in json.loads(sandbox_cmd("doctor", "--json").stdout)["checks"]}
    assert rows["cgroup"]["ok"] and "delegated by systemd" in rows["cgroup"]["detail"]
    assert rows["user-manager"]["ok"]


# --- where it is made --------------------------------------------------------------------------------


def test_one_scope_for_a_process_and_nobody_is_moved() -> None:
    own = Path("/proc/self/cgroup").read_text()
    for _ in range(4):
        assert sandbox.run(["true"], **PLAIN).verdict == "ok"
    wait_until(lambda: len(scopes()) == 1)  # the first launch had one of its own
    assert Path("/proc/self/cgroup").read_text() == own
    broker.stop()
    wait_until(lambda: not scopes())


def test_fifty_at_once() -> None:
    together = []
    try:
        for _ in range(50):
            together.append(sandbox.Sandbox(memory="32M", pids=20))
        assert len(boxes()) >= 50
        assert {sb.run(["true"]).verdict for sb in together} == {"ok"}
        assert together[7].run([PYTHON, "-c", HOGS["anonymous"]]).verdict == "memory"
        assert {sb.run(["true"]).verdict for sb in together} == {"ok"}
    finally:
        for sb in together:
            sb.close()
    broker.stop()
    wait_until(lambda: not scopes())


def test_inside_a_scope_that_somebody_delegated(sandbox_cmd: Command) -> None:
    """It is used as it is: no other is asked for."""
    code = (
        "import sandbox, glob, sys; "
        "sb = sandbox.Sandbox(memory='64M'); print(sandbox.run(['true'], memory='64M').enforced['memory'])"
    )
    command = [
        "systemd-run",
        "--user",
        "--scope",
        "-q",
        "-p",
        "Delegate=yes",
        sys.executable,
        "-m",
        "sandbox",
    ]
    done = subprocess.run(
        [*command, "run", "-m", "48M", "--", PYTHON, "-c", HOGS["anonymous"]],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"},
        timeout=120,
    )
    assert done.returncode == 137 and "by cgroup" in done.stderr, done.stderr
    # In the API the caller is not moved: it has a scope of its own besides.
    done = subprocess.run(
        [*command[:-2], "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"},
        timeout=120,
    )
    assert done.stdout == "cgroup\n", done.stderr


@pytest.fixture
def prepared() -> Iterator[Path]:
    """A directory that an administrator made for this user, with a leaf to stand in."""
    path = TOP / "judge"
    uid = os.getuid()
    script = (
        f"mkdir -p {path}/login && chown {uid} {path} {path}/cgroup.procs {path}/cgroup.subtree_control && "
        f"chown -R {uid} {path}/login"
    )
    subprocess.run(["sudo", "sh", "-c", script], check=True)
    yield path
    subprocess.run(["sudo", "rmdir", path / "login", path], check=True)


@pytest.mark.parametrize("how", ["option", "variable", "found"])
def test_a_directory_that_was_prepared(prepared: Path, sandbox_cmd: Command, how: str) -> None:
    options = ["--cgroup-parent", str(prepared)] if how == "option" else []
    variable = {"SANDBOX_CGROUP_PARENT": str(prepared)} if how == "variable" else {}
    hog = ["run", *options, "-m", "48M", "--", PYTHON, "-c", HOGS["anonymous"]]
    if how != "found":
        refused = sandbox_cmd(*hog, env=variable)
        assert refused.returncode == 125 and "can't be entered from" in refused.stderr
        assert f"echo $$ | sudo tee {prepared}/login/cgroup.procs" in refused.stderr
    enter = 'echo $$ | sudo tee "$0"/login/cgroup.procs >/dev/null && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", enter, str(prepared), sys.executable, "-m", "sandbox", *hog],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variable},
        timeout=120,
    )
    assert done.returncode == 137 and "by cgroup" in done.stderr, done.stderr
    assert [entry.name for entry in prepared.iterdir() if entry.is_dir()] == ["login"]


def test_root_asks_the_systems_manager() -> None:
    command = [sys.executable, "-B", "-m", "sandbox", "run", "-p", "base", "-m", "48M", "--", PYTHON, "-c"]
    done = subprocess.run(
        ["sudo", "env", f"PYTHONPATH={ROOT}", "HOME=/tmp/root", *command, HOGS["anonymous"]],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=120,
    )
    assert done.returncode == 137 and "by cgroup" in done.stderr, done.stderr


# --- life ---------------------------------------------------------------------------------------------


def test_limits_change_while_it_runs() -> None:
    with sandbox.Sandbox(memory="48M") as sb:
        assert sb.run([PYTHON, "-c", "x = bytearray(100 << 20)"]).verdict == "memory"
        sb.set_limits(memory="200M", pids=30, cpus=0.5)
        assert sb.run([PYTHON, "-c", "x = bytearray(100 << 20)"]).verdict == "ok"
        (box,) = [each for each in boxes() if (each / "memory.max").read_text().strip() == str(200 * M)]
        assert (box / "memory.swap.max").read_text().strip() == "0"
        assert (box / "pids.max").read_text().strip() == "31"
        assert (box / "cpu.max").read_text().split() == ["50000", "100000"]
        result = sb.run([PYTHON, "-c", HOGS["anonymous"]])
        assert result.verdict == "memory" and result.limit is not None and result.limit.value == 200 * M
        sb.set_limits(memory=None, cpus=None)
        assert (box / "memory.max").read_text().strip() == "max"
        with pytest.raises(sandbox.ProfileError):
            sb.set_limits(pids=20, memory="much")
        with pytest.raises(sandbox.RequirementError, match=r"timeout can't be changed"):
            sb.set_limits(pids=20, timeout=5)
        with pytest.raises(sandbox.RequirementError, match="lacks the cpuset controller"):
            sb.set_limits(pids=20, cpuset="0")
        assert (box / "pids.max").read_text().strip() == "31"  # all of them or none


def test_statistics_and_freezing() -> None:
    with sandbox.Sandbox(memory="64M") as sb:
        process = sb.popen([PYTHON, "-c", "x = bytearray(20 << 20)\nwhile True: pass"])
        wait_until(lambda: (sb.stats().memory or 0) > 20 * M)
        stats = sb.stats()
        assert stats.memory_peak is not None and stats.memory is not None
        assert stats.memory_peak >= stats.memory and stats.pids == 1 and not stats.frozen
        sb.freeze()
        first, second = sb.stats(), sb.stats()
        assert first.frozen and first.cpu == second.cpu
        sb.thaw()
        seen = [each.cpu or 0 for each, _ in zip(sb.watch(0.2), range(3), strict=False)]
        assert seen == sorted(seen) and seen[-1] > (first.cpu or 0)
        process.kill()
        process.wait(30)


LAUNCHERS = {
    "command": """
import os, sys
arguments = ["run", "-m", "64M", "--", "sh", "-c", "setsid sleep 600 & setsid sleep 600"]
os.execv(sys.executable, [sys.executable, "-B", "-m", "sandbox", *arguments])
""",
    "api": """
import sandbox, threading
for _ in range(2):
    threading.Thread(target=lambda: sandbox.run(["sh", "-c", "setsid sleep 600"], memory="64M")).start()
""",
}


@pytest.mark.parametrize("kind", LAUNCHERS)
def test_a_launcher_that_is_killed_at_any_moment_leaves_nothing(kind: str) -> None:
    """No process, no cgroup, no scope: whenever that is."""
    moments = random.Random(kind)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(10):
        launcher = subprocess.Popen([sys.executable, "-B", "-c", LAUNCHERS[kind]], env=environ)
        time.sleep(moments.uniform(0.3, 2.5))
        launcher.kill()
        launcher.wait()
    wait_until(lambda: not scopes() and not boxes())
    listed = subprocess.run(
        ["systemctl", "--user", "list-units", "--all", "--no-legend", "sandbox*"],
        capture_output=True,
        text=True,
        env={**environ, "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"},
    )
    assert listed.stdout == ""
    wait_until(lambda: subprocess.run(["pgrep", "-x", "sleep"], capture_output=True).returncode == 1)


# --- attacks --------------------------------------------------------------------------------------------

ESCAPE = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, act):
    try:
        act()
    except OSError as error:
        print(what, error.errno)
    else:
        print(what, "worked")
def write(path, text):
    with open(path, "w", 0 if "b" in "w" else 1) as file:
        file.write(text)
top = "/sys/fs/cgroup"
for name in ("memory.max", "pids.max", "cgroup.procs", "cgroup.subtree_control", "cgroup.freeze"):
    attempt(name, lambda: write(f"{top}/{name}", "max"))
attempt("mkdir", lambda: os.mkdir(f"{top}/mine"))
attempt("above", lambda: write(f"{top}/../cgroup.procs", "0"))
def mount():
    if libc.mount(b"x", b"/tmp", b"cgroup2", 0, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")
attempt("mount", mount)
attempt("read above", lambda: os.listdir("/tmp/../sys/fs/cgroup/../../fs/cgroup/system.slice"))
"""


@pytest.fixture(params=["nsdelegate", "plain"])
def tree(request: pytest.FixtureRequest) -> Iterator[None]:
    """The machine's mount of cgroup v2, with and without nsdelegate."""
    if request.param == "nsdelegate":
        yield
        return
    subprocess.run(["sudo", "mount", "-o", "remount,rw", "-t", "cgroup2", "none", TOP], check=True)
    assert (
        "nsdelegate"
        not in subprocess.run(["findmnt", "-no", "OPTIONS", TOP], capture_output=True, text=True).stdout
    )
    yield
    subprocess.run(["sudo", "mount", "-o", "remount,rw,nsdelegate", "-t", "cgroup2", "none", TOP], check=True)


@pytest.mark.usefixtures("tree")
def test_a_payload_of_our_own_uid_gets_at_nothing() -> None:
    result = python(ESCAPE, user="keep", **PLAIN)
    assert result.verdict == "ok", result.stderr
    assert "worked" not in result.stdout, result.stdout


@pytest.mark.usefixtures("tree")
def test_a_nested_payload_raises_no_limit_of_ours() -> None:
    """It may write in its own cgroup, the top of what it sees; the limits are one above."""
    code = (
        "import os\n"
        "for name in ('memory.max', 'memory.high', 'pids.max', 'memory.swap.max'):\n"
        "    try: open('/sys/fs/cgroup/' + name, 'w').write('max')\n"
        "    except OSError: pass\n"
        "open('/sys/fs/cgroup/main/cgroup.procs').read()\n"
        "os.mkdir('/sys/fs/cgroup/b'); open('/sys/fs/cgroup/b/cgroup.procs', 'w').write('0')\n"
        + HOGS["anonymous"]
    )
    result = python(code, profile="base", user="keep", nested=True, memory="64M")
    assert (result.verdict, result.usage.memory_peak) == ("memory", 64 * M), result.stderr


def test_sandboxes_inside_have_limits_below_ours(tmp_path: Path) -> None:
    inner = f"cd {ROOT} && HOME=/tmp PYTHONPATH=. {sys.executable} -B -m sandbox run -p base"
    script = (
        f"{inner} -m 32M -- {PYTHON} -c '{HOGS['anonymous']}'; echo $?; "
        f"{inner} -m 512M -- {PYTHON} -c '{HOGS['anonymous']}'; echo not reached"
    )
    options = {"nested": True, "memory": "160M", "binds": [f"{ROOT}:{ROOT}:ro"], "profile": "base"}
    result = sandbox.run(["sh", "-c", script], text=True, **options)
    assert result.stdout == "137\n", result.stderr
    assert "memory limit 32M" in result.stderr
    assert result.verdict == "memory" and result.limit is not None and result.limit.value == 160 * M
