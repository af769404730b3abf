"""Ways to be somebody or somewhere else in the guest. What is run prints text and is bounded in time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
MANAGER = Path("/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service")
#: `python -m sandbox` for any user of the guest
SANDBOX = ("env", f"PYTHONPATH={CHECKOUT}", sys.executable, "-B", "-m", "sandbox")
TIMEOUT = 120.0

Done = subprocess.CompletedProcess[str]
Row = dict[str, str | bool]


def call(*command: str, check: bool = True) -> Done:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT)
    assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def root(*command: str, check: bool = True) -> Done:
    return call("sudo", "-n", *command, check=check)


def session(user: str, *command: str, check: bool = True) -> Done:
    """In a session of *user*, as ssh makes one: outside of the user manager's part of the cgroup tree."""
    run = ("systemd-run", "--quiet", "--collect", "--wait", "--pipe", f"--uid={user}", "-p", "PAMName=login")
    return root(*run, "--", *command, check=check)


def service(*command: str, check: bool = True) -> Done:
    """As a service of the user manager: inside what is delegated to the user."""
    return call(
        "systemd-run", "--user", "--quiet", "--collect", "--wait", "--pipe", "--", *command, check=check
    )


def log_out(user: str, uid: int) -> None:
    """End the user manager, which otherwise stays for a while after the last session."""
    root("loginctl", "terminate-user", user, check=False)
    deadline = time.monotonic() + TIMEOUT
    while Path(f"/run/user/{uid}").exists():
        assert time.monotonic() < deadline, f"the user manager of {user} does not end"
        time.sleep(0.2)


def rows(done: Done) -> dict[str, Row]:
    """What `sandbox doctor --json` found."""
    return {row["name"]: row for row in json.loads(done.stdout)["checks"]}


def doctor() -> dict[str, Row]:
    return rows(call(*SANDBOX, "doctor", "--json", check=False))


def controllers(cgroup: Path = MANAGER) -> set[str]:
    return set((cgroup / "cgroup.controllers").read_text().split())


def own_cgroup() -> str:
    return Path("/proc/self/cgroup").read_text().removeprefix("0::").strip()
