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

#: what the filter closes, and how it is opened in sandbox/seccomp/policy.py
FILTER = [
    (
        "socket families",
        '        EAFNOSUPPORT,\n        f"socket, socketpair: only',
        '        ALLOW,\n        f"socket, socketpair: only',
    ),
    (
        "packet sockets by another name",
        "Clause((Compare(1, (_SOCK_PACKET,), _SOCK_TYPE_MASK),), EAFNOSUPPORT),",
        "Clause((Compare(1, (_SOCK_PACKET,), _SOCK_TYPE_MASK),), ALLOW),",
    ),
    (
        "netlink families",
        "Clause((Compare(0, (_AF_INET, _AF_INET6, _AF_NETLINK)),), EPROTONOSUPPORT),",
        "Clause((Compare(0, (_AF_INET, _AF_INET6, _AF_NETLINK)),), ALLOW),",
    ),
    (
        "keyrings",
        '"add_key request_key keyctl", EPERM, EPERM,',
        '"add_key request_key keyctl", ALLOW, ALLOW,',
    ),
    ("io_uring", 'io_uring_register", ENOSYS, ENOSYS)', 'io_uring_register", ALLOW, ALLOW)'),
    (
        "bpf, perf, userfaultfd",
        'fanotify_init fanotify_mark",\n        EPERM,\n        EPERM,',
        'fanotify_init fanotify_mark",\n        ALLOW,\n        ALLOW,',
    ),
    (
        "mounts",
        'sethostname setdomainname",\n        EPERM,\n        EPERM,',
        'sethostname setdomainname",\n        ALLOW,\n        ALLOW,',
    ),
    ("clone", '_no_namespaces("clone", _CLONE_NEW)', '_no_namespaces("clone", 0)'),
    (
        "unshare",
        '_no_namespaces("unshare", _CLONE_NEW | _CLONE_NEWTIME)',
        '_no_namespaces("unshare", 0)',
    ),
    ("clone3", 'Group("clone3", "clone3", ENOSYS, ENOSYS,', 'Group("clone3", "clone3", ALLOW, ALLOW,'),
    ("files by handle", 'open_by_handle_at", EPERM, EPERM)', 'open_by_handle_at", ALLOW, ALLOW)'),
    ("line disciplines", "(Compare(1, (0x5412, 0x541C, 0x5423)),)", "(Compare(1, (0x5412, 0x541C)),)"),
    (
        "personality",
        "_PERSONALITY = Rule(\n    (\n",
        "_PERSONALITY = Rule(\n    (\n        Clause((), ALLOW),\n",
    ),
    (
        "strict: debugging",
        'process_madvise process_mrelease",\n        ALLOW,\n        EPERM,',
        'process_madvise process_mrelease",\n        ALLOW,\n        ALLOW,',
    ),
    (
        "strict: System V",
        'mq_notify mq_getsetattr",\n        ALLOW,\n        EPERM,',
        'mq_notify mq_getsetattr",\n        ALLOW,\n        ALLOW,',
    ),
    (
        "strict: leases",
        "(Clause((Compare(1, (1024, 1026)),), EPERM),)",
        "(Clause((Compare(1, (1026,)),), EPERM),)",
    ),
    (
        "strict: listeners",
        "Compare(1, (0,), 8, negate=True)), EPERM)",
        "Compare(1, (0,), 8, negate=True)), ALLOW)",
    ),
]

