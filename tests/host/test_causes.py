"""Each known cause is found from what it leaves, and has a mend that can be typed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.host import causes
from sandbox.host.facts import SYSCTLS, Facts
from sandbox.host.model import Host, IdMap, Range

HELPER = "/opt/our things/sandbox-helper"
ROOTED = "23 1 8:1 / / rw - ext4 /dev/sda1 rw\n"


def machine(container: str = "", seccomp: str = "0", uid: int = 1000, **sysctls: str) -> Facts:
    host = Host(kernel=(6, 1), machine="x86_64", uid=uid, gid=uid, user="me", container=container)
    settings = dict.fromkeys(SYSCTLS, "") | {"user/max_user_namespaces": "15000"}
    settings |= {
        name: sysctls[name.replace("/", "_")] for name in SYSCTLS if name.replace("/", "_") in sysctls
    }
    return Facts(host, (), settings, {"Seccomp": seccomp})


def userns(
    found: Facts,
    tmp_path: Path,
    errno_name: str,
    message: str = "cannot make namespaces",
    mounts: str = ROOTED,
) -> tuple[str, str]:
    path = tmp_path / "mountinfo"
    path.write_text(mounts)
    return causes.userns(found, HELPER, errno_name, message, mountinfo=str(path))


def test_debians_switch(tmp_path: Path) -> None:
    cause, mend = userns(machine(kernel_unprivileged_userns_clone="0"), tmp_path, "EPERM")
    assert "kernel.unprivileged_userns_clone is 0" in cause
    assert mend.splitlines()[0] == "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    assert "/etc/sysctl.d/60-sandbox.conf" in mend


def test_debians_switch_does_not_bind_root(tmp_path: Path) -> None:
    cause, _ = userns(machine(kernel_unprivileged_userns_clone="0", uid=0), tmp_path, "EPERM")
    assert "unprivileged_userns_clone" not in cause


def test_no_namespaces_allowed(tmp_path: Path) -> None:
    cause, mend = userns(machine(user_max_user_namespaces="0"), tmp_path, "ENOSPC")
    assert cause == "user.max_user_namespaces is 0"
    assert mend.startswith("sudo sysctl -w user.max_user_namespaces=15000\n")


@pytest.mark.parametrize("errno_name", ["ENOSPC", "EUSERS"])
def test_too_many_namespaces(tmp_path: Path, errno_name: str) -> None:
    cause, mend = userns(machine(), tmp_path, errno_name)
    assert "limit of 15000" in cause and "max_user_namespaces" in mend


def test_within_a_sandbox_the_outer_one_must_allow_it(tmp_path: Path) -> None:
    _, mend = userns(machine("sandbox", user_max_user_namespaces="0"), tmp_path, "ENOSPC")
    assert "process.nested = true" in mend
    _, mend = userns(machine("sandbox", seccomp="2"), tmp_path, "EPERM")
    assert "process.nested = true" in mend


def test_apparmor_gets_a_profile_for_our_helper_alone(tmp_path: Path) -> None:
    found = machine(kernel_apparmor_restrict_unprivileged_userns="1")
    for errno_name, message in (("EACCES", "cannot make the mounts private"), ("EPERM", "cannot map ids")):
        cause, mend = userns(found, tmp_path, errno_name, message)
        assert "AppArmor" in cause
        assert f'profile sandbox-helper "{HELPER}" flags=(unconfined) {{' in mend
        assert "userns," in mend and "sudo apparmor_parser -r /etc/apparmor.d/sandbox-helper" in mend
        assert "kernel.apparmor_restrict_unprivileged_userns=0" in mend


@pytest.mark.parametrize(
    ("container", "option"),
    [
        ("docker", "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined"),
        ("podman", "podman run --security-opt seccomp=unconfined"),
        ("kubernetes", "seccompProfile: {type: Unconfined}"),
        ("lxc", "security.nesting true"),
    ],
)
def test_the_filter_of_a_container(tmp_path: Path, container: str, option: str) -> None:
    # docker's profile answers clone3 with ENOSYS, older ones clone with EPERM
    for errno_name in ("ENOSYS", "EPERM"):
        cause, mend = userns(machine(container, seccomp="2"), tmp_path, errno_name)
        assert f"of {container} forbids" in cause and option in mend


def test_a_filter_of_nobody_we_know(tmp_path: Path) -> None:
    cause, mend = userns(machine(seccomp="2"), tmp_path, "EPERM")
    assert "seccomp filter forbids" in cause and "SystemCallFilter=" in mend


def test_a_container_that_forbids_mounts(tmp_path: Path) -> None:
    cause, mend = userns(machine("docker"), tmp_path, "EACCES", "cannot make the mounts private")
    assert "docker forbids" in cause and "apparmor=unconfined" in mend


def test_a_chroot_in_a_container_is_not_the_containers_fault(tmp_path: Path) -> None:
    cause, mend = userns(machine("docker"), tmp_path, "EPERM")
    assert "chroot" in cause and "docker" not in mend


def test_a_chroot(tmp_path: Path) -> None:
    cause, mend = userns(machine(), tmp_path, "EPERM", mounts="24 23 0:5 / /proc rw - proc proc rw\n")
    assert "chroot" in cause and "systemd-nspawn" in mend


def test_a_kernel_without_namespaces(tmp_path: Path) -> None:
    cause, mend = userns(machine(), tmp_path, "EINVAL")
    assert "kernel" in cause and "CONFIG_USER_NS" in mend


def test_something_else_that_refuses(tmp_path: Path) -> None:
    cause, mend = userns(machine(), tmp_path, "EPERM")
    assert "security module" in cause and "dmesg" in mend


def test_what_we_do_not_know_we_do_not_explain(tmp_path: Path) -> None:
    assert userns(machine(), tmp_path, "EIO") == ("", "")


def test_no_id_for_the_payload(tmp_path: Path) -> None:
    found = machine(uid=0)
    one = (IdMap(0, 0, 1),)
    found = found._replace(host=replace(found.host, uid_map=one, gid_map=one, subuid=(Range(5, 5),)))
    _, mend = userns(found, tmp_path, "EPERM", "the payload can't have an id of its own here")
    assert mend


# --- /proc --------------------------------------------------------------------------------------

MASKS = """\
50 49 0:40 / /proc/kcore rw - tmpfs tmpfs rw
51 49 0:40 / /proc/acpi ro - tmpfs tmpfs ro
52 49 0:41 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw
53 49 0:41 / /procession rw - tmpfs tmpfs rw
"""


def test_what_covers_proc() -> None:
    assert causes.masked_proc(ROOTED + MASKS) == ("/proc/kcore", "/proc/acpi")


@pytest.mark.parametrize(
    ("container", "option"),
    [
        ("docker", "--security-opt systempaths=unconfined"),
        ("podman", "--security-opt unmask=ALL"),
        ("kubernetes", "procMount: Unmasked"),
        ("", "ProtectKernelTunables="),
    ],
)
def test_masked_proc_by_container(tmp_path: Path, container: str, option: str) -> None:
    path = tmp_path / "mountinfo"
    path.write_text(ROOTED + MASKS)
    cause, mend = causes.proc(machine(container), mountinfo=str(path))
    assert "/proc/kcore, /proc/acpi" in cause and option in mend


def test_no_proc_at_all(tmp_path: Path) -> None:
    cause, mend = causes.proc(machine(), mountinfo=str(tmp_path / "none"))
    assert "no complete /proc" in cause and mend == "sudo mount -t proc proc /proc"


# --- the rest -----------------------------------------------------------------------------------


def test_overlay_and_seccomp() -> None:
    assert "modprobe overlay" in causes.overlay(machine(), "ENODEV")[1]
    assert "userxattr" in causes.overlay(machine(), "EINVAL")[1]
    assert "docker run" in causes.overlay(machine("docker"), "EPERM")[1]
    assert "CONFIG_SECCOMP_FILTER" in causes.seccomp(machine(), "EINVAL")[1]
    assert "seccomp=unconfined" in causes.seccomp(machine("podman"), "EPERM")[1]
