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


def one(defence: str, file: str, old: str, new: str, where: str, tests: str) -> Mutant:
    return Mutant(defence, ((file, old, new),), where, tests)


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
            (HELPER + "mounts.c", "    if (fstat(fd, &status) < 0)\n        return false;\n    for", "    return true;\n    for"),
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
        "if (namespaces && limit_user_namespaces(namespaces, root->proc, failure) < 0)",
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
            (HELPER + "supervisor.c", "if (sys_close_range(first, last) < 0)", "if (first == last && last == 0)"),
            (HELPER + "init.c", "    sys_close_range(0, 511);\n", ""),
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
        "launcher_that_is_killed",
    ),
]
