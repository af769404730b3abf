"""Checks of texts in a profile: host names, variables, addresses, capabilities and the like.

Each takes a text and returns it (None: unchanged), or raises `ValueError` with words that can
stand behind `file:line:col: `.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sandbox.kernel import CAPABILITIES, RLIMITS
from sandbox.profile.kinds import check_path, nearest

__all__ = [
    "LIMIT_OF_RLIMIT",
    "REQUIREMENTS",
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
    """ "keep", "root" or "UID:GID"."""
    if text in ("keep", "root"):
        return text
    uid, colon, gid = text.partition(":")
    if not colon:
        hint = (
            f'; with a group it would be "{text}:{text}"'
            if text.isdigit()
            else nearest(text, ("keep", "root"))
        )
        raise ValueError(f'"{text}" is not "keep", "root" or "UID:GID"{hint}')
    for part in (uid, gid):
        if not re.fullmatch(r"[0-9]{1,10}", part, re.ASCII):
            raise ValueError(f'"{part}" is not an id; both have digits only, as in "1000:1000"')
        if int(part) > _LAST_ID:
            raise ValueError(f"{part} is not an id: the largest is {_LAST_ID}")
    return f"{int(uid)}:{int(gid)}"


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


def network(text: str) -> str:
    """A mode of [net], or the name of a network."""
    if text not in ("none", "host", "user") and not _NETWORK.fullmatch(text):
        raise ValueError(f'"{text}" is not "none", "user", "host" or the name of a network')
    return text


def address(text: str) -> str:
    """An IPv4 or IPv6 address."""
    import ipaddress

    try:
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
    """HOST[:PORT]: a name (also *.NAME), an address or a network, with [] around IPv6."""
    host, port = _split_port(text)
    if port and not _is_port(port):
        raise ValueError(f'"{port}" is not a port')
    if "/" in host or ":" in host or host.replace(".", "").isdigit():
        import ipaddress

        try:
            ipaddress.ip_network(host, strict=False)
        except ValueError:
            raise ValueError(f'"{host}" is not an address or network') from None
    else:
        own_name(host.removeprefix("*."))
    return text


def _split_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError(f'"{text}" is not HOST or HOST:PORT')
        return host, port[1:]
    if text.count(":") > 1:
        return text, ""
    host, _, port = text.partition(":")
    return host, port


def _is_port(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,5}", text, re.ASCII)) and 0 < int(text) < 65536


def publish(text: str) -> str:
    """[IP:]PORT:PORT[/udp|/tcp]; IPv6 addresses in []."""
    rest, slash, protocol = text.partition("/")
    outer, colon, inner = rest.rpartition(":")
    ip, _, port = outer.rpartition(":")
    right = colon and _is_port(inner) and _is_port(port) and (not slash or protocol in ("tcp", "udp"))
    if not right:
        raise ValueError(f'"{text}" is not [IP:]PORT:PORT[/udp], as in "8080:80"')
    if ip:
        address(ip[1:-1] if ip.startswith("[") and ip.endswith("]") else ip)
    return text


def rate(text: str) -> str:
    """Bits per second for tc(8)."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?[kmg]?bit", text, re.ASCII):
        raise ValueError(f'"{text}" is not a rate, as in "10mbit"')
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
