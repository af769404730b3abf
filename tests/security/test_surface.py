"""The kernel's surface, tried in real sandboxes. What each call answers without the filter, and more of
them, is in tests/seccomp."""

from __future__ import annotations

import json

import pytest

import sandbox
from tests.seccomp.test_kernel import CONFINED, DENIED, INT80, MACHINE, STRICTLY_DENIED, numbered, split
from tests.security.inside import PYTHON, output

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

#: CVE-2026-31431 (Copy Fail) came through this one; a kernel without it answers the same
ALG = {"AF_ALG": ("socket", 38, 5, 0, "EAFNOSUPPORT")}


def outcomes(profile: str, calls: dict[str, list[int | str]]) -> dict[str, str]:
    """What a command is told for each of *calls*, {name: [number, argument ...]}."""
    command = [PYTHON, "-I", "/mnt/confined.py", "-", "calls"]
    binds = [f"{CONFINED}:/mnt/confined.py:ro"]
    result = sandbox.run(command, profile=profile, binds=binds, input=json.dumps(calls), text=True)
    assert result.returncode == 0, result.stderr
    found: dict[str, str] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("profile", ["base", "untrusted"])
def test_what_is_to_be_closed_is_closed(profile: str) -> None:
    """Socket families, io_uring, keyrings, bpf, perf, userfaultfd, mounts, namespaces (CVE-2022-0185,
    CVE-2021-41133), and in a strict filter what judged programs don't need."""
    calls, expected = split(DENIED | ALG | (STRICTLY_DENIED if profile == "untrusted" else {}))
    found = outcomes(profile, numbered(calls))
    if profile == "untrusted" and found["a file of huge pages"] == "ENOSYS":
        expected["a file of huge pages"] = "ENOSYS"  # nothing here counts memfds: there are none at all
    assert found == expected


@pytest.mark.skipif(MACHINE != "x86_64", reason="int 0x80 and x32 are x86's")
@pytest.mark.parametrize("profile", ["base", "untrusted"])
def test_calls_of_another_architecture_kill(profile: str) -> None:
    """Through socketcall(2) of i386 an argument filter would see a pointer."""
    result = sandbox.run([PYTHON, "-c", INT80], profile=profile, text=True)
    assert (result.returncode, result.stdout) == (-31, "")  # SIGSYS
    assert outcomes(profile, {"getpid of x32": [0x4000_0027]}) == {"getpid of x32": "SIGSYS"}


def test_threads_work_without_clone3() -> None:
    code = """
        import threading
        threads = [threading.Thread(target=print, args=("t",)) for _ in range(8)]
        [t.start() for t in threads]; [t.join() for t in threads]
    """
    assert output(code).split() == ["t"] * 8
