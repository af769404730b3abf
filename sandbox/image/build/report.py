"""What a build tells whoever waits for it: each step, whether it was done before, and why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from sandbox.image.build.steps import Step
from sandbox.words import printable

__all__ = ["Report", "Silent", "why"]

_MOST_REASONS = 8
_WIDTH = 100

#: what a key is made of, for people
_WORDS = {
    "user": "USER",
    "workdir": "WORKDIR",
    "shell": "SHELL",
    "network": "the network",
    "owner": "--chown",
    "mode": "--chmod",
    "target": "the destination",
    "epoch": "SOURCE_DATE_EPOCH",
    "mounts": "a --mount",
}


class Report:
    """Tells it as lines of text. Subclasses do it otherwise; this one says nothing."""

    def step(
        self, name: str, number: int, count: int, step: Step, cached: bool | None, reasons: Sequence[str]
    ) -> None:
        """The step *number* of *count* of the stage *name* begins; or it was *cached*; None: it is one of
        the configuration, and done at once."""

    def note(self, text: str) -> None:
        """Something to know."""

    @property
    def output(self) -> int | None:
        """Where the output of commands goes: a descriptor; None: it is kept, and shown if they fail."""
        return None


Silent = Report


class Plain(Report):
    """Lines on *file*; with *explain*, why steps ran."""

    def __init__(self, file: TextIO, *, explain: bool = False) -> None:
        self._file = file
        self._explain = explain

    def step(
        self, name: str, number: int, count: int, step: Step, cached: bool | None, reasons: Sequence[str]
    ) -> None:
        where = f"[{name} {number}/{count}]" if name else f"[{number}/{count}]"
        text = " ".join(step.text.split())
        shown = printable(text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…")
        self._say(f"{where} {shown}{'  (cached)' if cached else ''}")
        if self._explain and cached is False:
            for reason in reasons:
                self._say(f"    {printable(reason)}")

    def note(self, text: str) -> None:
        self._say(printable(text))

    @property
    def output(self) -> int | None:
        return self._file.fileno()

    def _say(self, line: str) -> None:
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError:  # closed, or full: there is nobody to tell
            return


def why(before: Mapping[str, Any] | None, now: Mapping[str, Any], *, above: bool, forced: bool) -> list[str]:
    """Why a step whose inputs are *now* runs, in sentences: what is another than *before*, when it was last
    built (None: it was not).

    *above*: a step above it ran; *forced*: nothing was looked up.
    """
    if forced:
        return ["--no-cache"]
    if before is None:
        return ["the step above ran again"] if above else ["it was not built before"]
    found: list[str] = []
    for key in ("base", "command", "text", "step"):
        if before.get(key) != now.get(key):
            found.append(
                {"base": f"the base image is another: {now.get('base')}"}.get(key, "its line changed")
            )
            break
    for key, word in (("args", "ARG"), ("env", "ENV")):
        found += _pairs(word, before.get(key) or {}, now.get(key) or {})
    found += [
        f"{word} is {now.get(key) or 'none'}, was {before.get(key) or 'none'}"
        for key, word in _WORDS.items()
        if before.get(key) != now.get(key)
    ]
    found += _files(str(now.get("verb", "COPY")), before.get("files"), now.get("files"))
    if above and (not found or before.get("parent") != now.get("parent")):
        found.append("the step above ran again")
    if not found and before.get("parent") != now.get("parent"):
        found.append("what it begins with is another")
    return found or ["its result was removed from the cache"]


def _pairs(word: str, before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    found = [
        f"{word} {name} is {value}, was {before[name]}" if name in before else f"{word} {name} is new"
        for name, value in now.items()
        if before.get(name) != value
    ]
    return found + [f"{word} {name} is gone" for name in before if name not in now]


def _files(verb: str, before: object, now: object) -> list[str]:
    if not isinstance(before, list) or not isinstance(now, list) or before == now:
        return []
    old, new = ({str(line[0]): line[1:] for line in lines} for lines in (before, now))
    found = []
    for name in sorted({*old, *new}):
        shown = name or "."
        if name not in old:
            found.append(f"{verb}: {shown} is new")
        elif name not in new:
            found.append(f"{verb}: {shown} is gone")
        elif list(old[name])[1:] != list(new[name])[1:]:
            found.append(f"{verb}: {shown} changed")
        elif list(old[name]) != list(new[name]):
            found.append(f"{verb}: {shown} has another mode")
    more = len(found) - _MOST_REASONS
    return found if more <= 0 else [*found[:_MOST_REASONS], f"{verb}: and {more} more"]
