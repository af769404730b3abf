"""What the checks refuse, by TOML text: types, units, contradictions, and what is not available yet."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sandbox.errors import NotAvailableError, ProfileError, SandboxError
from sandbox.profile import Profile
from sandbox.profile.build import _fail, check
from sandbox.profile.merge import Merged
from sandbox.profile.settings import BY_KEY

Loaded = Callable[[str], Profile]

# text, position, a part of the message
WRONG = [
    ('memroy = "2G"', "1:1", 'unknown key "memroy"; did you mean "memory" in [limits]?'),
    ('[limits]\nmemroy = "2G"', "2:1", 'unknown key "memroy" in [limits]; did you mean "memory"?'),
    ('[limits]\ncpu-time = "2s"', "2:1", 'did you mean "cpu_time"?'),
    ('[limits]\nseccomp = "strict"', "2:1", "it belongs in [process]"),
    ("timeout = 1", "1:1", "it belongs in [limits]"),
    ("[limits]\nrequire = []", "2:1", "require belongs above all tables"),
    ('"/work" = "ro"', "1:1", "mounts belong in [mounts]"),
    ("[limit]\npids=1", "1:2", 'did you mean "limits"?'),
    ("[env]\nextend-kep = []", "2:1", 'did you mean "extend-keep"?'),
    ("extend-mounts = []", "1:1", "only lists"),
    ("zzz = 1", "1:1", 'unknown key "zzz"'),
    ("limits = 1", "1:10", "[limits] must be a table"),
    ("[[limits]]\npids=1", "1:3", "[limits] must be a table"),
    ("schema = 2", "1:10", "schema must be 1"),
    ("schema = true", "1:10", "schema must be 1, not true or false"),
    ("description = 5", "1:15", "must be a text"),
    ('command = "make test"', "1:11", 'write ["make test"]'),
    ('command = ["make", 1]', "1:20", "command[1] must be a text"),
    ('command = ["a\\u0000"]', "1:12", "NUL"),
    ('require = ["memry"]', "1:12", 'did you mean "memory"?'),
    ('require = ["memory"]', "1:11", "limits.memory is not set"),
    ('require = ["net"]\nnet.mode = "host"', "1:11", "isolates nothing"),
    ('require = ["seccomp"]\nprocess.seccomp = "off"', "1:11", "require names seccomp"),
    ("extends = 3", "1:11", "a name, or a list of names"),
    ('extends = ["base", 3]', "1:11", "a name, or a list of names"),
    ('extends = "defualt"', "1:11", 'did you mean "default"?'),
    ('extends = ["base", "nope"]', "1:20", 'no profile "nope"'),
    ('root.from = "/srv"', "1:13", 'did you mean "dir:/srv"?'),
    ('root.from = "hots"', "1:13", 'did you mean "host"?'),
    ('root.from = "dir:"', "1:13", "needs a path"),
    ('root.from = "image:"', "1:13", "reference of an image"),
    ('root.writable = "yes"', "1:17", 'one of "auto", "no", "memory" or "disk"'),
    ('root.size = "1M"', "1:13", "the root is read-only"),
    ('root = { size = "1M", writable = "disk" }', "1:17", "on disk"),
    ('root.size = "1"', "1:13", "at least"),
    ('user.ids = "single"\nroot.from = "image:a"', "1:12", "many owners"),
    ('user.map = "1000abc:1"', "1:12", '"1000abc" is not an id'),
    ('user.map = "-1:0"', "1:12", '"-1" is not an id'),
    ('user.map = "0:4294967295"', "1:12", "the largest is 4294967294"),
    ('user.map = "1000"', "1:12", 'it would be "1000:1000"'),
    ('user.map = "www-data:adm"', "1:12", 'the root is "host"'),
    ('user.map = "keep:adm"', "1:12", "takes no group"),
    ('user.map = "a b"', "1:12", "no name"),
    ('user.map = "rot"', "1:12", 'did you mean "root"?'),
    ('user.map = ":"', "1:12", '"" is not an id'),
    ("limits.memory = 512", "1:17", 'did you mean "512M"?'),
    ('limits.memory = "512MB"', "1:17", 'write "512M"'),
    ("limits.memory = true", "1:17", "must be a size"),
    ("limits.memory = -1", "1:17", "can't be negative"),
    ('limits.memory = "16E"', "1:17", "largest size"),
    ("limits.memory = 1.5", "1:17", "must be a size"),
    ('limits.pids = "64"', "1:15", "not a text"),
    ("limits.pids = 0", "1:15", "whole number from 1"),
    ("limits.pids = 1.0", "1:15", "whole number"),
    ("limits.pids = 999999999999999999999999999999999999999", "1:15", "such a number is not"),
    ("limits.timeout = 0", "1:18", "more than 0"),
    ("limits.timeout = nan", "1:18", "can't be nan"),
    ("limits.timeout = inf", "1:18", "can't be inf"),
    ("limits.timeout = 0.0001", "1:18", "at least"),
    ('limits.timeout = "10 sec"', "1:18", "not a duration"),
    ("limits.timeout = 12:00:00", "1:18", "not a date or time"),
    ('limits.extend-memory = "1G"', "1:8", "only lists can be extended"),
    ("limits.enforce = false", "1:18", 'must be "any" or "kernel"'),
    ("limits.cpus = 0", "1:15", "from 0.01 to 65536"),
    ("limits.cpus = 0.001", "1:15", "from 0.01"),
    ("limits.cpus = -1", "1:15", "from 0.01"),
    ("limits.swap = -1", "1:15", "negative"),
    ("limits.cpu_weight = 10001", "1:21", "10000"),
    ("limits.memory_high = 1", "1:22", "1M"),
    ('limits.cgroup_parent = "judge"', "1:24", "absolute path"),
    ('limits.cgroup_parent = "non"', "1:24", 'did you mean "none"?'),
    ('limits.cpuset = "3-1"', "1:17", "ends before it begins"),
    ('limits.io."sda" = { rbps = 1 }', "1:11", "not an absolute path"),
    ('limits.io."/dev/sda" = { rbs = 1 }', "1:26", 'did you mean "rbps"?'),
    ('limits.io."/dev/sda" = { rbps = "x" }', "1:33", "not a size"),
    ('net.mode = "No Network"', "1:12", "is not"),
    ('net.mode = "host"\nnet.publish = ["80:80"]', "2:15", "the host's own"),
    ('net.mode = "host"\nnet.allow = ["a.b"]', "2:13", "the network is the host's own"),
    ('net.backend = "pasta"', "1:15", "no use"),
    ('net.publish = ["80"]', "1:16", "as in"),
    ('net.publish = ["80:0"]', "1:16", "not a port"),
    ('net.publish = ["1.2.3:80:80"]', "1:16", "not an IP address"),
    ('net.allow = ["a b"]', "1:14", "not a host name"),
    ('net.allow = ["1.2.3.4.5"]', "1:14", "not an address"),
    ('net.allow = ["a.b:99999"]', "1:14", "not a port"),
    ('net.dns = ["one"]', "1:12", "not an IP address"),
    ('net.dns = ["fe80::1%x accept; #"]', "1:12", "not an IP address"),
    ('net.rate = "fast"', "1:12", "not a rate"),
    ('[net.hosts]\n"foo bar" = "1.2.3.4"', "2:1", "not a host name"),
    ('[net.hosts]\ndb = "1.2.3"', "2:6", "not an IP address"),
    ('[net.hosts]\n"a\\nb" = "1.2.3.4"', "2:1", "control character"),
    ('env.keep = "PATH"', "1:12", 'write ["PATH"]'),
    ('env.keep = ["A=B"]', "1:13", 'no "="'),
    ('env.keep = [""]', "1:13", "needs a name"),
    ('env.keep = ["*"]', "1:13", "whole environment"),
    ('env.keep = ["A*B"]', "1:13", "only at the end"),
    ('[env]\nkeep = ["A"]\nextend-keep = ["B"]', "3:1", "one is enough"),
    ("env.set = { A = 1 }", "1:17", "must be a text"),
    ('env.set = { "A=B" = "1" }', "1:13", 'no "="'),
    ('env.set = { "" = "1" }', "1:13", "needs a name"),
    ('env.set = { A = "\\u0000" }', "1:17", "NUL"),
    ("env.set.A = false", "1:9", "no inherited"),
    ('process.workdir = ""', "1:19", "is empty"),
    ('process.workdir = "~bob/x"', "1:19", "own home"),
    ('process.hostname = "-x"', "1:20", "not a host name"),
    ('process.hostname = "a_b"', "1:20", "not a host name"),
    (f'process.hostname = "{"a" * 65}"', "1:20", "at most 64"),
    ('process.capabilities = ["NET_ADMN"]', "1:25", 'did you mean "NET_ADMIN"?'),
    ("process.rlimits = { nofil = 1 }", "1:21", 'did you mean "nofile"?'),
    ('process.rlimits = { stack = ["8M", "1M"] }', "1:29", "above the hard"),
    ('process.rlimits = { stack = ["unlimited", 1] }', "1:29", "above the hard"),
    ("process.rlimits = { stack = [1] }", "1:29", "list of two"),
    ('process.rlimits = { stack = [1, "x"] }', "1:33", "not a size"),
    ("process.rlimits = { stack = -1 }", "1:29", "negative"),
    ("process.rlimits = { stack = true }", "1:29", "must be"),
    ("process.rlimits = { stack = 1, STACK = 2 }", "1:32", "twice"),
    ("limits.files = 100\nprocess.rlimits.nofile = 9", "2:17", "set the same"),
    ("process.umask = 22", "1:17", "in quotes"),
    ('process.umask = "1022"', "1:17", "not a umask"),
    ('process.umask = "888"', "1:17", "not a umask"),
    ("process.nice = 20", "1:16", "from -20 to 19"),
    ('process.tty = "yes"', "1:15", "one of"),
    ("process.nested = 1", "1:18", "true or false"),
    ('mounts = "x"', "1:10", "a table of mounts"),
    ('mounts."/" = "tmpfs"', "1:8", "whole root"),
    ('mounts."//" = "tmpfs"', "1:8", "whole root"),
    ('mounts."/./" = "tmpfs"', "1:8", "whole root"),
    ('mounts."" = "tmpfs"', "1:8", "is empty"),
    ('mounts."/a/../b" = "tmpfs"', "1:8", '".."'),
    ('mounts.".." = "ro"', "1:8", '".."'),
    ('mounts."~bob" = "ro"', "1:8", "own home"),
    ('mounts."/a\\u0007" = "ro"', "1:8", "control character"),
    ('mounts."/a\\u0000" = "ro"', "1:8", "control character"),
    ('mounts."/a\\n" = "ro"', "1:8", "control character"),
    (f'mounts."/{"a" * 5000}" = "ro"', "1:8", "longer than"),
    ('[mounts]\n"/a" = "tmpfs"\n"/a/" = "ro"', "3:1", "twice"),
    ('[mounts]\n"./a" = "tmpfs"\n"a" = "ro"', "3:1", "twice"),
    ('mounts."/a" = "wr"', "1:15", 'not one of "ro"'),
    ('mounts."/a" = "overly"', "1:15", 'did you mean "overlay"?'),
    ('mounts."/a" = true', "1:15", "must be a mode"),
    ('mounts."/a" = false', "1:8", "no inherited"),
    ('mounts."/a" = { source = "x" }', "1:15", "needs a mode"),
    ('mounts."/a" = { mode = "tmpfs", source = "x" }', "1:42", "shows nothing of the host"),
    ('mounts."/a" = { mode = "hide", source = "x" }', "1:41", "shows nothing of the host"),
    ('mounts."/a" = { mode = "ro", size = "1M" }', "1:37", "has a size"),
    ('mounts."/a" = { mode = "hide", size = "1M" }', "1:39", "has a size"),
    ('mounts."/a" = { mode = "tmpfs", size = 1 }', "1:40", "at least"),
    ('mounts."/a" = { mode = "tmpfs", optional = true }', "1:44", "no source"),
    ('root.writable = "disk"\nmounts."/a" = { mode = "overlay", size = "1M" }', "2:42", "on disk"),
    ('mounts."/a" = { mode = "ro", sorce = "x" }', "1:30", 'did you mean "source"?'),
    ('mounts."/a" = { mode = "ro", source = "a/../b" }', "1:39", '".."'),
    ('mounts."/a" = { mode = "ro", source = "/../b" }', "1:39", '".."'),
    ('mounts."/a" = { mode = "ro", source = "" }', "1:39", "is empty"),
]


@pytest.mark.parametrize(("text", "position", "part"), WRONG)
def test_wrong(text: str, position: str, part: str, loaded: Loaded) -> None:
    with pytest.raises(ProfileError) as caught:
        loaded(text)
    first, line, caret = caught.value.message.split("\n")
    assert first.startswith(f"x.toml:{position}: ")
    assert part in first
    number = position.split(":")[0]
    assert line.startswith(f"{number} | ")
    assert "^" in caret


NOT_YET = [
    ("process.init = false", "1:16", "init = true"),
]


@pytest.mark.parametrize(("text", "position", "instead"), NOT_YET)
def test_not_available_yet(text: str, position: str, instead: str, loaded: Loaded) -> None:
    with pytest.raises(NotAvailableError) as caught:
        loaded(text)
    assert caught.value.message.startswith(f"x.toml:{position}: ")
    assert "not available yet" in caught.value.message
    assert instead in str(caught.value.mend)


@pytest.mark.parametrize(
    "text",
    [
        'net.mode = "host"',
        'net.backend = "auto"',
        "net.publish = []",
        'root.driver = "overlay"',
        'user.ids = "range"',
        "process.init = true",
        "limits.swap = false",
        "root.layers = []",
        'net.hosts = { db = "127.0.0.1", "a.b" = "::1" }',
        'user.map = "0:4294967294"',
        'user.map = "node"\nroot.from = "image:x"',
        'user.map = "node:44"\nroot.from = "dir:/srv"',
        'user.map = "1000"\nroot.from = "empty"\nroot.layers = ["/srv"]',
        'mounts."/a" = { mode = "ro", source = "../../b" }',
        'mounts."/a" = { mode = "rw", source = "~/b", optional = true }',
        'mounts."~" = "hide"',
        'mounts."/a" = { mode = "overlay", size = "1M" }',
        'root = { writable = "memory", size = "1M", from = "empty" }',
        'root.from = "dir:~/x"',
        'limits.core = 0\nlimits.timeout = 0.001\nlimits.memory = "1M"',
        'process = { umask = "0022", nice = -20, nested = true, tty = "always", hostname = "a.b-c" }',
        'process.rlimits = { nofile = 1024, stack = ["8M", "unlimited"] }',
        'process.capabilities = ["cap_chown", "NET_RAW", "CAP_CHOWN"]',
        'command = ["sh", "-c", "echo one\\necho two"]',
        'env = { keep = ["LC_*", "A"], set = { "a b" = "x\\ny" } }',
    ],
)
def test_right(text: str, loaded: Loaded) -> None:
    loaded(text)


def test_values_are_the_models(loaded: Loaded) -> None:
    profile = loaded(
        'user.map = "007:08"\nprocess.umask = "027"\nprocess.capabilities = ["cap_chown", "CHOWN"]\n'
        'process.rlimits = { RLIMIT_STACK = ["8M", "unlimited"], rtprio = 5 }\nlimits.timeout = "1m30s"\n'
        'mounts = { "/a/" = "tmpfs", "./b" = "ro", "./~" = "ro" }\nenv.keep = ["A", "B", "A"]'
    )
    assert profile.user.map == "7:8"
    assert profile.process.umask == 0o027
    assert profile.process.capabilities == ("CHOWN",)
    assert profile.process.rlimits == {"stack": (8 << 20, -1), "rtprio": (5, 5)}
    assert profile.limits.timeout == 90.0
    assert [mount.destination for mount in profile.mounts] == ["/a", "b", "./~"]
    assert profile.env.keep == ("A", "B")


@pytest.mark.parametrize(
    "key", [*BY_KEY, 'mounts."/a"', "env.set.A", "net.hosts.a", "process.rlimits.stack", "extends"]
)
def test_nothing_else_than_our_errors(key: str, loaded: Loaded) -> None:
    """Any value in any place ends in a profile or in an error of ours, with its place."""
    values = [
        "1",
        "-1",
        "1.5",
        "true",
        "false",
        "nan",
        "inf",
        '""',
        '"x"',
        '"\\u0000"',
        '"\\n"',
        "[]",
        "[[]]",
        "[1]",
    ]
    values += ['[""]', "{}", "{a={}}", '{""=1}', "1979-05-27"]
    for value in values:
        for name in (key, key.replace(".", ".extend-", 1)):
            try:
                loaded(f"{name} = {value}")
            except SandboxError as error:
                assert error.message.startswith("x.toml:1:"), (name, value)


def test_defaults_do_not_contradict_each_other() -> None:
    check(Merged())
    with pytest.raises(AssertionError, match="defaults contradict"):
        _fail(Merged(), ("net.mode",), "x")
