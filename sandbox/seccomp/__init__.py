"""The system call filter: which calls a payload may make.

`program` gives the filter that the helper loads just before exec, `describe` says in words what
it does. policy.py holds the decisions, bpf.py turns them into instructions, tables.py has the
numbers. Nothing here looks at this machine or loads anything. It is on the launch path, so it
imports next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from sandbox.errors import HostError
from sandbox.seccomp import machines, policy
from sandbox.seccomp.bpf import ALLOW, KILL, Action, Rule, assemble
from sandbox.seccomp.machines import MACHINES

__all__ = ["MACHINES", "Mode", "describe", "program"]

Mode: TypeAlias = Literal["default", "strict"]

# x32 programs make their calls on x86_64 with this bit in the number. All ones is no call of
# theirs but what a tracer sets to have a call skipped.
_X32_BIT = 0x4000_0000
_SKIPPED = 0xFFFF_FFFF
# When the launcher denies these, callers must see a kernel without them to fall back.
_DENIED_AS_MISSING = frozenset({"clone3", "memfd_create", "memfd_secret"})

_programs: dict[tuple[object, ...], bytes] = {}


def program(
    mode: Mode,
    *,
    nested: bool = False,
    deny: Iterable[str] = (),
    capabilities: int = 0,
    hold_core: bool = True,
    machine: str = "x86_64",
) -> bytes:
    """The filter as `struct sock_filter[]` (linux/filter.h, 8 bytes each), for seccomp(2).

    *nested* lets the payload make namespaces and mount in them. *deny* names calls that are
    refused as well. *capabilities* is the payload's capability mask (bit N is capability N of
    linux/capability.h). *hold_core* keeps RLIMIT_CORE where the launcher set it, for a
    profile that forbids core files. *machine* is as uname(2) says.

    The same arguments give the same bytes; they are remembered.
    Raises `HostError` for a machine that there is no table for, `ValueError` for an unknown
    mode or name in *deny*.
    """
    denied = tuple(sorted(set(deny)))
    key = (mode, nested, denied, capabilities, hold_core, machine)
    if key not in _programs:
        _programs[key] = _assemble(machine, _verdicts(mode, nested, denied, capabilities, hold_core))
    return _programs[key]


def _verdicts(
    mode: str, nested: bool, denied: tuple[str, ...], capabilities: int, hold_core: bool
) -> dict[str, Action | Rule]:
    """What happens to each call that the policy knows, by name."""
    if mode not in ("default", "strict"):
        raise ValueError(f'no such seccomp mode: {mode!r}; there are "default" and "strict"')
    verdicts: dict[str, Action | Rule] = {}
    for group in policy.GROUPS:
        action = group.strict if mode == "strict" else group.default
        if group.capability >= 0 and capabilities >> group.capability & 1:
            action = ALLOW
        if nested and group.nested is not None:
            action = group.nested
        verdicts.update(dict.fromkeys(group.calls.split(), action))
    for name, rule in policy.rules(mode, nested, hold_core).items():
        if verdicts[name] == ALLOW:
            verdicts[name] = rule
    for name in denied:
        if name not in verdicts:
            raise ValueError(f"cannot deny {name!r}: no such system call")
        if verdicts[name] == ALLOW or isinstance(verdicts[name], Rule):
            verdicts[name] = policy.ENOSYS if name in _DENIED_AS_MISSING else policy.EPERM
    return verdicts


def _assemble(name: str, verdicts: dict[str, Action | Rule]) -> bytes:
    if name not in MACHINES:
        raise HostError(
            f"no system call filter for {name}: there are tables for {', '.join(MACHINES)}",
            'set `seccomp = "off"` in [process] to run without one',
            row="seccomp",
        )
    target = machines.load(name)
    numbers = {target.calls[call]: verdict for call, verdict in verdicts.items() if call in target.calls}
    above = {_X32_BIT: KILL, _SKIPPED: policy.ENOSYS} if name == "x86_64" else {}
    return assemble(target.architecture, numbers, policy.ENOSYS, above)


def describe(
    mode: Literal["default", "strict", "off"],
    *,
    nested: bool = False,
    deny: Iterable[str] = (),
    capabilities: int = 0,
    hold_core: bool = True,
    machine: str = "x86_64",
) -> list[str]:
    """What `program` makes of the same arguments, in lines for `explain`. Raises as it does."""
    if mode == "off":
        return ["no system call filter: every call reaches the kernel"]
    denied = tuple(sorted(set(deny)))
    verdicts = _verdicts(mode, nested, denied, capabilities, hold_core)
    size = len(_assemble(machine, verdicts)) // 8
    known = machines.load(machine).calls
    allowed = sum(verdicts[call] == ALLOW for call in known)
    lines = [
        f"{mode} filter for {machine}: {allowed} calls allowed, {size} instructions",
        "killed: programs that make calls of another architecture (32-bit ones)",
        "ENOSYS: every call newer than Linux 7.2",
    ]
    for group in policy.GROUPS:
        calls = [call for call in group.calls.split() if call not in denied and call in known]
        error = _error(verdicts[calls[0]]) if calls else ""
        if error and group.purpose != "obsolete":
            lines.append(f"{error}: {group.purpose} ({' '.join(calls)})")
    if denied:
        lines.append(f"denied by the launcher: {' '.join(denied)}")
    rules = [verdict for verdict in verdicts.values() if isinstance(verdict, Rule)]
    return lines + [f"by argument: {purpose}" for purpose in sorted({rule.purpose for rule in rules})]


def _error(verdict: Action | Rule) -> str:
    """What a caller sees of a refused call; empty for others."""
    if verdict == policy.EPERM:
        return "EPERM"
    return "ENOSYS" if verdict == policy.ENOSYS else ""
