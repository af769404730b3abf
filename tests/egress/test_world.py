"""What is told of what was denied: only words that the supervisor takes."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.destination import Policy
from sandbox.egress import service, world
from sandbox.egress.nfset import Sets
from sandbox.egress.world import Denials, World


def told(*names: str) -> list[str]:
    reader, writer = os.pipe()
    denials = Denials(writer)
    for name in names:
        denials.add(name, 80, "tcp")
    os.close(writer)
    with os.fdopen(reader, encoding="ascii") as file:
        return file.read().splitlines()


def test_a_name_in_another_case_is_told_as_the_same() -> None:
    """Nobody hides what they tried by capitals, which the supervisor drops."""
    assert told("EVIL.example", "evil.EXAMPLE") == ["denied evil.example 80 tcp"]


def test_how_often_is_told_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of what is too much it is one number."""
    monkeypatch.setattr(world, "_MAX_DENIALS", 2)
    reader, writer = os.pipe()
    denials = Denials(writer)
    for what in ("a", "b", "a", "c", "d"):
        denials.add(what, 80, "tcp")
    denials.add("b", 80, "tcp", 5)
    for _ in range(2):  # only what is new
        denials.tell_counts()
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read().splitlines()
    assert said[:3] == ["denied a 80 tcp", "denied b 80 tcp", "denied ... 0 more"]
    assert said[3:] == ["denied a 80 tcp 2", "denied b 80 tcp 6", "denied ... 0 more 2"]


@given(st.text(max_size=30))
def test_any_name_is_one_word(name: str) -> None:
    (line,) = told(name)
    assert re.fullmatch(r"denied [a-z0-9.:_?-]+ 80 tcp", line)


def test_a_kernel_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is asked again."""
    monkeypatch.setattr(service, "_LOOK", 0)
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.settimeout(20)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", 0, 1000))

    async def look() -> None:
        task = asyncio.create_task(service._look(made))
        for _ in range(3):
            asked = await asyncio.to_thread(theirs.recv, 4096)
            assert asked
        assert not task.done()
        task.cancel()

    with ours, theirs, os.fdopen(reader) as said:
        made = World(Policy(None), Denials(writer), mark=0, private=False, sets=Sets(ours, "sandbox"))
        asyncio.run(look())
        os.close(writer)
        assert said.read() == "denied ? 0 defect\n"
