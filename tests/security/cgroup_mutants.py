"""Defences of limits by cgroup, taken away one at a time: see tests/security/mutants.py.

What takes controllers is noticed in the guest alone (tests/vm/test_mutants.py).
"""

from __future__ import annotations

from tests.security.mutants import Mutant, one

__all__ = ["GUEST_MUTANTS", "MUTANTS"]

CGROUP, SCOPE = "helpers/cgroup.c", "helpers/scope.c"
FOUND = "sandbox/host/delegation.py"
HERE = "tests/helper/test_cgroup.py"
HOST = "tests/host/test_delegation.py"
MEMORY, IO, ESCAPE, LIFE = (f"tests/vm/test_{name}.py" for name in ("memory", "io", "escape", "life"))

MUTANTS = [
    one(
        "init begins in its cgroup, and with it all that follows",
        "helpers/start.c",
        "        args.flags |= K_CLONE_INTO_CGROUP;\n        args.cgroup = (uint64_t)run;\n",
        "",
        HERE,
        "sees_its_own_cgroup",
        as_root=True,
    ),
    one(
        "a sweep leaves what is locked by a living one",
        CGROUP,
        "        if (dir >= 0 && flock(dir, LOCK_EX | LOCK_NB) == 0)\n            remove_box(scope",
        "        if (dir >= 0)\n            remove_box(scope",
        HERE,
        "sweep_leaves",
        as_root=True,
    ),
    one(
        "a box is locked as long as its maker lives",
        CGROUP,
        "if (box->dir >= 0 && flock(box->dir, LOCK_EX | LOCK_NB) == 0 && mkdirat",
        "if (box->dir >= 0 && mkdirat",
        HERE,
        "dead_supervisors",
        as_root=True,
    ),
    one(
        "what a sweep removed before it was locked is made again",
        CGROUP,
        "    return error == EWOULDBLOCK || error == ENOENT || error == ENODEV ? 0 : -1;",
        "    return -1;",
        HERE,
        "quicker",
        as_root=True,
    ),
    one(
        "a sweep leaves what has no name of ours",
        CGROUP,
        "if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) != 0 || entry->d_type != DT_DIR)",
        "if (entry->d_type != DT_DIR)",
        HERE,
        "sweep_leaves",
        as_root=True,
    ),
    one(
        "what a dead launcher left is removed",
        "helpers/begin.c",
        "    scope_sweep(&s->scope);\n",
        "",
        HERE,
        "dead_supervisors",
        as_root=True,
    ),
    one(
        "cgroups are made in a cgroup file system only",
        SCOPE,
        "if (fstatfs(scope->base, &status) == 0 && status.f_type == CGROUP2_SUPER_MAGIC)",
        "if (fstatfs(scope->base, &status) == 0)",
        HERE,
        "is_no_cgroup",
        as_root=True,
    ),
    one(
        "a request sets limits, and moves or frees nothing",
        "helpers/account.c",
        "strchr(file, '/') || strncmp(file, \"cgroup.\", 7) == 0",
        "false",
        HERE,
        "only_limits",
        as_root=True,
    ),
    one(
        "cgroups that a nested payload hides are removed",
        CGROUP,
        "if (is_dot(entry->d_name) || entry->d_type != DT_DIR)",
        "if (entry->d_name[0] == '.' || entry->d_type != DT_DIR)",
        HERE,
        "however_it_names",
        as_root=True,
    ),
    one(
        "who was killed before makes sandboxes that live",
        CGROUP,
        "        make_enterable(box->run);\n",
        "        (void)make_enterable;\n",
        HERE,
        "killed_before",
        as_root=True,
    ),
    one(
        "a nested payload makes no end of cgroups",
        CGROUP,
        'box_write(box, "cgroup.max.descendants", NESTED_CGROUPS) < 0',
        "false",
        HERE,
        "too_many",
        as_root=True,
    ),
    one(
        "the payload's cgroup is read-only unless it may nest",
        "sandbox/plan/skeleton.py",
        "flags = _INERT | _MADE | (Mount(0) if profile.process.nested else Mount.READONLY)",
        "flags = _INERT | _MADE",
        "tests/plan/test_cgroups.py",
        "read_only",
    ),
    one(
        "a scope that was asked for gets a living process",
        "helpers/bus.c",
        "    bus.lifeline = -1;\n",
        "",
        "tests/helper/test_bus.py",
        "on_its_way",
    ),
    one(
        "below a unit only what systemd delegates is divided",
        FOUND,
        "        if not is_delegated(here, unit):\n            return\n",
        "",
        HOST,
        "only_what_systemd_delegated",
    ),
    one(
        "the user manager's own cgroup is not divided",
        FOUND,
        '    if os.path.basename(unit) == f"user@{here.uid}.service":\n        return False  # the user'
        " manager's own, who divides it\n",
        "",
        HOST,
        "user_managers_own",
    ),
    one(
        "a prepared directory that is not ours is refused",
        FOUND,
        "    place = _look_at(here, path)\n    if place is None:\n        return refuse(",
        "    place = _look_at(here, path) or _Place(path, ())\n    if place is None:\n        return refuse(",
        HOST,
        "of_no_use",
    ),
    one(
        "others in our cgroup are not moved",
        FOUND,
        '    others = tuple(pid for pid in here.words(path, "cgroup.procs") if pid not in mine)',
        "    others: tuple[str, ...] = ()",
        HOST,
        "others_in_our_cgroup",
    ),
    one(
        "a limit that no cgroup holds is no limit by the kernel",
        "sandbox/plan/cgroups.py",
        "    names = cgroup.held(profile.limits, host.cgroup.controllers)\n",
        '    names = cgroup.held(profile.limits, ("memory", "pids", "cpu", "io", "cpuset"))\n',
        "tests/plan/test_cgroups.py",
        "what_it_delegates",
    ),
    one(
        "what is not delegated is refused",
        "sandbox/plan/limits.py",
        "    _refuse_unheld(profile, host)\n    _refuse_impossible",
        "    _refuse_impossible",
        "tests/plan/test_limits.py",
        "only_a_cgroup_holds",
    ),
]

