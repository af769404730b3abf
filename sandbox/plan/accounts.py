"""Who USER[:GROUP] is in a root, by its own passwd(5) and group(5).

Pure, and strict: both files were written by whoever made the root. Without a group it is the user's own, and
the further ones are those that list the user, as container engines have it (image-spec, config.md: User).
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NoSuch", "Who", "look_up"]

_LAST_ID = 2**32 - 2
#: names that are told apart when one is mistyped
_MOST_NAMES = 1000


class Who(NamedTuple):
    """Ids inside; `groups` are the further ones."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class NoSuch(LookupError):
    """The root has not *what* in its /etc/*file*; *names* are those that it has, *word* the one that was
    looked for."""

    def __init__(self, what: str, file: str, word: str = "", names: tuple[str, ...] = ()) -> None:
        super().__init__(f"not {what} in /etc/{file}")
        self.what, self.file, self.word, self.names = what, file, word, names


def look_up(text: str, passwd: str, group: str) -> Who:
    """The ids of *text*, by the texts of both files, "" for one that is not there.

    Raises:
        NoSuch: a name is not there, or its line is of no use.
    """
    user, colon, wanted = text.partition(":")
    users, groups = _lines(passwd, 7), _lines(group, 4)
    number = _number(user or "0")
    found = _by(users, 0, user) if number is None else _by(users, 2, user or "0")
    if found is None and number is None:
        if user != "root":  # which is 0 wherever nobody says otherwise
            raise NoSuch(f"the user {_shown(user)}", "passwd", user, _names(users))
        number = 0
    uid = number if number is not None else _number(found[2]) if found else None
    gid = _number(found[3]) if found else 0
    further: tuple[int, ...] = ()
    if colon:
        gid = _group(wanted, groups)
    elif found:
        members = (_number(each[2]) for each in groups if found[0] in each[3].split(","))
        further = tuple(dict.fromkeys(each for each in members if each is not None and each != gid))
    if uid is None or gid is None:
        raise NoSuch(f"a usable line for {_shown(user)}", "passwd")
    return Who(uid, gid, further)


def _group(wanted: str, groups: list[list[str]]) -> int:
    gid = _number(wanted)
    if gid is None:
        row = _by(groups, 0, wanted)
        gid = _number(row[2]) if row else None
    if gid is None:
        raise NoSuch(f"the group {_shown(wanted)}", "group", wanted, _names(groups))
    return gid


def _lines(text: str, fields: int) -> list[list[str]]:
    return [found for found in (line.split(":") for line in text.splitlines()) if len(found) == fields]


def _by(lines: list[list[str]], field: int, value: str) -> list[str] | None:
    """The first line that has *value* there, by its number where it is one."""
    number = _number(value) if field else None
    for line in lines:
        if (_number(line[field]) == number) if number is not None else (line[field] == value):
            return line
    return None


def _names(lines: list[list[str]]) -> tuple[str, ...]:
    return tuple(line[0] for line in lines[:_MOST_NAMES])


def _number(text: str) -> int | None:
    """An id, in digits only: neither "+1" nor "1000abc" (runc's CVE-2026-30892), nor too large."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) > _LAST_ID:
        return None
    return int(text)


def _shown(text: str) -> str:
    return ascii(text[:80])
