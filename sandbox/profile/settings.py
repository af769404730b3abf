"""The settings: one table that drives the parser, the command line, the JSON schema, trust and the reference.

A new key of profiles is a row here and a field in `sandbox.profile.model`, and nothing else. What a
row can't say, values that contradict each other across rows, is in `sandbox.profile.build`; what no
mechanism exists for yet, in `sandbox.profile.later`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.profile import checks, narrows
from sandbox.profile.kinds import (
    Choice,
    Duration,
    Flag,
    Free,
    Integer,
    Kind,
    List,
    Map,
    MountEntry,
    Number,
    Record,
    Resource,
    Size,
    Text,
    Umask,
    check_destination,
    check_path,
)

__all__ = ["BY_KEY", "SETTINGS", "TABLES", "Option", "Setting"]


@dataclass(frozen=True, slots=True)
class Option:
    """A setting's command line option. `join`: repeated ones and comma-separated values add to the list."""

    flags: tuple[str, ...]
    metavar: str
    help: str = ""
    repeat: bool = False
    commas: bool = False
    #: put before the value, as "dir:" for --root
    prefix: str = ""

    @property
    def usage(self) -> str:
        """How it is written."""
        return f"{self.flags[-1]} {self.metavar}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row.

    key         dotted, as in "limits.memory"
    kind        checks and turns values
    default     the model's value when no profile sets it
    help        for the reference; one sentence or two
    options     on the command line
    narrows     whether an untrusted project may go from one value to another (see `sandbox.profile.narrows`)
    clear       whether false takes an inherited value away
    """

    key: str
    kind: Kind
    default: Any
    help: str
    options: tuple[Option, ...] = ()
    narrows: Callable[[Any, Any, narrows.Context], bool] = narrows.never
    clear: bool = False

    @property
    def table(self) -> str:
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]


def _limit(
    name: str,
    kind: Kind,
    help: str,
    option: Option | None = None,
    *,
    narrow: Callable[[Any, Any, narrows.Context], bool] = narrows.smaller,
) -> Setting:
    options = (option,) if option else ()
    return Setting(f"limits.{name}", kind, None, help, options, narrow, clear=True)


_TEXTS = 'a list of texts, as in ["one", "two"]'
_BYTES_PER_SECOND, _OPERATIONS = Size(1), Integer(1)

_TOP = (
    Setting("schema", Integer(1, 1), 1, "Version of the format.", narrows=narrows.always),
    Setting(
        "description",
        Free("a text"),
        "",
        "What the profile is for; shown by `profile list`.",
        narrows=narrows.always,
    ),
    Setting(
        "command",
        List(Free("a text"), 'a list of words, as in ["make", "test"]', unique=False),
        (),
        "What runs when the call names no command.",
        narrows=narrows.always,
    ),
    Setting(
        "entrypoint",
        List(Free("a text"), 'a list of words, as in ["sh", "-c"]', unique=False),
        None,
        "What goes before the command, instead of an image's own entry point and command; [] for nothing.",
        (
            Option(
                ("--entrypoint",),
                "WORD|[WORDS]",
                "what goes before the command, instead of the image's; '' for nothing, or a JSON list",
            ),
        ),
        # Never narrowing: it would run the project's code with what the user pipes into a command of theirs.
        clear=True,
    ),
    Setting(
        "require",
        List(
            Text("the name of a limit, net or seccomp", checks.requirement),
            'a list of limits, as in ["pids"]',
        ),
        (),
        "What the kernel must enforce; without it nothing is started. Names of limits, net, seccomp.",
        (Option(("--require",), "NAME[,NAME]", "refuse to start unless the kernel enforces it", True, True),),
        narrows.more,
    ),
)

_ROOT = (
    Setting(
        "root.from",
        Text('"host", "empty", "dir:PATH" or "image:REF"', checks.root_source),
        "host",
        "What the root directory is made of: the host's programs, nothing, a directory, or an image.",
        (
            Option(("--image",), "REF", "take the root from an image", prefix="image:"),
            Option(("--root",), "DIR", 'take the root from a directory; "host" and "empty" are also known'),
        ),
        narrows.root_from,
    ),
    Setting(
        "root.layers",
        List(Text('a path, or "image:REF"', checks.layer), _TEXTS, unique=False),
        (),
        "Layers on top of it, read-only, lowest first: directories and images.",
    ),
    Setting(
        "root.writable",
        Choice("auto", "no", "memory", "disk"),
        "auto",
        "Where changes to the root are kept until the end, if any can be made: auto is memory for an image, "
        "else no; with disk those of overlays in [mounts] are on disk as well, else in memory.",
        narrows=narrows.to("disk", "memory", "auto", "no"),
    ),
    Setting(
        "root.size",
        Size(4096),
        None,
        "Room for changes to the root in memory; without it they count for limits.disk.",
        narrows=narrows.root_size,
        clear=True,
    ),
    Setting(
        "root.driver",
        Choice("auto", "overlay", "fuse-overlayfs"),
        "auto",
        "Who makes overlays: the kernel, or a program.",
    ),
)

_MOUNTS = (
    Setting(
        "mounts",
        Map(MountEntry(), "a table of mounts by destination", check_destination, merge=True),
        (),
        "What is seen where. ro, rw and overlay show `source` of the host (without it the same path) "
        "read-only, writable, or with changes kept aside; tmpfs is empty and in memory; hide shows nothing, "
        "under any mount.",
        (
            Option(
                ("-v", "--bind"),
                "SRC:DST[:MODE]",
                "mount SRC of the host on DST: rw (default), ro or overlay",
                True,
            ),
            Option(("--tmpfs",), "DST[:SIZE]", "mount an empty directory in memory on DST", True),
        ),
    ),
)

_USER = (
    Setting(
        "user.map",
        Text('"keep", "root", "UID:GID" or "USER[:GROUP]"', checks.user_map),
        "keep",
        "Who the command is inside: the caller, root, or any other; by name where the root is an image or a "
        "directory, whose own accounts tell.",
        (Option(("-u", "--user"), "keep|root|USER[:GROUP]", "who the command is inside"),),
    ),
    Setting(
        "user.ids",
        Choice("auto", "single", "range", "private"),
        "auto",
        "How many ids there are inside: one, the caller's range of /etc/subuid, or a part of it that no "
        "other sandbox has.",
    ),
)

_LIMITS = (
    _limit(
        "memory",
        Size(1 << 20),
        "Memory of all processes together, with shared memory and tmpfs.",
        Option(("-m", "--memory"), "SIZE", "memory of all processes together"),
        narrow=narrows.memory,
    ),
    _limit(
        "memory_high",
        Size(1 << 20),
        "Above this, memory is taken back and the sandbox slowed down, before limits.memory ends it.",
    ),
    _limit(
        "swap",
        Size(0),
        "Swap besides the memory; without it none, where limits.memory is set.",
        narrow=narrows.swap,
    ),
    _limit(
        "pids",
        Integer(1, 2**22),
        "Processes and threads at once.",
        Option(("--pids",), "N", "processes and threads at once"),
    ),
    _limit(
        "cpus",
        Number(65536, 0.01),
        "CPUs used at once, as in 1.5.",
        Option(("--cpus",), "N", "CPUs used at once"),
    ),
    _limit(
        "cpu_weight",
        Integer(1, 10000),
        "Share of the CPUs when they are short; 100 is usual.",
    ),
    _limit(
        "cpuset",
        Text("a list of CPUs", checks.cpuset),
        "Which CPUs are used.",
        narrow=narrows.never,
    ),
    Setting(
        "limits.io",
        Map(
            Record(
                'a table, as in { rbps = "10M" }',
                rbps=_BYTES_PER_SECOND,
                wbps=_BYTES_PER_SECOND,
                riops=_OPERATIONS,
                wiops=_OPERATIONS,
            ),
            'a table by path, as in { "/srv" = { rbps = "10M" } }',
            checks.io_path,
        ),
        {},
        "Bytes and operations per second, read and written, of the disk that a path is on. What is written "
        "to a file counts for who wrote to it first.",
        clear=True,
    ),
    _limit(
        "timeout",
        Duration(),
        "Time by the clock.",
        Option(("--timeout",), "TIME", "time by the clock, as in 10s"),
    ),
    _limit(
        "cpu_time",
        Duration(),
        "CPU time of all processes together.",
        Option(("--cpu-time",), "TIME", "CPU time of all processes together"),
    ),
    _limit(
        "disk",
        Size(64 << 10),
        "What is written in the sandbox, in all tmpfs and overlays together that have no size of their own.",
        Option(("--disk",), "SIZE", "what the sandbox itself can hold in files"),
        narrow=narrows.disk,
    ),
    _limit("files", Integer(8, 2**30), "Open files of each process."),
    _limit("file_size", Size(0), "Size of each file that is written."),
    _limit(
        "output",
        Size(1),
        "Bytes written to standard output and error.",
        Option(("--output",), "SIZE", "bytes written to standard output and error"),
    ),
    _limit("core", Size(0), "Size of core dumps; 0 also keeps the host's core handler from running."),
    Setting(
        "limits.enforce",
        Choice("any", "kernel"),
        "any",
        "Whether best effort will do where the kernel can't hold a limit.",
        narrows=narrows.to("any", "kernel"),
    ),
    Setting(
        "limits.cgroup_parent",
        Text('"auto", "none" or a directory', checks.cgroup_parent),
        "auto",
        "Where in cgroup v2 the sandbox gets a cgroup of its own: auto takes SANDBOX_CGROUP_PARENT, or what "
        "is delegated to the caller, or asks systemd; none does without.",
        (
            Option(
                ("--cgroup-parent",), "auto|none|DIR", "where in cgroup v2 the sandbox gets its own cgroup"
            ),
        ),
    ),
)

_NET = (
    Setting(
        "net.mode",
        Text('"none", "user", "proxy", "host" or the name of a network', checks.network),
        "none",
        "Nothing but a loopback device, a network of its own with a way out, nothing but a proxy (HTTP and "
        "SOCKS5, which programs learn of by variables), or the caller's.",
        (Option(("--net",), "none|user|proxy|host|NAME", "which network there is"),),
        narrows.net_mode,
    ),
    Setting(
        "net.backend",
        Choice("auto", "pasta", "slirp4netns"),
        "auto",
        'Who connects the network "user".',
    ),
    Setting(
        "net.publish",
        List(Text("[IP:]PORT:PORT[/udp]", checks.publish), 'a list, as in ["8080:80"]'),
        (),
        "Ports of the host that lead inside.",
        (Option(("--publish",), "[IP:]PORT:PORT[/udp]", "let a port of the host lead inside", True),),
        narrows.fewer,
    ),
    Setting(
        "net.activate",
        List(Text("[NAME=][IP:]PORT:PORT[/udp]", checks.activate), 'a list, as in ["http=8080:80"]'),
        (),
        "Like publish, and what waits inside are sockets that commands get, in this order, as services of "
        "systemd do (LISTEN_FDS).",
        (
            Option(
                ("--activate",),
                "[NAME=][IP:]PORT:PORT[/udp]",
                "publish a port, and hand the command the socket inside (LISTEN_FDS)",
                True,
            ),
        ),
        narrows.fewer,
    ),
    Setting(
        "net.allow",
        List(Text("HOST[:PORT]", checks.allow_rule), 'a list, as in ["example.org:443"]'),
        None,
        "All that can be reached; without it everything can. A name, *.NAME for those below it, an address "
        "or a network, with a port or for all; /tcp or /udp behind it for one protocol.",
        (Option(("--allow",), "HOST[:PORT]", "let only these be reached", True),),
        lambda before, after, context: after is not None and (before is None or set(after) <= set(before)),
        clear=True,
    ),
    Setting(
        "net.deny",
        List(Text("HOST[:PORT]", checks.allow_rule), _TEXTS),
        (),
        "What can't be reached, whatever allow says.",
        narrows=narrows.more,
    ),
    Setting(
        "net.dns",
        List(Text("an IP address", checks.address), 'a list, as in ["9.9.9.9"]'),
        (),
        "Name servers.",
    ),
    Setting(
        "net.hosts",
        Map(Text("an IP address", checks.address), 'a table, as in { db = "127.0.0.1" }', checks.own_name),
        {},
        "Names for /etc/hosts, with their addresses.",
        clear=True,
    ),
    Setting(
        "net.reach",
        List(Choice("private", "host", "loopback", "link-local"), 'a list, as in ["private"]'),
        (),
        "What can be reached besides the internet: private networks, the addresses of the host, its loopback "
        "(at the gateway's address), link-local addresses with the metadata services of clouds.",
        narrows=narrows.fewer,
    ),
    Setting(
        "net.rate",
        Text("a rate", checks.rate),
        None,
        "Bits per second, each way.",
        narrows=narrows.never,
        clear=True,
    ),
)

_ENV = (
    Setting(
        "env.keep",
        List(Text("the name of a variable", checks.keep_pattern), 'a list of names, as in ["LANG", "LC_*"]'),
        (),
        "Variables that are taken from the caller; NAME* takes all that begin so. One that is named goes "
        "over an inherited value in set.",
        (Option(("-e", "--env"), "NAME[=VALUE]", "set a variable, or take it from the caller", True),),
        narrows.keep,
    ),
    Setting(
        "env.set",
        Map(Free("a text"), 'a table of texts, as in { CI = "1" }', checks.variable),
        {},
        "Variables and their values.",
        (
            Option(
                ("--env-file",),
                "FILE",
                "set the variables in FILE (or a pipe), a NAME=VALUE on each line",
                True,
            ),
        ),
        # Never narrowing: LD_PRELOAD, PATH or GIT_CONFIG_GLOBAL make the user's own tools run the project's
        # code, with what the user pipes into them or keeps in the environment for them.
        clear=True,
    ),
)

_PROCESS = (
    Setting(
        "process.workdir",
        Text("a path", check_path),
        None,
        "Where the command starts; without it the caller's directory if it is seen inside, else the home.",
        (Option(("-w", "--workdir"), "DIR", "where the command starts"),),
        narrows.workdir,
        clear=True,
    ),
    Setting(
        "process.hostname",
        Text("a host name", checks.hostname),
        None,
        'The name of the machine inside; without it "sandbox".',
        (Option(("--hostname",), "NAME", "name of the machine inside"),),
        narrows.always,
        clear=True,
    ),
    Setting(
        "process.nested",
        Flag(),
        False,
        "Whether sandboxes can be made inside, which takes a whole /proc and a cgroup to divide.",
        narrows=narrows.to(True, False),
    ),
    Setting(
        "process.seccomp",
        Choice("default", "strict", "off"),
        "default",
        "Which system calls there are: those programs use, fewer, or all.",
        narrows=narrows.to("off", "default", "strict"),
    ),
    Setting(
        "process.capabilities",
        List(Text("a capability", checks.capability), 'a list, as in ["NET_BIND_SERVICE"]'),
        None,
        "Capabilities inside; without it none, or for root with a range of ids the usual ones of containers.",
        narrows=narrows.fewer,
        clear=True,
    ),
    Setting(
        "process.rlimits",
        Map(Resource(), 'a table, as in { stack = "64M" }', checks.rlimit),
        {},
        "Resource limits of setrlimit(2) that [limits] does not have: one value, or soft and hard.",
        narrows=narrows.rlimits,
        clear=True,
    ),
    Setting(
        "process.tty",
        Choice("auto", "never", "always"),
        "auto",
        "Whether the command has a terminal: auto gives it one when standard input is one.",
        narrows=narrows.to("always", "auto", "never"),
    ),
    Setting(
        "process.init",
        Flag(),
        True,
        "Whether a process of ours is PID 1 inside.",
    ),
    Setting(
        "process.umask",
        Umask(),
        None,
        "Permissions that new files don't get; without it \"022\", whatever the caller's is.",
        narrows=narrows.umask,
        clear=True,
    ),
    Setting(
        "process.nice",
        Integer(-20, 19),
        None,
        "Priority, from -20 to 19; larger numbers wait more.",
        narrows=narrows.nice,
        clear=True,
    ),
)

SETTINGS: tuple[Setting, ...] = (*_TOP, *_ROOT, *_MOUNTS, *_USER, *_LIMITS, *_NET, *_ENV, *_PROCESS)
BY_KEY: Mapping[str, Setting] = {setting.key: setting for setting in SETTINGS}
#: the tables of a profile; [mounts] is a row of its own
TABLES: tuple[str, ...] = tuple(dict.fromkeys(setting.table for setting in SETTINGS if setting.table))
