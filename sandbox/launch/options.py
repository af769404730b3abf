"""The keyword arguments of `run` and `Sandbox`: subprocess's, and profile keys by short names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from sandbox.errors import ProfileError
from sandbox.launch.streams import Stream

__all__ = ["KEYS", "CommandOptions", "Overrides", "RunOptions", "overrides_of", "take"]


class Overrides(TypedDict, total=False):
    """Profile keys by short names, written as in a profile: sizes "256M" or bytes, durations "2s"
    or seconds. Any other key goes into `overrides={"process.nice": 5}`."""

    memory: int | str
    memory_high: int | str
    swap: int | str
    pids: int
    cpus: float
    cpu_weight: int
    cpuset: str
    #: {"/path": {"rbps": "10M", "wiops": 100}}
    io: Mapping[str, Mapping[str, int | str]]
    cpu_time: float | str
    disk: int | str
    files: int
    file_size: int | str
    output: int | str
    core: int | str
    enforce: str
    #: "auto", "none", or a directory of cgroup v2
    cgroup_parent: str
    require: Sequence[str]
    net: str
    #: who connects the network "user"
    net_backend: str
    #: "[IP:]PORT:PORT[/udp]" each; of `activate` with an optional "NAME=" before it
    publish: Sequence[str]
    activate: Sequence[str]
    #: "HOST[:PORT]" each
    allow: Sequence[str]
    deny: Sequence[str]
    #: addresses of name servers
    dns: Sequence[str]
    #: addresses by name, for /etc/hosts
    hosts: Mapping[str, str]
    #: "private", "host", "loopback", "link-local"
    reach: Sequence[str]
    #: "SRC:DST[:ro|rw|overlay]" each, as `--bind`
    binds: Sequence[str]
    #: "DST[:SIZE]" each, as `--tmpfs`
    tmpfs: Sequence[str]
    #: entries of `[mounts]`, by destination
    mounts: Mapping[str, object]
    root: str
    #: an image's reference
    image: str
    layers: Sequence[str]
    driver: str
    writable: str
    user: str
    entrypoint: Sequence[str]
    ids: str
    hostname: str
    workdir: str
    seccomp: str
    nested: bool
    capabilities: Sequence[str]
    umask: str
    nice: int


class CommandOptions(TypedDict, total=False):
    """What `subprocess.run` has, for one command."""

    input: bytes | str | None
    stdin: Stream
    stdout: Stream
    stderr: Stream
    capture_output: bool
    text: bool | None
    encoding: str | None
    errors: str | None
    timeout: float | str | None
    cwd: Any
    env: Mapping[str, str] | None


class RunOptions(CommandOptions, Overrides, total=False):
    """Everything that `run` takes by keyword."""


#: short name -> key of the profile. `binds`, `tmpfs`, `mounts` and `image` are put together below.
KEYS: Mapping[str, str] = {
    "memory": "limits.memory",
    "memory_high": "limits.memory_high",
    "swap": "limits.swap",
    "pids": "limits.pids",
    "cpus": "limits.cpus",
    "cpu_weight": "limits.cpu_weight",
    "cpuset": "limits.cpuset",
    "io": "limits.io",
    "cpu_time": "limits.cpu_time",
    "disk": "limits.disk",
    "files": "limits.files",
    "file_size": "limits.file_size",
    "output": "limits.output",
    "core": "limits.core",
    "enforce": "limits.enforce",
    "cgroup_parent": "limits.cgroup_parent",
    "require": "require",
    "net": "net.mode",
    "net_backend": "net.backend",
    "publish": "net.publish",
    "activate": "net.activate",
    "allow": "net.allow",
    "deny": "net.deny",
    "dns": "net.dns",
    "hosts": "net.hosts",
    "reach": "net.reach",
    "root": "root.from",
    "layers": "root.layers",
    "driver": "root.driver",
    "writable": "root.writable",
    "user": "user.map",
    "entrypoint": "entrypoint",
    "ids": "user.ids",
    "hostname": "process.hostname",
    "workdir": "process.workdir",
    "seccomp": "process.seccomp",
    "nested": "process.nested",
    "capabilities": "process.capabilities",
    "umask": "process.umask",
    "nice": "process.nice",
}

_COMMAND = frozenset(CommandOptions.__annotations__)
_MOUNTS = ("binds", "tmpfs", "mounts", "image")


def take(options: Mapping[str, Any], function: str) -> tuple[CommandOptions, Overrides]:
    """Part keyword arguments into those of the command and those of the profile.

    Raises:
        TypeError: one is neither; the message names the nearest.
    """
    known = _COMMAND | KEYS.keys() | set(_MOUNTS)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")
    command: Any = {name: value for name, value in options.items() if name in _COMMAND}
    overrides: Any = {name: value for name, value in options.items() if name not in _COMMAND}
    return command, overrides


def overrides_of(values: Overrides) -> dict[str, object]:
    """*values* by dotted key, as `sandbox.profile.load` takes them.

    Raises:
        ProfileError: an entry of `binds` or `tmpfs` is not of its form.
        TypeError: they are no lists.
    """
    found: dict[str, object] = {KEYS[name]: value for name, value in values.items() if name not in _MOUNTS}
    if "binds" in values or "tmpfs" in values:
        from sandbox.profile.options import parse_bind, parse_tmpfs

        found |= _mounts("binds", values.get("binds", ()), parse_bind)
        found |= _mounts("tmpfs", values.get("tmpfs", ()), parse_tmpfs)
    if "mounts" in values:
        found["mounts"] = values["mounts"]
    if "image" in values:
        if "root" in values:
            raise TypeError("image and root are two roots: give one of them")
        found["root.from"] = f"image:{values['image']}"
    return found


def _mounts(
    name: str, texts: Sequence[str], parse: Callable[[str], tuple[str, dict[str, object]]]
) -> dict[str, object]:
    from sandbox.profile.loader import Given, quote_key
    from sandbox.profile.model import Origin

    if isinstance(texts, str):
        raise TypeError(f"{name} is a list of texts")
    found: dict[str, object] = {}
    for text in texts:
        try:
            destination, entry = parse(text)
        except ValueError as error:
            mend = getattr(error, "mend", None)
            raise ProfileError(f"argument {name}: {error}", mend) from error
        found[f"mounts.{quote_key(destination)}"] = Given(entry, Origin(f"argument {name}"))
    return found
