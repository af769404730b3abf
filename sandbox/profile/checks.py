"""Checks of texts in a profile: host names, variables, addresses, capabilities and the like.

Each takes a text and returns it (None: unchanged), or raises `ValueError` with words that can
stand behind `file:line:col: `.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sandbox.kernel import CAPABILITIES, RLIMITS
from sandbox.profile.kinds import check_path, nearest
from sandbox.units import bytes_per_second

__all__ = [
    "LIMIT_OF_RLIMIT",
    "REQUIREMENTS",
    "activate",
    "address",
    "allow_rule",
    "capability",
    "cgroup_parent",
    "cpuset",
    "hostname",
    "io_path",
    "keep_pattern",
    "network",
    "own_name",
    "publish",
    "rate",
    "requirement",
    "rlimit",
    "root_source",
    "user_map",
    "variable",
]

#: The key of [limits] that sets the same as a resource limit.
LIMIT_OF_RLIMIT: Mapping[str, str] = {
    "core": "core",
    "cpu": "cpu_time",
    "data": "memory",
    "fsize": "file_size",
    "nofile": "files",
    "nproc": "pids",
}

#: What `require` may name: limits, and two things that are no numbers.
REQUIREMENTS = (
    "memory",
    "memory_high",
    "swap",
    "pids",
    "cpus",
    "cpu_weight",
    "cpuset",
    "io",
    "timeout",
    "cpu_time",
    "disk",
    "files",
    "file_size",
    "output",
    "core",
    "net",
    "seccomp",
)

#: uid_t and gid_t (uint32_t)-1 means "no change" in setresuid(2), so it is nobody's.
_LAST_ID = 2**32 - 2
_HOST_NAME_MAX = 64  # <linux/utsname.h>

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]{0,255}\$?", re.ASCII)
_VARIABLE = re.compile(r"[^=\0]+")
_NETWORK = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}", re.ASCII)
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*", re.ASCII)


def hostname(text: str) -> str | None:
    """hostname(7): labels of letters, digits and hyphens, 64 characters in all."""
    if len(text) > _HOST_NAME_MAX:
        raise ValueError(f"a host name has at most {_HOST_NAME_MAX} characters")
    if not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise ValueError(
            f'"{text}" is not a host name; it has letters, digits and inner hyphens, as in "web-1"'
        )
    return None


def variable(text: str) -> str:
    """The name of an environment variable, environ(7)."""
    if not text:
        raise ValueError("a variable needs a name")
    if "=" in text:
        raise ValueError(f'"{text}" is not a variable: there can be no "=" in its name')
    return text


def keep_pattern(text: str) -> str:
    """The name of a variable, or the beginning of names with a `*` behind."""
    variable(text)
    if "*" in text[:-1]:
        raise ValueError(f'"{text}": a "*" stands only at the end, as in "LC_*"')
    if text == "*":
        raise ValueError('"*" would let the whole environment in, with all secrets in it; name the variables')
    return text


def requirement(text: str) -> str:
    if text not in REQUIREMENTS:
        raise ValueError(
            f'"{text}" can\'t be required{nearest(text, REQUIREMENTS) or "; a limit can, or net, or seccomp"}'
        )
    return text


def rlimit(text: str) -> str:
    """The name of a resource limit in lower case, "nofile" for RLIMIT_NOFILE."""
    name = text.lower().removeprefix("rlimit_")
    if name not in RLIMITS:
        raise ValueError(f'there is no resource limit "{text}"{nearest(name, RLIMITS)}')
    return name


def capability(text: str) -> str:
    """The name of a capability in capitals, without CAP_."""
    name = text.upper().removeprefix("CAP_")
    if name not in CAPABILITIES:
        raise ValueError(f'there is no capability "{text}"{nearest(name, CAPABILITIES)}')
    return name


def user_map(text: str) -> str:
    """ "keep", "root", or USER[:GROUP], each an id or the name that the root has for one."""
    if text in ("keep", "root"):
        return text
    user, colon, group = text.partition(":")
    if user == "keep":
        raise ValueError(f'"{text}": "keep" takes no group')
    return _user(user) + (f":{_user(group)}" if colon else "")


def _user(part: str) -> str:
    """A name, or an id without needless zeros: what begins as a number must be one."""
    if _USER.fullmatch(part):
        return part
    if not re.fullmatch(r"[0-9]+", part, re.ASCII):
        raise ValueError(f'"{part}" is not an id, and no name; ids have digits only, as in "1000:1000"')
    if len(part.lstrip("0")) > 10 or int(part) > _LAST_ID:
        raise ValueError(f"{part[:20]} is not an id: the largest is {_LAST_ID}")
    return str(int(part))


def root_source(text: str) -> str:
    """ "host", "empty", "image:REF" or "dir:PATH"."""
    scheme, colon, rest = text.partition(":")
    if scheme == "dir" and colon:
        if not rest:
            raise ValueError('"dir:" needs a path, as in "dir:/srv/debian"')
        check_path(rest)
    elif scheme == "image" and colon:
        if not _REFERENCE.fullmatch(rest):
            raise ValueError(f'"{rest}" is not the reference of an image, as in "image:debian:12"')
    elif text not in ("host", "empty"):
        hint = nearest(text, ("host", "empty"))
        if text.startswith(("/", "./", "~")):
            hint = f'; did you mean "dir:{text}"?'
        raise ValueError(f'"{text}" is not "host", "empty", "image:REF" or "dir:PATH"{hint}')
    return text


def layer(text: str) -> str:
    """A path, or "image:REF"."""
    if text.startswith("image:"):
        return root_source(text)
    check_path(text.removeprefix("dir:"))
    return text


def network(text: str) -> str:
    """A mode of [net], or the name of a network."""
    if text not in ("none", "host", "user", "proxy") and not _NETWORK.fullmatch(text):
        raise ValueError(f'"{text}" is not "none", "user", "proxy", "host" or the name of a network')
    return text


def address(text: str) -> str:
    """An IPv4 or IPv6 address, as it is the same everywhere: without a scope, which may be any text."""
    import ipaddress

    try:
        if "%" in text:
            raise ValueError
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f'"{text}" is not an IP address') from None
    return text


def own_name(text: str) -> str:
    """A name for hosts(5)."""
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise ValueError(f'"{text}" is not a host name')
    return text


def allow_rule(text: str) -> str:
    """An entry of `net.allow` or `net.deny`, in the one spelling that `sandbox.destination` has for it."""
    from sandbox.destination import parse

    return str(parse(text))


def _is_port(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,5}", text, re.ASCII)) and 0 < int(text) < 65536


def publish(text: str) -> str:
    """An entry of `net.publish` (`sandbox.ports`)."""
    from sandbox.ports import parse

    parse(text)
    return text


def activate(text: str) -> str:
    """An entry of `net.activate` (`sandbox.ports`)."""
    from sandbox.ports import parse_named

    parse_named(text)
    return text


def rate(text: str) -> str:
    """Bits per second for tc(8)."""
    bytes_per_second(text)
    return text


def cpuset(text: str) -> str:
    """The list format of cpuset(7), as in "0-3,6"."""
    if not re.fullmatch(r"[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*", text, re.ASCII):
        raise ValueError(f'"{text}" is not a list of CPUs, as in "0-3,6"')
    for part in text.split(","):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise ValueError(f'"{part}" ends before it begins')
    return text


def io_path(text: str) -> str:
    """A path whose disk is meant."""
    if not text.startswith("/"):
        raise ValueError(f'"{text}" is not an absolute path, as in "/srv" or "/dev/sda"')
    return text


def cgroup_parent(text: str) -> str:
    """ "auto", "none" or an absolute path."""
    if text not in ("auto", "none") and not text.startswith("/"):
        hint = nearest(text, ("auto", "none")) or ', as in "/sys/fs/cgroup/judge"'
        raise ValueError(f'"{text}" is not "auto", "none" or an absolute path{hint}')
    return text
