"""Plans that are really run: what compile promises is what a command finds.

Where a defence is tested, the same command also runs on a plan without it: the test would
notice if the defence were gone.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox import host as hosts
from sandbox import paths, wire
from sandbox.plan import Invocation, Plan, compile, resolve
from sandbox.plan import operations as ops
from sandbox.profile.model import Environment, Limits, Mount, Net, Process, Profile, Root, User
from sandbox.root import tables

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

Change = Callable[[Plan], Plan]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(tmp_home: Path) -> Path:
    """A directory in the home, in one that the payload of a root caller can enter, too."""
    directory = tmp_home / "project"
    directory.mkdir()
    return directory


@pytest.fixture
def run(helper: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(paths, "installation", lambda: (str(helper.parent.parent),))
    host = hosts.probe()

    def call(
        profile: Profile,
        *command: str,
        cwd: Path = project,
        environ: Mapping[str, str] | None = None,
        invocation: Callable[[Invocation], Invocation] = lambda same: same,
        plan: Change = lambda same: same,
        scratch: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        found = invocation(resolve(profile, host, str(cwd), os.environ if environ is None else environ))
        made = plan(compile(profile, host, found))
        slots = [
            wire.Record(wire.Kind.ARGV, "", "", command),
            wire.Record(wire.Kind.STDIO, "", "", (-1, 1, 2)),
            wire.Record(wire.Kind.VERBOSITY, "", "", (1,)),
        ]
        if scratch:
            slots.append(wire.Record(wire.Kind.SCRATCH, "use a scratch directory", "", (str(scratch),)))
        file = os.memfd_create("plan")
        try:
            os.write(file, wire.extend(made.encode(), slots))
            os.lseek(file, 0, os.SEEK_SET)
            arguments = [str(helper), "run", str(file)]
            return subprocess.run(
                arguments, pass_fds=(file,), env={}, capture_output=True, text=True, timeout=60
            )
        finally:
            os.close(file)

    return call


def shell(run: Run, profile: Profile, script: str, **more: object) -> str:
    """What a script says, both streams together."""
    result = run(profile, "/bin/sh", "-c", f"exec 2>&1\n{script}", **more)
    assert result.returncode == 0, result
    return result.stdout


def without(*kinds: type[ops.Operation]) -> Change:
    def change(plan: Plan) -> Plan:
        return replace(
            plan, operations=tuple(each for each in plan.operations if not isinstance(each, kinds))
        )

    return change


PLAIN = Profile(mounts=(Mount(".", "rw"),), limits=Limits(core=0))
needs_owner = pytest.mark.skipif(
    os.getuid() == 0, reason="root's payload is not root, and writes nothing of root's"
)


def test_the_hosts_tools_work_in_the_callers_directory(run: Run, project: Path) -> None:
    (project / "in").write_text("3\n1\n2\n")
    result = run(PLAIN, "/bin/sh", "-c", "pwd; sort in | head -1; ls /proc/self/fd | wc -l; exit 7")
    assert (result.returncode, result.stderr) == (7, "")
    assert result.stdout.split() == [str(project), "1", "4"]


@pytest.mark.parametrize(
    "path", ["/x", "/usr/x", "/etc/x", "/etc/passwd", "/dev/x", "/sys/x", "/proc/x", "/bin/x"]
)
def test_what_can_not_be_written(run: Run, path: str) -> None:
    assert shell(run, PLAIN, f"echo x > {path} && exit 1; true") != ""


@pytest.mark.parametrize("path", ["/x", "/dev/x"])
def test_read_only_is_what_forbids_it(run: Run, path: str) -> None:
    assert shell(run, PLAIN, f"echo x > {path}", plan=without(ops.ReadOnly)) == ""


def test_what_can_be_written(run: Run) -> None:
    script = """for d in /tmp /var/tmp /run /dev/shm ~; do echo '#!/bin/sh' > $d/x && chmod +x $d/x; done
    /tmp/x; ~/x"""
    assert shell(run, PLAIN, script) == ""


@needs_owner
def test_the_project_is_written_and_other_modes_are_not(run: Run, project: Path, tmp_home: Path) -> None:
    for name in ("ro", "overlay"):
        (tmp_home / name).mkdir()
        (tmp_home / name / "old").write_text("old")
    mounts = (
        Mount(".", "rw"),
        Mount("~/ro", "ro"),
        Mount("~/overlay", "overlay"),
        Mount("~/t", "tmpfs", size=1 << 20),
    )
    script = """echo new > new; echo x > ~/ro/x; echo y > ~/overlay/old; cat ~/overlay/old
    head -c 2000000 /dev/zero > ~/t/big; wc -c < ~/t/big"""
    said = shell(run, Profile(mounts=mounts), script)
    assert "Read-only file system" in said and "y\n" in said
    assert 0 < int(said.split()[-1]) <= 1 << 20
    assert (project / "new").read_text() == "new\n"
    assert (tmp_home / "overlay" / "old").read_text() == "old"
    assert not (tmp_home / "ro" / "x").exists()


@needs_owner
def test_an_overlay_can_keep_its_changes_on_disk(run: Run, tmp_home: Path, tmp_path: Path) -> None:
    (tmp_home / "data").mkdir()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    profile = Profile(root=Root(writable="disk"), mounts=(Mount("~/data", "overlay"),))
    script = (
        "echo x > ~/data/new; cat ~/data/new; grep ' /[^ ]*/data .* overlay ' /proc/self/mountinfo | wc -l"
    )
    assert shell(run, profile, script, scratch=scratch) == "x\n1\n"
    assert not (tmp_home / "data" / "new").exists()


# --- protections -----------------------------------------------------------------------------------


@pytest.fixture
def own_home(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that is given away, with our directories where they are by default."""
    directory = tmp_path / "own"
    directory.mkdir()
    monkeypatch.setenv("HOME", str(directory))
    for name in ("CONFIG", "CACHE", "STATE", "DATA"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    return directory


PLANT = """cd
mv .local .old; mv .local/state .x; rm -rf .config/sandbox; echo x > .config/sandbox/x
mkdir -p .config/sandbox/profiles; echo planted > .config/sandbox/profiles/default.toml; true"""


@needs_owner
@pytest.mark.parametrize("guarded", [True, False])
def test_our_files_can_not_be_replaced_with_a_writable_home(run: Run, own_home: Path, guarded: bool) -> None:
    profile = Profile(mounts=(Mount("~", "rw"),))
    shell(run, profile, PLANT, invocation=lambda same: same if guarded else replace(same, guards=()))
    planted = (own_home / ".config/sandbox/profiles/default.toml").exists() or (own_home / ".old").exists()
    assert planted == (not guarded)


@needs_owner
@pytest.mark.parametrize("guarded", [True, False])
def test_a_projects_profile_can_not_be_replaced(run: Run, project: Path, guarded: bool) -> None:
    (project / "sandbox.toml").write_text("mine")
    profile = Profile(mounts=(Mount(".", "rw"),), files=(str(project / "sandbox.toml"),))
    script = """echo x > sandbox.toml; rm -f sandbox.toml; mv sandbox.toml old
    echo x > new; mv new sandbox.toml; true"""
    shell(run, profile, script, invocation=lambda same: same if guarded else replace(same, guards=()))
    assert ((project / "sandbox.toml").read_text() == "mine") == guarded


@pytest.mark.parametrize("mode", ["ro", "rw", "overlay"])
def test_what_is_hidden_is_hidden_everywhere(run: Run, own_home: Path, mode: str) -> None:
    (own_home / ".ssh").mkdir()
    (own_home / ".ssh" / "id").write_text("the secret")
    other = Mount("/other", mode, source=str(own_home))  # type: ignore[arg-type]
    profile = Profile(mounts=(Mount("~", "ro"), Mount("~/.ssh", "hide"), other))
    script = "cat ~/.ssh/id /other/.ssh/id; mv /other/.ssh /other/x; rmdir /other/.ssh; cat /other/x/id; true"
    assert "the secret" not in shell(run, profile, script)
    assert (own_home / ".ssh" / "id").read_text() == "the secret"
    assert "the secret" in shell(run, profile, script, plan=without(ops.Mask))


def test_the_machine_is_masked_in_proc(run: Run) -> None:
    script = """cat /proc/kallsyms /proc/timer_list /proc/interrupts 2>/dev/null | wc -c
    test -w /proc/sys/kernel/hostname"""
    profile = replace(PLAIN, process=Process(seccomp="default"))
    result = run(profile, "/bin/sh", "-c", script)
    assert (result.stdout.strip(), result.returncode) == ("0", 1)
    assert run(profile, "/bin/sh", "-c", script, plan=without(ops.Mask)).stdout.strip() != "0"


# --- roots -----------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path, helper: Path) -> Path:
    """A root with one program, which needs nothing."""
    import shutil

    directory = tmp_path / "root"
    (directory / "bin").mkdir(parents=True)
    (directory / "etc").mkdir()
    (directory / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    shutil.copy(helper, directory / "bin" / "helper")
    return directory


@pytest.mark.parametrize("writable", ["no", "memory"])
def test_a_directory_as_root_is_never_changed(run: Run, root: Path, writable: str) -> None:
    before = sorted(str(path) for path in root.rglob("*"))
    profile = Profile(root=Root(f"dir:{root}", writable=writable))  # type: ignore[arg-type]
    result = run(profile, "/bin/helper", "true")
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(str(path) for path in root.rglob("*")) == before


@pytest.mark.parametrize("name", ["dev", "proc", "etc", "tmp", "sys", "run", "var", "home"])
@pytest.mark.parametrize(
    "target", ["{canary}", "../../../../../../../../..{canary}", "/proc/self/root{canary}"]
)
def test_links_of_a_hostile_root_lead_nowhere(
    run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, target: str
) -> None:
    monkeypatch.setattr(tables, "SCRATCH", ())  # planning refuses some: here it is the helper's turn
    canary = tmp_path / "canary"
    canary.mkdir()
    if (root / name).exists():
        (root / name / "passwd").unlink()
        (root / name).rmdir()
    (root / name).symlink_to(target.format(canary=canary))
    result = run(Profile(root=Root(f"dir:{root}", writable="memory")), "/bin/helper", "true")
    assert list(canary.iterdir()) == []
    if name != "home" or str(Path.home()).startswith("/home/"):
        assert result.returncode == 125 and "cannot" in result.stderr


def test_an_empty_root_has_only_what_is_mounted(run: Run, helper: Path) -> None:
    profile = Profile(root=Root("empty"), mounts=(Mount("/helper", "ro", source=str(helper)),))
    assert run(profile, "/helper", "true").returncode == 0
    result = run(Profile(root=Root("empty")), "/bin/sh")
    assert result.returncode == 127 and "/bin/sh" in result.stderr


# --- the process -----------------------------------------------------------------------------------


def test_the_callers_environment_does_not_leak(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "the secret")
    monkeypatch.setenv("KEPT", "kept")
    profile = Profile(env=Environment(keep=("KEPT",)))
    said = shell(run, profile, "cat /proc/*/environ | tr '\\0' '\\n'; env")
    assert "KEPT=kept" in said and "the secret" not in said
    assert "the secret" in shell(run, Profile(env=Environment(keep=("SECRET",))), "env")


@pytest.mark.parametrize(("user", "expected"), [("root", "0"), ("1234:77", "1234")])
def test_who_the_payload_is(run: Run, user: str, expected: str) -> None:
    said = shell(run, Profile(user=User(user)), "id -u; grep Cap /proc/self/status | cut -f2 | sort -u")
    assert said.split() == [expected, "0" * 16]


def test_networks(run: Run) -> None:
    script = "tail -n +3 /proc/net/dev | wc -l"
    assert shell(run, Profile(), script).strip() == "1"
    own = len(Path("/proc/net/dev").read_text().splitlines()) - 2
    assert shell(run, Profile(net=Net("host")), script).strip() == str(own)


def test_limits_are_those_of_the_plan(run: Run) -> None:
    limits = Limits(files=99, file_size=1 << 20, memory=1 << 30, cpu_time=7, pids=50, core=0)
    said = shell(run, Profile(limits=limits), "cat /proc/self/limits")
    found = {line[:26].strip(): line[26:].split()[:2] for line in said.splitlines()}
    assert found["Max open files"] == ["99", "99"]
    assert found["Max file size"] == [str(1 << 20)] * 2
    assert found["Max data size"] == [str((1 << 30) + (256 << 20))] * 2
    assert found["Max cpu time"] == ["10", "11"]  # behind the one that is polled
    assert found["Max core file size"] == ["1", "1"]


def test_the_disk_limit_holds_for_all_of_ours_together(run: Run) -> None:
    script = """for d in /tmp /dev/shm /run ~; do head -c 1048576 /dev/zero > $d/x; done 2> /dev/null
    du -cb /tmp/x /dev/shm/x /run/x ~/x 2> /dev/null | tail -1 | cut -f1"""
    held = int(shell(run, Profile(limits=Limits(disk=2 << 20)), script))
    assert held <= 2 << 20
    assert int(shell(run, Profile(), script)) == 4 << 20
