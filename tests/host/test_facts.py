"""Facts: cheap, right on odd machines, and never an exception."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.host import facts as module
from sandbox.host.facts import Facts, gather, parse_map
from sandbox.host.model import IdMap, Range
from tests.host.machine import Machine

USER = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def look(machine: Machine, **environ: str) -> Facts:
    return gather(root=str(machine.root), environ=environ)


@pytest.mark.as_root
def test_this_machine() -> None:
    host = gather().host
    release = os.uname().release
    assert release.startswith(f"{host.kernel[0]}.{host.kernel[1]}")
    assert (host.uid, host.gid, host.user) == (os.geteuid(), os.getegid(), USER)
    assert host.uid_map == parse_map(Path("/proc/self/uid_map").read_text())
    assert host.key and "\n" not in host.key
    assert set(host.checks) == {"kernel", "idrange"}


def test_an_empty_directory_is_a_machine_with_nothing(tmp_path: Path) -> None:
    found = gather(root=str(tmp_path), environ={})
    assert found.host.newuidmap is None and found.host.newgidmap is None
    assert found.host.subuid == () and found.host.container == ""
    assert found.host.machine_root == 0  # not to be found out: nothing is given away
    assert found.host.uid_map == (IdMap(0, 0, 2**32 - 1),)
    if os.geteuid() != 0:
        assert not found.host.checks["idrange"].ok


@pytest.mark.parametrize(
    ("pattern", "handler"),
    [("core\n", ""), ("/var/%p\n", ""), ("|/bin/x %p\n", "|"), ("@/run/x\n", "@"), ("@@/x\n", "@")],
)
def test_where_core_dumps_go(machine: Machine, pattern: str, handler: str) -> None:
    machine.write("/proc/sys/kernel/core_pattern", pattern)
    assert look(machine).host.core_handler == handler


def test_ranges_come_from_the_files(machine: Machine) -> None:
    machine.write("/etc/subuid", f"{USER}:100000:65536\nrubbish\n")
    machine.write("/etc/subgid", f"{os.geteuid()}:200000:5\n")
    found = look(machine)
    assert found.host.subuid == (Range(100000, 65536),)
    assert found.host.subgid == (Range(200000, 5),)
    assert any("/etc/subuid line 2" in text for text in found.problems)


def test_bytes_that_are_no_text_do_no_harm(machine: Machine) -> None:
    machine.write("/etc/subuid", "").write_bytes(b"\xff\xfe:1:2\n" + USER.encode() + b":100000:5\n")
    assert look(machine).host.subuid == (Range(100000, 5),)


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.18.44-fc-v595", (6, 18)),
        ("5.14", (5, 14)),
        ("6.1.0-13-amd64", (6, 1)),
        ("5.15.153.1-microsoft-standard-WSL2", (5, 15)),
        ("6.9-rc3", (6, 9)),
        ("6.9+", (6, 9)),
        ("7", (7, 0)),
        ("strange", (0, 0)),
    ],
)
def test_kernel_versions(release: str, version: tuple[int, int]) -> None:
    assert module._version(release) == version


# --- the tools ----------------------------------------------------------------------------------


def tool(machine: Machine, name: str, mode: int = 0o755, where: str = "/usr/bin") -> Path:
    path = machine.write(f"{where}/{name}", "#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_a_tool_without_rights_is_none(machine: Machine) -> None:
    tool(machine, "newuidmap")
    found = look(machine)
    assert found.host.newuidmap is None
    if os.geteuid() != 0:  # root needs no tool, and is not told
        assert any("neither the setuid bit" in text for text in found.problems)


@pytest.mark.as_root
def test_a_setuid_tool_counts_only_when_root_owns_it(machine: Machine) -> None:
    path = tool(machine, "newuidmap", 0o4755)
    assert look(machine).host.newuidmap == (str(path) if os.geteuid() == 0 else None)
    if os.geteuid() == 0:
        os.chown(path, 1234, 1234)
        path.chmod(0o4755)
        assert look(machine).host.newuidmap is None


def test_a_program_of_the_users_own_is_passed_over(tmp_path: Path, need: Callable[..., None]) -> None:
    need("newuidmap")
    fake = tmp_path / "newuidmap"
    fake.write_text("#!/bin/sh\nexit 0\n")
    fake.chmod(0o755)
    found = gather(environ={"PATH": f"relative::{tmp_path}:{os.environ['PATH']}"}).host.newuidmap
    assert found and found != str(fake)


def test_with_no_new_privs_no_tool_has_rights(machine: Machine) -> None:
    tool(machine, "newuidmap", 0o4755)
    machine.status(no_new_privs=1)
    found = look(machine)
    assert found.host.newuidmap is None
    if os.geteuid() != 0:
        assert any("no_new_privs" in text for text in found.problems)


def test_no_new_privs_of_this_very_process() -> None:
    """Really: newuidmap gains nothing under it, and we know without starting it."""
    code = (
        "import ctypes; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)\n"
        "from sandbox.host.facts import gather; print(gather().host.newuidmap)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


# --- containers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marks", "environ", "kind"),
    [
        ([], {}, ""),
        ([("/.dockerenv", "")], {}, "docker"),
        ([("/run/.containerenv", "")], {}, "podman"),
        ([("/run/systemd/container", "lxc\n")], {}, "lxc"),
        ([("/run/systemd/container", "systemd-nspawn")], {}, "systemd-nspawn"),
        ([("/run/systemd/container", "wsl")], {}, ""),
        ([], {"container": "sandbox"}, "sandbox"),
        ([], {"container": "a\nb; rm"}, ""),
        ([("/.dockerenv", "")], {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ([], {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
    ],
)
def test_containers_by_their_marks(
    machine: Machine, marks: list[tuple[str, str]], environ: dict[str, str], kind: str
) -> None:
    for path, text in marks:
        machine.write(path, text)
    host = look(machine, **environ).host
    assert host.container == kind


def test_the_machines_root_by_whom_a_sysctl_belongs_to(machine: Machine) -> None:
    owner = (machine.root / "proc/sys/kernel/ostype").stat().st_uid
    assert look(machine).host.machine_root == owner
    machine.write("/proc/sys/kernel/overflowuid", f"{owner}\n")
    assert look(machine).host.machine_root is None


def test_the_machines_root_in_a_namespace_without_it(need: Callable[..., None]) -> None:
    code = "from sandbox.host.facts import gather; print(gather().host.machine_root)"
    command = ["unshare", "--user", sys.executable, "-c", code]
    need("userns")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "None"


# --- the key ------------------------------------------------------------------------------------


def test_the_key_changes_with_what_could_change_an_answer(machine: Machine) -> None:
    machine.write("/etc/subuid", "a:1:2\n")
    keys = {look(machine).host.key}
    changes: list[tuple[str, str]] = [
        ("/etc/subuid", "a:1:23\n"),
        ("/etc/subgid", "a:1:2\n"),
        ("/proc/sys/kernel/random/boot_id", "decaf"),
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
        ("/proc/self/uid_map", "0 1000 1"),
    ]
    for number, (path, text) in enumerate(changes, 2):
        machine.write(path, text)
        keys.add(look(machine).host.key)
        assert len(keys) == number, path
    machine.status(seccomp=2)
    keys.add(look(machine).host.key)
    helper = machine.write("/helper", "x")
    keys.add(gather(root=str(machine.root), environ={}, helper=str(helper)).host.key)
    assert len(keys) == len(changes) + 3


def test_the_key_is_stable_and_one_line(machine: Machine) -> None:
    machine.write("/proc/sys/kernel/random/boot_id", "a\nb\r\n")
    assert look(machine).host.key == look(machine).host.key
    assert len(look(machine).host.key.splitlines()) == 1


# --- small parsers ------------------------------------------------------------------------------


def test_id_maps() -> None:
    text = "         0       1000          1\n         1     100000      65536\n"
    assert parse_map(text) == (IdMap(0, 1000, 1), IdMap(1, 100000, 65536))


@pytest.mark.parametrize("text", ["", "0 0", "a b c", "0 0 1 2", "0 -1 1", "0 0 1\nx"])
def test_what_is_no_id_map(text: str) -> None:
    assert parse_map(text) == ()


@given(st.text())
def test_any_text_parses(text: str) -> None:
    for line in parse_map(text):
        assert min(line.inside, line.outside, line.count) >= 0
    assert isinstance(module._status(text), dict)


def test_a_launch_imports_little() -> None:
    """What `probe` needs without a trial: nothing that costs milliseconds."""
    code = (
        "import sys; import sandbox.host; sandbox.host.probe();"
        "print(sorted({'subprocess', 'json', 'socket', 'tempfile', 'ctypes', 'shutil', 'asyncio', "
        "'sandbox.plan', 'sandbox.host.trials', 'sandbox.host.doctor'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stamps_tell_replaced_files_apart(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert module._stamp(str(path)).endswith(":-")
    path.write_text("one")
    before = module._stamp(str(path))
    path.chmod(stat.S_IRUSR)
    assert module._stamp(str(path)) != before
