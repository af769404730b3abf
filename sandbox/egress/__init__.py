"""The services of the egress policy: they see what a sandbox wants to reach, by name, and let through
what its profile allows.

One process beside the sandbox, in its network: a DNS proxy, a proxy that looks for the name in TLS and
HTTP, and one that speaks CONNECT and SOCKS. All that they read is hostile; `confine` is what keeps them
harmless. Nothing here is imported by a launch.
"""

from __future__ import annotations

__all__ = ["DENIED_CALLS"]

#: system calls that the filter `strict` lets through and nothing here makes once it has begun, as words
DENIED_CALLS = (
    "open openat openat2 creat execve execveat fork vfork clone clone3 ptrace unlink unlinkat rename "
    "renameat renameat2 mkdir mkdirat rmdir link linkat symlink symlinkat chmod fchmodat chown lchown "
    "fchownat truncate mknod mknodat chdir kill tkill memfd_create"
)
