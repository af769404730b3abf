"""Run as a program: load a filter as the helper does, then try calls or become a command.

    confined.py FILTER calls < JSON      {name: [number, argument...]} → {name: outcome}
    confined.py FILTER owner < JSON      the same, with every capability in namespaces of its own
    confined.py FILTER exec COMMAND...

FILTER is a file with struct sock_filter[], or "-" for none, which shows what the kernel itself
says. An argument "buffer" is the address of a zeroed page. Each call is made in a child of its
own; its outcome is the error's name, "ok", or the name of the signal that ended the child.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import struct
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x4000000, 0x10000000, 0x40000000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LIBC = ctypes.CDLL(None, use_errno=True)


def load(program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: length, padding, pointer
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    if LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, fprog, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel refused the filter")


def own_namespaces() -> None:
    """As a payload with every capability: what the kernel then refuses, it refuses for good."""
    uid, gid = os.getuid(), os.getgid()
    if LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no user namespace")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def attempt(number: int, arguments: list[int | str]) -> str:
    page = ctypes.create_string_buffer(4096)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        words = [ctypes.addressof(page) if a == "buffer" else a for a in arguments]
        result = LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(word) for word in words))
        os._exit(ctypes.get_errno() if result == -1 else 0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    code = os.WEXITSTATUS(status)
    return errno.errorcode[code] if code else "ok"


def main() -> None:
    source, verb, *command = sys.argv[1:]
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    program = b"" if source == "-" else Path(source).read_bytes()
    if verb == "owner":
        own_namespaces()
    if program:
        load(program)
    if verb == "exec":
        os.execvp(command[0], command)
    calls = json.load(sys.stdin)
    print(json.dumps({name: attempt(number, rest) for name, (number, *rest) in calls.items()}))


if __name__ == "__main__":
    main()
