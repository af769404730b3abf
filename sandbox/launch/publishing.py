"""Ports of a running sandbox that come and go: requests, answers, and what their errors mean."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sandbox import ports
from sandbox.errors import ProfileError, SetupError
from sandbox.ports import Published
from sandbox.wire import Kind

if TYPE_CHECKING:
    from sandbox.net.published import Inside

__all__ = ["publish", "read", "unpublish"]

_MENDS = {
    errno.EADDRINUSE: "publish another port; `ss -ltunp` shows who has it",
    errno.EACCES: "publish a port from 1024 on",
    errno.EADDRNOTAVAIL: "publish at an address of this machine; `ip address` shows them",
    errno.E2BIG: "unpublish one first: no more can be published",
    errno.ENOENT: "`sandbox inspect NAME`, or a Sandbox's `ports`, lists those that are",
}


class _Ask(Protocol):
    def __call__(self, kind: Kind, *fields: str | int) -> dict[str, Any]: ...


def read(listed: Iterable[Sequence[Any]]) -> tuple[Published, ...]:
    """The ports as the supervisor lists them."""
    return tuple(Published(*each) for each in listed)


def publish(
    ask: _Ask, inside: Inside | None, spec: str, seen: Callable[[tuple[Published, ...]], None]
) -> tuple[Published, ...]:
    """Have the ports of an entry lead inside: all of them or none. *inside* says where. Returns them,
    with the ports that were chosen for 0; *seen* is told of all that are published then.

    Raises:
        ProfileError: *spec* is no entry, or there is nothing to lead into.
        SetupError: one can't be published.
    """
    done: list[Published] = []
    for each in _parse(spec, inside):
        answer = _send(ask, Kind.FORWARD, inside, each)
        if answer["errno"]:
            for port in done:
                seen(read(_send(ask, Kind.UNFORWARD, inside, port)["ports"]))
            raise _refused("publish", each, answer["errno"])
        listed = read(answer["ports"])
        seen(listed)
        done.append(listed[-1])
    return tuple(done)


def unpublish(
    ask: _Ask, inside: Inside | None, spec: str, seen: Callable[[tuple[Published, ...]], None]
) -> None:
    """Have them lead nowhere. Raises as `publish`; those before one that is not published are gone then."""
    for each in _parse(spec, inside):
        answer = _send(ask, Kind.UNFORWARD, inside, each)
        seen(read(answer["ports"]))
        if answer["errno"]:
            raise _refused("unpublish", each, answer["errno"])


def _parse(spec: str, inside: Inside | None) -> tuple[Published, ...]:
    try:
        found = ports.parse(spec)
    except ValueError as error:
        raise ProfileError(f"argument spec: {error}") from error
    if inside is None:
        raise ProfileError(
            f'cannot publish {spec}: the network is the host\'s own (net.mode = "host")',
            "its servers are reached without",
        )
    return found


def _send(ask: _Ask, kind: Kind, inside: Inside | None, port: Published) -> dict[str, Any]:
    from sandbox.net import published

    assert inside is not None
    return ask(kind, *published.fields(port, inside))


def _refused(verb: str, port: Published, number: int) -> SetupError:
    why = "it is not published" if number == errno.ENOENT else os.strerror(number)
    return SetupError(f"cannot {verb} {port}: {why}", _MENDS.get(number), errno=number)
