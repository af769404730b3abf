"""Where there is no room: few open files, few processes, full sockets, too many commands; and a payload
that makes it so for its own init. What can't be done is refused with the reason, and nothing is lost."""

from __future__ import annotations

import pytest

from tests.helper import runs
from tests.helper.runs import limit, run
from tests.helper.test_supervisor import SECOND

pytestmark = [pytest.mark.integration]


def lower_init(number: int) -> str:
    """A script's line: init may open no descriptor from *number* on. It is the payload's own user."""
    return f"prlimit --pid 1 --nofile={number}:{number} || exit 9; "


class TestAnInitWithoutDescriptors:
    """The payload is init's user and may lower its limits, once and for all."""

    @pytest.mark.parametrize("number", range(3, 9))
    def test_memory_is_measured_or_nothing_runs(self, helper, number):
        hog = "exec python3 -c 'x = bytearray(200 << 20); import time; time.sleep(100)'"
        held = limit("memory", 64 << 20, "best-effort: polled")
        ended = run(
            helper, ["sh", "-c", lower_init(number) + hog], held, limit("timeout", 20 * SECOND, "clock")
        )
        assert ended.report["verdict"] in ("memory", "killed")
        if ended.report["verdict"] == "killed":
            assert "can't be measured" in ended.report["message"] or number == 3

    @pytest.mark.parametrize("number", range(3, 9))
    def test_a_command_ends_whole(self, helper, number):
        with runs.box(helper) as box:
            box.event(event="ready")
            script = lower_init(number) + "(setsid sh -c 'exec sleep 1000' >&- 2>&- <&- &); sleep 0.1"
            box.spawn(1, ["sh", "-c", script])
            box.event(event="result", id=1)
            (init,) = runs.children(box.process.pid)
            assert not any(map(runs.is_alive, runs.descendants(init)))
