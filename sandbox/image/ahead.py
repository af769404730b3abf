"""Work done ahead, beside what is done in turn: layers that do not wait for those below them.

As many threads as processors that whoever works in turn leaves. What they do is not needed: whatever fails is
done again in its turn, and it is for that to say why.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

__all__ = ["Ahead"]

_Job = TypeVar("_Job", bound=Hashable)


class Ahead(Generic[_Job]):
    """Does *do* for each of *jobs*, in order, beside the `with` statement's body. It must not raise.

    At the end of the body no further one is begun, and those under way are waited for; but not after an
    interrupt, for they may take long: then they are left alone, and end with the process.
    """

    def __init__(self, jobs: Sequence[_Job], do: Callable[[_Job], None]) -> None:
        self._do = do
        self._lock = threading.Lock()
        self._left = list(dict.fromkeys(jobs))
        self._doing: dict[_Job, threading.Event] = {}
        spare = len(os.sched_getaffinity(0)) - 1
        self._threads = [
            threading.Thread(target=self._work, name="ahead", daemon=True)
            for _ in range(min(spare, len(self._left)))
        ]

    def __enter__(self) -> Ahead[_Job]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self._lock:
            self._left.clear()
        if kind is None or issubclass(kind, Exception):
            for thread in self._threads:
                thread.join()

    def wait(self, job: _Job) -> None:
        """*job*'s turn has come: wait for it if it is being done; if it is not, nobody will begin it."""
        with self._lock:
            if job in self._left:
                self._left.remove(job)
            done = self._doing.get(job)
        if done is not None:
            done.wait()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._left:
                    return
                job = self._left.pop(0)
                done = self._doing[job] = threading.Event()
            try:
                self._do(job)
            finally:
                done.set()
