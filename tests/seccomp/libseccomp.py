"""The other judge: the same policy written as libseccomp rules, exported as BPF.

libseccomp can't express "not one of, with a mask", so there is one filter for calls with
constant verdicts, one whose rules say what is allowed, and one whose rules say what is not;
the last two are for calls judged by arguments and were written by hand, apart from policy.py.
All are built for this machine, whatever numbers they hold: libseccomp translates the numbers
of other machines by names, and has none for new calls.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping
from functools import cache

from tests.support.needs import need

ALLOW, KILL = 0x7FFF0000, 0x80000000
EQ, NE, MASKED = 4, 1, 7
TOKENS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def low(arg: int, value: int, mask: int = 0xFFFFFFFF) -> Comparison:
    """(the low word of argument *arg*, masked) is *value*."""
    return Comparison(arg, MASKED, mask, value)


Rules = Iterable[tuple[int, int, tuple[Comparison, ...]]]


def load() -> ctypes.CDLL:
    """libseccomp, with the types of what is used here."""
    need("libseccomp")
    lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_init.argtypes = [ctypes.c_uint32]
    lib.seccomp_release.argtypes = [ctypes.c_void_p]
    lib.seccomp_arch_native.restype = ctypes.c_uint32
    lib.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    lib.seccomp_rule_add_exact_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p,
    ]  # fmt: skip
    return lib


@cache
def native() -> int:
    """The AUDIT_ARCH_* value of this machine."""
    return int(load().seccomp_arch_native())


def build(default: int, rules: Rules) -> bytes:
    """A filter: *rules* are (number, action, comparisons that must all hold)."""
    lib = load()
    context = lib.seccomp_init(default)
    try:
        assert lib.seccomp_attr_set(context, 2, KILL) == 0  # SCMP_FLTATR_ACT_BADARCH
        for number, action, tests in rules:
            array = (Comparison * len(tests))(*tests)
            result = lib.seccomp_rule_add_exact_array(context, action, number, len(tests), array)
            assert result == 0, (number, hex(action), result)
        fd = os.memfd_create("filter")
        with os.fdopen(fd, "rb") as file:
            assert lib.seccomp_export_bpf(context, fd) == 0
            file.seek(0)
            return file.read()
    finally:
        lib.seccomp_release(context)


def denied(calls: Mapping[str, int], strict: bool, nested: bool) -> Rules:
    """What is refused of calls that are otherwise allowed."""
    eperm, enomem, pretend = 0x00050001, 0x0005000C, 0x00050000
    for command in (0x5412, 0x541C, 0x5423):
        yield calls["ioctl"], eperm, (low(1, command),)
    if not nested:
        bits = [1 << n for n in (17, 25, 26, 27, 28, 29, 30)]
        for call, flags in (("clone", bits), ("unshare", [*bits, 0x80])):
            for flag in flags:
                yield calls[call], eperm, (low(0, flag, flag),)
    if strict:
        yield calls["fcntl"], eperm, (low(1, 1024),)
        yield calls["fcntl"], eperm, (low(1, 1026),)
        yield calls["seccomp"], eperm, (low(0, 1), low(1, 8, 8))
    for name, argument, flag in (("mmap", 3, 0x40000), ("memfd_create", 1, 4), ("shmget", 2, 0x800)):
        if name == "shmget" and strict:
            yield calls[name], eperm, ()
        else:
            yield calls[name], enomem, (low(argument, flag, flag),)
    yield calls["setrlimit"], pretend, (low(0, 4),)
    changes = (low(1, 4), Comparison(2, NE, 0, 0))
    yield calls["prlimit64"], pretend, (*changes, Comparison(3, EQ, 0, 0))
    yield calls["prlimit64"], eperm, (*changes, Comparison(3, NE, 0, 0))
    for name in ("sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"):
        yield calls[name], eperm, (low(0, 1),)
    for name, process in (("setpriority", 0), ("ioprio_set", 1)):
        yield calls[name], eperm, (low(0, process), low(1, 1))
        yield calls[name], eperm, (low(0, process + 1), low(1, 1))
        yield calls[name], eperm, (low(0, process + 2),)


def allowed(calls: Mapping[str, int], nested: bool) -> Rules:
    """What is allowed of calls that are otherwise refused."""
    yield calls["personality"], ALLOW, (low(0, 0xFFFFFFFF),)
    for flags in (0, 8, 0x20000, 0x20008, 0x40000, 0x40008, 0x60000, 0x60008):
        yield calls["personality"], ALLOW, (low(0, flags),)
    for call in ("socket", "socketpair"):
        for kind in range(16):
            if kind == 10:
                continue
            yield calls[call], ALLOW, (low(0, 1), low(1, kind, 0xF))
            for protocol in (0, 12) if nested else (0,):
                yield calls[call], ALLOW, (low(0, 16), low(1, kind, 0xF), low(2, protocol))
        for family in (2, 10):
            yield calls[call], ALLOW, (low(0, family), low(1, 3, 0xF))
            for kind in (1, 2):
                for protocol in (0, 1, 6, 17, 58, 136, 262):
                    yield calls[call], ALLOW, (low(0, family), low(1, kind, 0xF), low(2, protocol))
