"""Defences of a sandbox's own network taken away one at a time: see tests/security/mutants.py."""

from __future__ import annotations

from tests.security.mutants import Mutant, one

__all__ = ["MUTANTS"]

USER = "tests/net/test_user.py"
PUBLISH = "tests/net/test_publish.py"
LIVE = "tests/net/test_live.py"
ACTIVATE = "tests/net/test_activate.py"
PCAP = "tests/net/test_pcap.py"
CAPTURE = "sandbox/launch/capture.py"
RULES = "sandbox/net/rules.py"

HOSTILE = "tests/helper/test_hostile_service.py"

#: what a service is kept from, and how that is left out
HOSTILE_SERVICES = [
    (
        "what it is shown stays read-only",
        "helpers/confine.c",
        "MS_REMOUNT | MS_BIND | MS_MOVE);",
        "MS_MOVE);",
        "stays_read_only",
    ),
    (
        "by the new calls, too",
        "helpers/confine.c",
        "K_SYS_fspick, SYS_mount_setattr,",
        "K_SYS_fspick,",
        "stays_read_only",
    ),
    (
        "sockets of the machine",
        "helpers/confine.c",
        "{AF_INET, AF_INET6, AF_NETLINK};",
        "{AF_INET, AF_UNIX, AF_NETLINK};",
        "programs_of_this_machine",
    ),
    (
        "sockets of the machine, by a pair",
        "helpers/confine.c",
        "    only(program, SYS_socketpair, 1, types, 4);\n",
        "    (void)types;\n",
        "programs_of_this_machine",
    ),
    (
        "other namespaces",
        "helpers/confine.c",
        "{CLONE_NEWNET};",
        "{CLONE_NEWNS};",
        "into_the_sandbox",
    ),
    (
        "the files of its guard",
        "helpers/guard.c",
        "if (!g->ready && prctl(PR_SET_DUMPABLE, 0) < 0)",
        "if (!g->ready && prctl(PR_SET_DUMPABLE, 1) < 0)",
        "into_its_guard",
    ),
    (
        "what it may have open",
        "helpers/confine.c",
        "bound(RLIMIT_NOFILE, MAX_FILES) < 0",
        "bound(RLIMIT_NOFILE, RLIM_INFINITY) < 0",
        "is_bounded",
    ),
]

