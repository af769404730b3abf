"""Work done ahead of its turn: everything is done once, and nothing is begun behind the end."""

from __future__ import annotations

import threading

import pytest

from sandbox.image.ahead import Ahead


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})


def test_each_is_done_once_by_whoever_comes_first() -> None:
    ahead_done: list[int] = []
    in_turn: list[int] = []
    with Ahead(range(100), ahead_done.append) as ahead:
        for number in range(100):
            ahead.wait(number)
            if number not in ahead_done:
                in_turn.append(number)
    assert sorted(ahead_done + in_turn) == list(range(100))


def test_one_that_is_under_way_is_waited_for() -> None:
    begun, go, done = threading.Event(), threading.Event(), []

    def slowly(number: int) -> None:
        begun.set()
        assert go.wait(60)
        done.append(number)

    with Ahead([1], slowly) as ahead:
        assert begun.wait(60)
        threading.Timer(0.01, go.set).start()
        ahead.wait(1)
        assert done == [1]


def test_an_error_begins_nothing_more_and_an_interrupt_waits_for_nothing() -> None:
    begun, go = threading.Event(), threading.Event()
    done: list[int] = []

    def slowly(number: int) -> None:
        begun.set()
        assert go.wait(60)
        done.append(number)

    ahead = Ahead([1, 2, 3], slowly)
    with pytest.raises(KeyboardInterrupt), ahead:
        assert begun.wait(60)
        raise KeyboardInterrupt
    assert done == []
    go.set()
    for thread in ahead._threads:
        thread.join()
    assert done == [1]


def test_with_one_processor_nothing_is_done_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    done: list[int] = []
    with Ahead([1, 2], done.append) as ahead:
        ahead.wait(1)
    assert done == []
