"""Profiles, machines and calls made up for tests of planning."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from sandbox.host import Host
from sandbox.plan import Invocation, Plan, compile, resolve
from sandbox.plan.invocation import Entry, Guard, Place
from sandbox.profile import model
from sandbox.wire import Kind, decode

Resolve = Callable[..., Invocation]

HOST = Host(kernel=(6, 1), machine="x86_64", uid=1000, gid=1000)

ENTRIES: Mapping[str, Entry] = MappingProxyType(
    {
        "/usr": Entry("dir", source="/usr"),
        "/bin": Entry("link", target="usr/bin"),
        "/lib": Entry("link", target="usr/lib"),
        "/opt": Entry("dir", source="/opt"),
        "/etc/alternatives": Entry("dir", source="/etc/alternatives"),
        "/etc/ld.so.cache": Entry("file", source="/etc/ld.so.cache"),
        "/etc/localtime": Entry("link", target="/usr/share/zoneinfo/UTC"),
    }
)

CALL = Invocation(cwd="/home/u/project", home="/home/u", user="u", group="g", entries=ENTRIES)


def place(
    destination: str,
    mode: model.MountMode,
    source: str = "",
    *,
    size: int | None = None,
    optional: bool = False,
    line: int = 1,
    **more: object,
) -> Place:
    """A settled mount; the source is the destination unless it says otherwise."""
    mount = model.Mount(destination, mode, size=size, optional=optional)
    if mode not in ("tmpfs", "hide") and not source:
        source = destination
    return Place(mount, model.Origin("p.toml", line), destination, source, **more)  # type: ignore[arg-type]


def call(places: Iterable[Place] = (), **more: object) -> Invocation:
    ordered = sorted(places, key=lambda each: (each.destination.count("/"), each.destination))
    return replace(CALL, places=tuple(ordered), **more)  # type: ignore[arg-type]


def guard(path: str, what: str = "sandbox's state") -> Guard:
    return Guard(path, what)


def plan_of(
    profile: model.Profile | None = None,
    invocation: Invocation = CALL,
    host: Host = HOST,
) -> Plan:
    """Compile; the profile's mounts are the invocation's places, as resolve would have it."""
    profile = profile or model.Profile()
    profile = replace(profile, mounts=tuple(each.mount for each in invocation.places))
    return compile(profile, host, invocation)


def resolved(profile: model.Profile, cwd: str, environ: Mapping[str, str] | None = None) -> Invocation:
    """Resolve really, as the user who runs the tests."""
    host = replace(HOST, uid=os.getuid(), gid=os.getgid())
    return resolve(profile, host, cwd, os.environ if environ is None else environ)


def records(plan: Plan, kind: Kind) -> list[tuple[bytes, ...]]:
    """The fields of all records of a kind, without description and origin, as the helper gets them."""
    return [fields[2:] for each, fields in decode(plan.encode()) if each == kind]


def numbers(fields: Iterable[bytes]) -> list[int]:
    return [int.from_bytes(field, "little", signed=True) for field in fields]


def destinations(invocation: Invocation) -> dict[str, str]:
    return {place.destination: place.source for place in invocation.places}