MUTANTS: list[Mutant] = [
    one(
        "the host is closed by all its addresses",
        RULES,
        '_ACCEPT if "host" in self.reach else "goto refuse")',
        "_ACCEPT)",
        USER,
        "nothing_of_the_host and slirp4netns",
    ),
    one(
        "private networks are closed",
        RULES,
        '        if "private" not in self.reach:',
        "        if not self.reach and False:",
        USER,
        "nothing_of_the_host and slirp4netns",
    ),
    one(
        "links and metadata services are closed",
        RULES,
        'yield from _to((*(network for network, _ in CLOSED), *METADATA), "goto refuse")',
        "yield from ()",
        USER,
        "nothing_of_the_host and slirp4netns",
    ),
    one(
        "what was denied comes with the result",
        "helpers/jobs.c",
        "        job->round = network_ask(s);",
        "        job->round = 1;",
        "tests/helper/test_services.py",
        "comes_with_the_result",
    ),
    one(
        "a service that does not answer delays nobody else",
        "helpers/jobs.c",
        "    return time >= job->told_by || network_has_told(s, job->round);",
        "    while (now() < job->told_by && !network_has_told(s, job->round))\n        ;\n    return true;",
        "tests/helper/test_services.py",
        "delays_its_result",
    ),
    one(
        "what is local leaves by no device",
        RULES,
        "for place in self._local():  # compared",
        "for place in ():  # compared",
        USER,
        "by_the_device and slirp4netns",
    ),
    one(
        "the host's addresses are followed",
        "helpers/network.c",
        "    if (polls[1].revents)\n        follow_host(s);",
        "    if (polls[1].revents)\n        host_drain(network->watch);",
        USER,
        "that_come_while and slirp4netns",
    ),
    one(
        "rules that could not be loaded are none",
        "helpers/join.c",
        "    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)\n        return 0;",
        "    if (WIFEXITED(status))\n        return 0;",
        USER,
        "can_not_be_installed and slirp4netns",
    ),
    one(
        "pasta leads no port of the sandbox's loopback to the host's",
        "sandbox/net/user.py",
        '"--tcp-ns", "none", "--udp-ns", "none")',
        '"--tcp-ns", "8000", "--udp-ns", "none")',
        USER,
        "nothing_of_the_host and pasta",
    ),
    Mutant(
        "a service ends with its guard",
        (("helpers/guard.c", "{.flags = K_CLONE_NEWPID | K_CLONE_PARENT};", "{.flags = K_CLONE_PARENT};"),),
        USER,
        "killed and slirp4netns",
    ),
    Mutant(
        "a guard ends with its supervisor",
        (
            (
                "helpers/guard.c",
                'prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)\n        give_up(socket, "cannot take',
                'order->count > 16)\n        give_up(socket, "cannot take',
            ),
            (
                "helpers/guard.c",
                "polls[4] = {{.fd = g->socket, .events = POLLIN}",
                "polls[4] = {{.fd = -1, .events = POLLIN}",
            ),
        ),
        USER,
        "killed and slirp4netns and supervisor",
    ),
    *(
        one(f"a service that was taken over: {what}", file, old, new, HOSTILE, tests)
        for what, file, old, new, tests in HOSTILE_SERVICES
    ),
    one(
        "the network namespace is a new one",
        "helpers/network.c",
        "    if (ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev)",
        "    if (ours.st_ino == 0)",
        "tests/helper/test_namespace.py",
        "not_configured",
    ),
    one(
        "nobody looks into the forwarder",
        "helpers/forward.c",
        "prctl(PR_SET_DUMPABLE, 0) < 0 ||",
        "prctl(PR_SET_DUMPABLE, 1) < 0 ||",
        PUBLISH,
        "looks_into and slirp4netns",
    ),
    one(
        "clients on the host's loopback are none on the sandbox's",
        "helpers/forward.c",
        "from->storage.ss_family == family && !is_loopback(from) && ",
        "from->storage.ss_family == family && ",
        PUBLISH,
        "loopback_unless and slirp4netns",
    ),
    one(
        "the machine's programs stand before those of a PATH",
        "sandbox/host/network.py",
        "dict.fromkeys((*_DIRECTORIES, *directories))",
        "dict.fromkeys((*directories, *_DIRECTORIES))",
        "tests/host/test_network.py",
        "stand_before",
    ),
    one(
        "clients of a link come from where they can be answered",
        "helpers/forward.c",
        "!is_loopback(from) && !is_link_local(from))",
        "!is_loopback(from))",
        PUBLISH,
        "clients_of_a_link and slirp4netns",
    ),
    one(
        "what is unpublished leads nowhere",
        "helpers/forward.c",
        "    close_fd(&listener->fd);\n    return 0;",
        "    return 0;",
        LIVE,
        "come_and_go",
    ),
    one(
        "of a range of ports all or none",
        "sandbox/launch/publishing.py",
        "            for port in done:\n",
        "            for port in ():\n",
        LIVE,
        "all_or_none",
    ),
    one(
        "nothing comes from the sandbox's own loopback",
        "sandbox/net/published.py",
        'LOCAL = Inside("127.0.0.1", "10.0.2.2", "::1", "fd00::2")',
        'LOCAL = Inside("127.0.0.1", "127.0.0.1", "::1", "::1")',
        LIVE,
        "loopback_is_enough",
    ),
    one(
        "sockets that are told of are ours alone",
        "helpers/listen.c",
        "        if (!is_ours(environment[i]))\n",
        "",
        ACTIVATE,
        "what_a_command_gets",
    ),
    one(
        "a capture follows no link",
        CAPTURE,
        "flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK",
        "flags = os.O_WRONLY | os.O_NONBLOCK",
        PCAP,
        "links_and_other",
    ),
    one(
        "a capture's file has no other names",
        CAPTURE,
        "        if status.st_nlink > 1:\n",
        "        if False:\n",
        PCAP,
        "links_and_other",
    ),
    one(
        "the host's network is not captured",
        CAPTURE,
        "if self.path and net.shares_host(wanted):",
        "if False:",
        PCAP,
        "hosts_network",
    ),
    one(
        "a capture has an end",
        "helpers/capture.c",
        "    if ((int64_t)size > c->room) {",
        "    if (c->room < 0 && size == 0) {",
        PCAP,
        "room_for",
    ),
    one(
        "commands can't write what is captured of them",
        "sandbox/launch/plans.py",
        "    made = prepare(profile, overrides, where, environ, guarded=kept.guarded)\n",
        "    made = prepare(profile, overrides, where, environ)\n",
        PCAP,
        "not_write_it",
    ),
    one(
        "what is told of a run is of that run",
        "sandbox/box/boxes.py",
        "        log.forget(self.path)\n",
        "",
        "tests/box/test_log.py",
        "the_api_is_another",
    ),
    one(
        "a host of many addresses is closed by all of them",
        "helpers/nftables.c",
        "#define BATCH 65536 ",
        "#define BATCH 6553600 ",
        USER,
        "thousands_of_addresses and slirp4netns",
    ),
    one(
        "both pairs of sets are looked at",
        RULES,
        '_HOST = tuple(f"@{name}" for name in HOST_SETS)',
        '_HOST = tuple(f"@{name}" for name in HOST_SETS[:2])',
        USER,
        "thousands_of_addresses and slirp4netns",
    ),
    one(
        "who loads the rules is not looked into",
        "helpers/join.c",
        " | 1ull << CAP_WAKE_ALARM)",
        ")",
        HOSTILE,
        "who_loads_the_rules",
    ),
    one(
        "what comes in is limited, too",
        "helpers/network_ready.c",
        " ||\n            rate_receive(network->route, record_text(record, 0), record_int(record, 1)) < 0)",
        ")",
        "tests/net/test_rate.py",
        "both_ways and slirp4netns",
    ),
    one(
        "a backend that sends all anew finds room for it",
        "helpers/join.c",
        "    set_windows(plan);\n",
        "",
        "tests/net/test_rate.py",
        "both_ways and pasta",
    ),
    one(
        "a capture has what waits once",
        "helpers/capture.c",
        "if (c->between && from",
        "if (0 && from",
        "tests/net/test_rate.py",
        "capture and slirp4netns",
    ),
    one(
        "what goes out is limited, too",
        "helpers/network_ready.c",
        "(rate_send(network->route, record_text(record, 0), record_int(record, 1)) < 0 ||",
        "(",
        "tests/net/test_rate.py",
        "both_ways and slirp4netns",
    ),
]
