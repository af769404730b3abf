"""Defences taken away one at a time. `test_mutants.py` applies each to a copy of the tree, and expects
the named tests to fail there: a test that still passes defends nothing.

Each edit's old text must occur exactly once in its file; `tests` are given to pytest's -k within `where`.
Where one defence stands behind another, both are taken away.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True)
class Mutant:
    """One defence, and what must notice that it is gone."""

    defence: str
    edits: tuple[tuple[str, str, str], ...]  # file, old, new
    where: str
    tests: str
    as_root: bool = False  # only root's sandboxes have it, or only root's tests can tell


def one(
    defence: str, file: str, old: str, new: str, where: str, tests: str, *, as_root: bool = False
) -> Mutant:
    return Mutant(defence, ((file, old, new),), where, tests, as_root)


HELPER = "helpers/"
HERE = "tests/security/"

MUTANTS = [
    Mutant(
        "destinations are resolved inside the root, and made in file systems of ours only",
        (
            (
                HELPER + "mounts.c",
                'sys_openat2(root->fd, *dst ? dst : "/", O_PATH, 0, resolve_flags(flags))',
                'sys_openat2(root->fd, dst[0] && dst[1] ? dst + 1 : ".", O_PATH, 0, flags & 0)',
            ),
            (
                HELPER + "mounts.c",
                "    if (fstat(fd, &status) < 0)\n        return false;\n    for",
                "    return true;\n    for",
            ),
        ),
        HERE + "test_roots.py",
        "never_leads_set_up_out",
    ),
    one(
        "/dev and /proc of a root must be real directories",
        HELPER + "mounts.c",
        "return flags & M_STRICT ? RESOLVE_INSIDE | K_RESOLVE_NO_SYMLINKS : RESOLVE_INSIDE;",
        "(void)flags;\n    return RESOLVE_INSIDE;",
        HERE + "test_roots.py",
        "dev_or_proc_is_a_link",
    ),
    one(
        "init is undumpable",
        HELPER + "init.c",
        "prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0",
        "prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_DUMPABLE, 1) < 0",
        HERE + "test_rights.py",
        "read_nor_traced",
    ),
    one(
        "the payload has a user namespace of its own",
        HELPER + "payload.c",
        "if (unshare(CLONE_NEWUSER) < 0)",
        "if (unshare(0) < 0)",
        HERE + "test_rights.py",
        "root_inside_can_undo_nothing",
    ),
    one(
        "capabilities are dropped",
        HELPER + "payload.c",
        "if (set_capabilities(mask, root->uid == 0) < 0)",
        "if (mask == 1 && set_capabilities(mask, root->uid == 0) < 0)",
        HERE + "test_rights.py",
        "status_says_no_rights",
    ),
    one(
        "no new privileges",
        HELPER + "payload.c",
        "if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)",
        "if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) < 0)",
        HERE + "test_rights.py",
        "status_says_no_rights",
    ),
    one(
        "the number of user namespaces is limited",
        HELPER + "payload.c",
        "if (namespaces && limit_namespaces(namespaces, root->proc, failure) < 0)",
        "if (namespaces && !root)",
        HERE + "test_rights.py",
        "closed_twice",
    ),
    Mutant(
        "the working directory is not behind a descriptor",
        (
            (
                HELPER + "payload.c",
                "sys_openat2(AT_FDCWD, payload->workdir, O_PATH | O_DIRECTORY, 0, K_RESOLVE_NO_MAGICLINKS);",
                "sys_openat2(AT_FDCWD, payload->workdir, O_PATH | O_DIRECTORY, 0, 0);",
            ),
            (HELPER + "payload.c", "sys_close_range(CHANNEL + 1, ~0u) < 0", "CHANNEL < 0"),
        ),
        HERE + "test_rights.py",
        "behind_a_descriptor",
    ),
    Mutant(
        "descriptors are closed, by supervisor, init and the command's own process",
        (
            (
                HELPER + "supervisor.c",
                "if (sys_close_range(first, last) < 0)",
                "if (first == last && last == 0)",
            ),
            (HELPER + "init.c", "    sys_close_range(0, (unsigned)aside - 1);\n", ""),
            (HELPER + "init.c", "return sys_close_range(last + 1, ~0u);", "return last ? 0 : -1;"),
            (HELPER + "payload.c", "sys_close_range(CHANNEL + 1, ~0u) < 0", "CHANNEL < 0"),
        ),
        HERE + "test_rights.py",
        "standard_descriptors",
    ),
    one(
        "a count of tasks for all ids together",
        HELPER + "payload.c",
        "limit.rlim_cur = limit.rlim_max = (rlim_t)record_int(record, 0) + 1;",
        "limit.rlim_cur = limit.rlim_max = RLIM_INFINITY;",
        HERE + "test_verdicts.py",
        "fork_bomb or all_ids",
    ),
    one(
        "files for the caller are regular files",
        HELPER + "commands.c",
        "if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode)) {",
        "if (fstat(fd, &status) < 0) {",
        HERE + "test_files.py",
        "regular_files_only",
    ),
    one(
        "no file for the caller comes from proc",
        HELPER + "commands.c",
        "} else if (is_kernels_own(fd)) {",
        "} else if (is_kernels_own(fd) && 0) {",
        HERE + "test_files.py",
        "kernels_files_as_us",
    ),
    one(
        "files for the caller are opened with the payload's rights",
        HELPER + "commands.c",
        "record->kind != KIND_OPEN || payload_drop_rights(&init->root) < 0",
        "record->kind != KIND_OPEN",
        HERE + "test_files.py",
        "payload_may_not_read",
    ),
    one(
        "everything in a command's namespace ends with it",
        HELPER + "commands.c",
        "    kill_tree(init, command->userns);\n    send_exited",
        "    send_exited",
        HERE + "test_verdicts.py",
        "nothing_of_a_command_stays",
    ),
    Mutant(
        "init ends with its supervisor",
        (
            (
                HELPER + "commands.c",
                "if (message_receive(init->socket, buffer, fds) <= 0)\n        _exit(EXIT_OURS);",
                "if (message_receive(init->socket, buffer, fds) <= 0)\n        pause();",
            ),
            (HELPER + "init.c", "    prctl(PR_SET_PDEATHSIG, SIGKILL);\n", ""),
            (HELPER + "init.c", "prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || ", ""),
        ),
        HERE + "test_verdicts.py",
        "supervisor_that_is_killed",
    ),
    one(
        "standard streams that are files go through a pipe",
        HELPER + "streams.c",
        "if (is_harmless(*given, &status) && !counted) {",
        "if ((is_harmless(*given, &status) || S_ISREG(status.st_mode)) && !counted) {",
        HERE + "test_files.py",
        "stdin_from_a_file or stdout_to_a_file",
    ),
    one(
        "a directory is no standard stream",
        HELPER + "streams.c",
        "if (S_ISDIR(status.st_mode))",
        "if (S_ISDIR(status.st_mode) && number > 2)",
        HERE + "test_files.py",
        "directory_as_stdin",
    ),
    one(
        "the caller's terminal stays outside",
        HELPER + "streams.c",
        "if (is_harmless(*given, &status) && !counted) {",
        "if ((is_harmless(*given, &status) || isatty(*given)) && !counted) {",
        HERE + "test_terminal.py",
        "secrets",
    ),
    one(
        "nobody types for the caller",
        "sandbox/seccomp/policy.py",
        "(Clause((Compare(1, (0x5412, 0x541C, 0x5423)),), EPERM),),",
        "(Clause((Compare(1, (0x5423,)),), EPERM),),",
        HERE + "test_terminal.py",
        "typing_for_the_caller",
    ),
    one(
        "our own files are protected below writable mounts",
        "sandbox/plan/mounts.py",
        "        for guard in invocation.guards:\n",
        "        for guard in ():\n",
        HERE + "test_files.py",
        "can_not_be_replaced or helper_is_the_same",
    ),
    one(
        "the directories above what is protected stay where they are",
        "sandbox/plan/mounts.py",
        "        yield Pin(dst=at, origin=str(place.origin), flags=Mount.RECURSIVE | strict)",
        "        yield from ()",
        HERE + "test_files.py",
        "can_not_be_replaced or helper_is_the_same",
    ),
    one(
        "the network is one's own",
        "sandbox/plan/compile.py",
        'shared = {"net"} if net.shares_host(profile.net) else set()',
        'shared = {"net"} if net else set()',
        HERE + "test_network.py",
        "abstract or loopback or way_out",
    ),
    one(
        "core dumps have a limit of 1",
        "sandbox/plan/limits.py",
        'wanted["core"] = (max(asked.core, 1), max(asked.core, 1), "core")',
        'wanted["core"] = (asked.core, asked.core, "core")',
        HERE + "test_rights.py",
        "core_dumps",
    ),
    one(
        "inodes are limited with the bytes",
        "sandbox/plan/limits.py",
        "return max(size // _BYTES_PER_INODE, _LEAST_INODES) if size else 0",
        "return 0",
        HERE + "test_verdicts.py",
        "inodes_run_out",
    ),
    one(
        "no memfd where memory is only polled",
        "sandbox/plan/process.py",
        'deny = ("memfd_create", "memfd_secret") if polled else ()',
        "deny = ()",
        HERE + "test_verdicts.py",
        "memfds_are_closed",
    ),
    one(
        "sysctls are read-only",
        "sandbox/plan/skeleton.py",
        "    for name in tables.PROC_READONLY:",
        "    for name in ():",
        HERE + "test_rights.py",
        "sets_no_sysctl",
    ),
    one(
        "only what is kept of the environment goes in",
        "sandbox/plan/process.py",
        '        "PATH": DEFAULT_PATH,\n',
        '        "PATH": DEFAULT_PATH,\n        **__import__("os").environ,\n',
        HERE + "test_rights.py",
        "callers_environment",
    ),
    one(
        "a home is not given away because one happens to be there",
        "sandbox/plan/places.py",
        "        self._check_given_away(mount, origin, real)\n",
        "",
        HERE + "test_files.py",
        "not_given_away",
    ),
    one(
        "init is not the payload's to limit",
        "sandbox/seccomp/policy.py",
        "_IS_INIT = Clause((Compare(0, (1,)),), EPERM)",
        "_IS_INIT = Clause((Compare(0, (0xFFFF,)),), EPERM)",
        HERE + "test_rights.py",
        "payloads_to_limit",
    ),
    one(
        "what can't be measured ends",
        HELPER + "polling.c",
        "if (s->poll_asked & ~usage->e) {",
        "if (0) {",
        HERE + "test_rights.py",
        "not_be_measured",
    ),
    one(
        "a process that can't be looked at is not measured as nothing",
        HELPER + "measure.c",
        "tally->blind |= !is_gone(error);",
        "tally->blind |= error == 0;",
        "tests/helper/test_pressure.py",
        "memory_is_measured",
    ),
    one(
        "a process that can't be looked at is not taken for gone",
        HELPER + "processes.c",
        "return is_gone(errno) ? 0 : -1;",
        "return 0;",
        "tests/helper/test_pressure.py",
        "ends_whole",
    ),
]