GUEST_MUTANTS = [
    one(
        "limits lie above what the payload sees as the top",
        CGROUP,
        "    if (cgroup_write(box->dir, file, value) < 0)\n        return -1;\n    if (!cpus",
        '    if (cgroup_write(strncmp(file, "memory.", 7) == 0 ? box->run : box->dir, file, value) < 0)\n'
        "        return -1;\n    if (!cpus",
        ESCAPE,
        "raises_no_limit and plain",
    ),
    Mutant(
        "all of a command ends of its memory limit",
        (
            (CGROUP, 'box_write(box, "memory.oom.group", "1") < 0', "false"),
            ("helpers/account.c", "            job_fire(s, job, LIMIT_MEMORY);", "            (void)job;"),
        ),
        MEMORY,
        "memory_of_every_kind and processes",
    ),
    one(
        "a limit that a payload set itself is not told as ours",
        CGROUP,
        '"memory.events.local"',
        '"memory.events"',
        MEMORY,
        "payloads_own",
    ),
    one(
        "a kill from outside is not told as one for memory",
        "helpers/account.c",
        "outcome->oom = now.oom > job->before.oom && now.oom_kill > job->before.oom_kill;",
        "outcome->oom = job->outcome.status == 9;",
        MEMORY,
        "another_kind",
    ),
    one(
        "a limit on the disk puts off no end",
        CGROUP,
        '        cgroup_write(dir, "io.max", line);\n',
        "",
        IO,
        "puts_off",
    ),
    one(
        "a limit on memory that is lowered ends commands, and not the sandbox",
        "helpers/account.c",
        '(strcmp(file, "memory.max") == 0 && (error = make_room',
        "(*file == ' ' && (error = make_room",
        LIFE,
        # Whether the kernel gets as far as init depends on when the command has died; files never go by that.
        "what_is_used or gives_back",
    ),
    one(
        "a limit on memory below what stays in use is refused",
        "helpers/account.c",
        "    return memory_now(s) > limit ? EBUSY : 0;",
        "    return 0;",
        LIFE,
        "gives_back",
    ),
]