#: what is counted, how it is left out of helpers/measure.c, and the way to take memory that is seen then
MEASURES = [
    (
        "private and shared pages",
        "        tally->memory += process_memory(init, pid, tally);\n",
        "",
        "unseen and shared",
    ),
    ("memfds", "        add_memfds(init, pid, tally);\n", "", "unseen and memfd"),
    ("tmpfs", "answer->a = tally.memory + answer->d;", "answer->a = tally.memory;", "unseen and tmpfs"),
    (
        "System V",
        "        tally.memory += unattached_segments(init, &tally);",
        "        unattached_segments(init, &tally);",
        "unseen and System",
    ),
]

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
        "    if (unshare(CLONE_NEWUSER) < 0)",
        "    return 0;\n    if (unshare(CLONE_NEWUSER) < 0)",
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
        "if (record && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)",
        HERE + "test_rights.py",
        "no_new_privileges",
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
        "    if (record) {\n        struct rlimit limit;",
        "    if (record && !plan) {\n        struct rlimit limit;",
        HERE + "test_verdicts.py",
        "fork_bomb or all_ids",
    ),
    Mutant(
        "the count of tasks is set before the inner namespace is made",
        (
            (HELPER + "payload.c", "    if (unshare(CLONE_NEWUSER) < 0)", "    if (channel < 0)"),
            (
                HELPER + "payload.c",
                "    if (record) {\n        struct rlimit limit;",
                "    if (unshare(CLONE_NEWUSER) == 0 && record) {\n        struct rlimit limit;",
            ),
        ),
        HERE + "test_verdicts.py",
        "all_commands or all_ids",
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
                "if (message_receive(init->socket, buffer, fds) <= 0)\n        poll(NULL, 0, 600000);",
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
    Mutant(
        "the network is one's own",
        (
            (
                "sandbox/plan/compile.py",
                'shared = {"net"} if net.shares_host(profile.net) else set()',
                'shared = {"net"} if net else set()',
            ),
            ("sandbox/plan/process.py", 'if profile.net.mode == "none":', 'if profile.net.mode == "host":'),
        ),
        HERE + "test_network.py",
        "abstract",
    ),
    Mutant(
        "System V objects are one's own",
        (
            (
                "sandbox/plan/compile.py",
                'shared = {"net"} if net.shares_host(profile.net) else set()',
                'shared = {"ipc"}',
            ),
            (
                "sandbox/plan/skeleton.py",
                '    yield Mqueue(dst="/dev/mqueue", flags=_INERT | _MADE)',
                "    yield from ()",
            ),
        ),
        HERE + "test_network.py",
        "system_v",
    ),
    one(
        "runtime directories are hidden",
        "sandbox/plan/guards.py",
        '        if path.startswith("/") and path.strip("/"):',
        "        if not path:",
        HERE + "test_network.py",
        "runtime_directories",
    ),
    one(
        "a socket as a stream is tied to its other end",
        HELPER + "streams.c",
        "        return is_tied(fd);",
        "        return true;",
        HERE + "test_network.py",
        "socket_as_stdin",
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
    # -- The root and what is mounted in it -----------------------------------------------------------
    one(
        "mount sources are reached through no link",
        HELPER + "mounts.c",
        "        fd = sys_openat2(AT_FDCWD, path, O_PATH, 0, K_RESOLVE_NO_SYMLINKS);",
        "        fd = sys_openat2(AT_FDCWD, path, O_PATH, 0, 0);",
        HERE + "test_sources.py",
        "source_that_became",
    ),
    one(
        "lower directories are reached through no link",
        HELPER + "mounts.c",
        "O_PATH | O_DIRECTORY, 0,\n                                K_RESOLVE_NO_SYMLINKS);",
        "O_PATH | O_DIRECTORY, 0, 0);",
        HERE + "test_sources.py",
        "lower_directory_that_became",
    ),
    one(
        "an untrusted project's sources are beneath it",
        HELPER + "mounts.c",
        "sys_openat2(base, path, O_PATH, 0, K_RESOLVE_BENEATH | K_RESOLVE_NO_SYMLINKS);",
        "sys_openat2(base, path, O_PATH, 0, K_RESOLVE_NO_SYMLINKS);",
        HERE + "test_sources.py",
        "stays_beneath or not_absolute",
    ),
    one(
        "an untrusted project's sources are reached through no link",
        HELPER + "mounts.c",
        "sys_openat2(base, path, O_PATH, 0, K_RESOLVE_BENEATH | K_RESOLVE_NO_SYMLINKS);",
        "sys_openat2(base, path, O_PATH, 0, K_RESOLVE_BENEATH);",
        HERE + "test_sources.py",
        "stays_beneath",
    ),
    one(
        "an untrusted project is itself reached through no link",
        HELPER + "mounts.c",
        "base = sys_openat2(AT_FDCWD, beneath, O_PATH | O_DIRECTORY, 0, K_RESOLVE_NO_SYMLINKS);",
        "base = sys_openat2(AT_FDCWD, beneath, O_PATH | O_DIRECTORY, 0, 0);",
        HERE + "test_sources.py",
        "project_itself",
    ),
    one(
        "what an untrusted project mounts is planned to be opened beneath it",
        "sandbox/plan/places.py",
        "        return replace(place, source=relative, beneath=base, devices=False)",
        "        return place",
        "tests/plan/test_places.py",
        "opened_beneath",
    ),
    one(
        "read-only mounts are",
        "sandbox/plan/mounts.py",
        'if mode == "ro" or _inside_guard(invocation, place):',
        "if _inside_guard(invocation, place):",
        HERE + "test_files.py",
        "read_only_mount_can_not",
    ),
    one(
        "what is mounted below a read-only mount is read-only",
        HELPER + "mounts.c",
        "sys_mount_setattr(mount, AT_EMPTY_PATH | (flags & M_RECURSIVE ? K_AT_RECURSIVE : 0u), &attr);",
        "sys_mount_setattr(mount, AT_EMPTY_PATH, &attr);",
        HERE + "test_files.py",
        "below_a_read_only_mount",
    ),
    one(
        "devices in mounts are no devices",
        "sandbox/plan/mounts.py",
        "_PLAIN = Mount.NOSUID | Mount.NODEV | Mount.CREATE",
        "_PLAIN = Mount.NOSUID | Mount.CREATE",
        HERE + "test_files.py",
        "are_no_devices",
        as_root=True,
    ),
    one(
        "what is hidden is",
        "sandbox/plan/mounts.py",
        "        return Mask(dst=dst, origin=origin, flags=Mount.OPTIONAL)",
        "        return None",
        HERE + "test_files.py",
        "uncovered",
    ),
    one(
        "what is hidden shows under no other name",
        "sandbox/plan/mounts.py",
        "        yield Mask(dst=inside, origin=str(place.origin), flags=Mount.OPTIONAL | strict)",
        "        yield from ()",
        HERE + "test_files.py",
        "shows_nowhere_else",
    ),
    one(
        "parts of proc that show the machine are masked",
        "sandbox/plan/skeleton.py",
        "    for name in tables.PROC_MASKED:",
        "    for name in ():",
        HERE + "test_rights.py",
        "shows_the_machine",
    ),
    one(
        "what every sandbox has is not replaced",
        "sandbox/plan/places.py",
        'if destination in tables.RESERVED or is_below(destination, "/proc"):',
        'if destination == "/":',
        HERE + "test_roots.py",
        "mounted_over",
    ),
    one(
        "the host's proc is no source",
        "sandbox/plan/places.py",
        '        if is_below(real, "/proc"):',
        "        if not real:",
        HERE + "test_roots.py",
        "no_source",
    ),
    # -- Our own files ----------------------------------------------------------------------------------
    one(
        "the profile that is in use is protected",
        "sandbox/plan/guards.py",
        '    found += [_guard(call, path, "the profile") for path in call.profile.files]\n',
        "",
        HERE + "test_projects.py",
        "can_not_change_the_profile",
    ),
    one(
        "our directories are made where a payload could make them",
        "sandbox/plan/guards.py",
        "        if any(is_below(name, each) for name in names for each in writable):",
        "        if not names:",
        "tests/plan/test_guards.py",
        "made_where_they_could",
    ),
    one(
        "what is protected is reached through no link that a payload could replace",
        "sandbox/plan/guards.py",
        '                raise ProfileError(\n                    f"{guard.what} is reached',
        '                max(\n                    f"{guard.what} is reached',
        "tests/plan/test_guards.py",
        "link_to_ours",
    ),
    one(
        "what is protected has other names",
        "sandbox/plan/guards.py",
        '            found += [replace(guard, path=alias.rstrip("/") + rest) for alias in sorted(aliases)]\n',
        "",
        "tests/plan/test_guards.py",
        "other_names",
    ),
    one(
        "what is to be hidden exists, or a payload could make it",
        "sandbox/plan/guards.py",
        "        if any(is_below(guard.path, each) for each in writable) and not place.mount.optional:",
        "        if not guard.path:",
        "tests/plan/test_guards.py",
        "hidden_but_missing",
    ),
    one(
        "payloads with mount namespaces get nothing that holds what is protected",
        "sandbox/plan/compile.py",
        '    if not profile.process.nested and not (able and profile.process.seccomp == "off"):\n',
        "    if mask >= 0:\n",
        HERE + "test_files.py",
        "directory_that_holds_ours",
    ),
    one(
        "the number of mount namespaces is limited",
        HELPER + "payload.c",
        '"sys/user/max_mnt_namespaces"};',
        '"sys/user/max_user_namespaces"};',
        HERE + "test_files.py",
        "makes_no_mount_namespace",
    ),
    one(
        "reports follow no link",
        "sandbox/cli/fast.py",
        "follow = 0 if ours else os.O_NOFOLLOW",
        "follow = 0",
        HERE + "test_files.py",
        "planted_link",
    ),
    one(
        "a report is the supervisor's",
        "sandbox/launch/prepare.py",
        "    if guarded:\n",
        "    if not environ:\n",
        "tests/cli/test_commands.py",
        "replace_its_report",
    ),
    one(
        "cached plans are the user's own",
        "sandbox/cli/fast.py",
        "status.st_mode & _OTHERS or",
        "status.st_mode & 0 or",
        "tests/cli/test_fast.py",
        "others_may_write or open_to_others",
    ),
    # -- Files for the caller ---------------------------------------------------------------------------
    one(
        "files for the caller are no links",
        HELPER + "commands.c",
        "uint64_t flags = O_NONBLOCK | O_NOCTTY | O_NOFOLLOW |",
        "uint64_t flags = O_NONBLOCK | O_NOCTTY |",
        HERE + "test_files.py",
        "regular_files_only",
    ),
    one(
        "a FIFO keeps the caller waiting for nobody",
        HELPER + "commands.c",
        "uint64_t flags = O_NONBLOCK | O_NOCTTY | O_NOFOLLOW |",
        "uint64_t flags = O_NOCTTY | O_NOFOLLOW |",
        HERE + "test_files.py",
        "regular_files_only",
    ),
    one(
        "files for the caller are found through no descriptor of ours",
        HELPER + "commands.c",
        "K_RESOLVE_IN_ROOT | K_RESOLVE_NO_MAGICLINKS);\n    if (fd < 0) {",
        "0);\n    if (fd < 0) {",
        HERE + "test_files.py",
        "own_descriptors",
    ),
    one(
        "a child that opens files and is stopped is ended",
        HELPER + "commands.c",
        "        if (WIFSTOPPED(status)) {\n            kill(pid, SIGKILL);",
        "        if (WIFSTOPPED(status)) {",
        HERE + "test_verdicts.py",
        "keeps_the_caller_waiting",
    ),
    # -- Projects ---------------------------------------------------------------------------------------
    one(
        "untrusted projects only narrow",
        "sandbox/profile/trust.py",
        "    if reasons:\n",
        "    if not project:\n",
        HERE + "test_projects.py",
        "does_not_give",
    ),
    one(
        "trust is in what was read",
        "sandbox/profile/trust.py",
        'return "trusted" if record.get("files") == digests else "changed"',
        'return "trusted"',
        HERE + "test_projects.py",
        "change_after_the_trust",
    ),
    one(
        "records of trust are the user's own",
        "sandbox/profile/trust.py",
        "    if status.st_uid != os.geteuid() or status.st_mode & 0o022:",
        "    if status.st_uid != os.geteuid():",
        "tests/profile/test_trust.py",
        "others_could_have_made",
    ),
    one(
        "a project's file is in the project",
        "sandbox/profile/loader.py",
        '        if not real.startswith(directory + "/"):',
        "        if not real:",
        HERE + "test_projects.py",
        "link_out",
    ),
    one(
        "a project's file is of the user's",
        "sandbox/profile/loader.py",
        "        if status.st_uid not in (0, os.geteuid()):",
        "        if status.st_uid < 0:",
        "tests/profile/test_loader.py",
        "another_users_file",
    ),
    one(
        "a project's FIFO keeps nobody waiting",
        "sandbox/profile/files.py",
        "os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | flags)",
        "os.O_CLOEXEC | os.O_NOCTTY | flags)",
        HERE + "test_projects.py",
        "fifo",
    ),
    # -- Rights -----------------------------------------------------------------------------------------
    one(
        "root's own groups stay outside",
        HELPER + "init.c",
        "    if (setgroups(0, NULL) == 0 ||",
        "    if (getgroups(0, NULL) >= 0 ||",
        HERE + "test_rights.py",
        "own_groups",
        as_root=True,
    ),
    one(
        "root's payload is never the machine's root",
        "sandbox/host/spare.py",
        "    if host.uid not in (0, host.machine_root):\n        return mine",
        "    return mine",
        "tests/ids/test_maps.py",
        "never_root",
    ),
    one(
        "the session keyring is a new one where keyctl is open",
        HELPER + "payload.c",
        "if (keyring && syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0)",
        "if (keyring && !payload)",
        HERE + "test_rights.py",
        "session_keyring",
    ),
    one(
        "no core handler that is a pipe is started",
        "sandbox/plan/limits.py",
        'wanted["core"] = (max(asked.core, 1), max(asked.core, 1), "core")',
        'wanted["core"] = (asked.core, asked.core, "core")',
        HERE + "test_core.py",
        "piped",
        as_root=True,
    ),
    Mutant(
        "junk is no id",
        (
            (
                "sandbox/profile/checks.py",
                '        if not re.fullmatch(r"[0-9]{1,10}", part, re.ASCII):',
                "        if not part:",
            ),
            (
                "sandbox/ids/maps.py",
                "not all(p.isascii() and p.isdigit() and len(p) <= 10 for p in parts)",
                "not all(parts)",
            ),
        ),
        HERE + "test_rights.py",
        "junk",
    ),
    # -- The filter -------------------------------------------------------------------------------------
    one(
        "the filter is loaded",
        HELPER + "payload.c",
        "    if (!record)\n        return 0;\n    const struct field *field",
        "    if (plan)\n        return 0;\n    const struct field *field",
        HERE + "test_surface.py",
        "what_is_to_be_closed",
    ),
    one(
        "calls of another architecture kill",
        "sandbox/seccomp/bpf.py",
        "        (_IF_EQUAL, 1, 0, architecture),",
        "        (_IF_EQUAL, 1, 1, architecture),",
        HERE + "test_surface.py",
        "another_architecture",
    ),
    one(
        "x32 calls kill",
        "sandbox/seccomp/__init__.py",
        "{_X32_BIT: KILL,",
        "{_X32_BIT: policy.ENOSYS,",
        HERE + "test_surface.py",
        "another_architecture",
    ),
    one(
        "calls that are not known do not exist",
        "sandbox/seccomp/__init__.py",
        "return assemble(target.architecture, numbers, policy.ENOSYS, above)",
        "return assemble(target.architecture, numbers, ALLOW, above)",
        "tests/seccomp/test_policy.py",
        "answers_as_the_table",
    ),
    *(
        one(
            f"the filter: {purpose}",
            "sandbox/seccomp/policy.py",
            old,
            new,
            HERE + "test_surface.py",
            "closed",
        )
        for purpose, old, new in FILTER
    ),
    one(
        "the filter holds the limit on core dumps",
        "sandbox/seccomp/policy.py",
        "    if hold_core:\n",
        "    if not hold_core:\n",
        HERE + "test_rights.py",
        "core_dumps",
    ),
    # -- The terminal and the other streams -------------------------------------------------------------
    Mutant(
        "a terminal is replaced by one of ours",
        (
            (HELPER + "supervisor.c", "if (mode == 0 || (mode == 1 && !terminal))", "if (mode <= 1)"),
            (
                HELPER + "streams.c",
                "if (is_harmless(*given, &status) && !counted) {",
                "if ((is_harmless(*given, &status) || isatty(*given)) && !counted) {",
            ),
        ),
        HERE + "test_terminal.py",
        "not_the_callers",
    ),
    one(
        "a stop inside is a stop outside",
        HELPER + "jobs.c",
        "        supervisor_suspend(s, job, true);",
        "        supervisor_resume(s);",
        "tests/helper/test_terminal.py",
        "stop_and_foreground",
    ),
    Mutant(
        "the conversation with the caller stays outside",
        (
            (
                HELPER + "supervisor.c",
                "*fd = fcntl(given, F_DUPFD_CLOEXEC, 3);",
                "*fd = fcntl(given, F_DUPFD, 20);",
            ),
            (HELPER + "init.c", "    sys_close_range(0, (unsigned)aside - 1);\n", ""),
            (HELPER + "init.c", "return sys_close_range(last + 1, ~0u);", "return last ? 0 : -1;"),
            (HELPER + "payload.c", "sys_close_range(CHANNEL + 1, ~0u) < 0", "CHANNEL < 0"),
        ),
        HERE + "test_verdicts.py",
        "forged",
    ),
    one(
        "names in reports are quoted",
        HELPER + "report.c",
        "else if (*at == '\"' || *at == '\\\\')",
        "else if (*at == '\\\\')",
        HERE + "test_verdicts.py",
        "names_can_not_add",
    ),
    one(
        "names in messages do not command the terminal",
        HELPER + "jobs.c",
        "text_add_visible(&line, text); /*",
        'text_add(&line, "%s", text); /*',
        HERE + "test_verdicts.py",
        "names_can_not_add",
    ),
    # -- Limits, and the end ------------------------------------------------------------------------------
    one(
        "output has a limit",
        HELPER + "relay.c",
        "    if (relay->budget && relay->budget->limited && (uint64_t)relay->budget->left < most)",
        "    if (relay->budget && relay->budget->limited && most == 0)",
        HERE + "test_verdicts.py",
        "endless_output",
    ),
    one(
        "time has a limit",
        HELPER + "jobs.c",
        "    if (job->deadline && time >= job->deadline &&",
        "    if (job->deadline && time < 0 &&",
        HERE + "test_verdicts.py",
        "timeout_ends_the_whole_tree and double",
    ),
    one(
        "tmpfs have a limit",
        "sandbox/plan/limits.py",
        "    return profile.limits.disk or profile.limits.memory or 0",
        "    return 0",
        HERE + "test_verdicts.py",
        "disk_is_a_limit",
    ),
    *(
        one(f"memory is polled: {what}", HELPER + "measure.c", old, new, HERE + "test_verdicts.py", tests)
        for what, old, new, tests in MEASURES
    ),
    one(
        "memory is polled: what can't be looked into",
        HELPER + "measure.c",
        "        return resident(init, pid, tally);",
        "        return 0;",
        HERE + "test_verdicts.py",
        "can_not_be_read",
        as_root=True,
    ),
    one(
        "what can't be looked into ends with its command",
        HELPER + "processes.c",
        "    return !command || command->userns == userns;",
        "    return false;",
        HERE + "test_verdicts.py",
        "can_not_be_read",
        as_root=True,
    ),
    Mutant(
        "a supervisor ends with its launcher",
        (
            (HELPER + "supervisor.c", "    if (fds[POLL_LIFELINE].revents)", "    if (!fds)"),
            (
                HELPER + "control.c",
                "        close_fd(&s->control);\n        supervisor_close(s);\n    }",
                "        close_fd(&s->control);\n    }",
            ),
            (
                HELPER + "control.c",
                "    if (n <= 0 || parse(&request) < 0)\n        supervisor_close(s);",
                "    if (n <= 0)\n        close_fd(&s->control);\n    else if (parse(&request) < 0)\n"
                "        supervisor_close(s);",
            ),
        ),
        HERE + "test_verdicts.py",
        "launcher_that_is_killed",
    ),
]
