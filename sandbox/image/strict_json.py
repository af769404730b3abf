"""JSON from registries, helpers and credential files: hostile until read through here.

Refused: more than the limit, nesting that could exhaust the stack, a name twice in an object (readers differ
on which one counts), numbers that are none in JSON, lone surrogates, values of other types than expected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from sandbox.errors import ImageError

__all__ = ["MAX_DEPTH", "Fields", "parse"]

#: How deep arrays and objects may be nested; the deepest of ours are four.
MAX_DEPTH = 64
#: A string, or a bracket. Possessive, and the closing quote optional, so that no text makes it slow.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


class Fields:
    """An object of a JSON document, with its values taken out by type; null counts as not there.

    Each method raises `ImageError`, naming the document and the key, when the value is of another type.
    """

    def __init__(self, data: Mapping[str, Any], what: str) -> None:
        self._data = data
        self._what = what

    def __contains__(self, key: str) -> bool:
        return self._data.get(key) is not None

    def keys(self) -> tuple[str, ...]:
        """The names in the object."""
        return tuple(text(key, self._what) for key in self._data)

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(key, default)
        return text(value, self._where(key)) if isinstance(value, str) else self._wrong(key, "a string")

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number from 0 to 2**63 - 1."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            self._wrong(key, "a whole number, not negative")
        return value

    def flag(self, key: str) -> bool:
        """A boolean; False when it is not there."""
        value = self._get(key, False)
        return value if isinstance(value, bool) else self._wrong(key, "true or false")

    def strings(self, key: str) -> tuple[str, ...]:
        """An array of strings; empty when it is not there."""
        value = self._get(key, ())
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            self._wrong(key, "an array of strings")
        return tuple(text(each, self._where(key)) for each in value)

    def mapping(self, key: str) -> dict[str, str]:
        """An object of strings; empty when it is not there."""
        value = self._get(key, {})
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            self._wrong(key, "an object of strings")
        where = self._where(key)
        return {text(name, where): text(each, where) for name, each in value.items()}

    def fields(self, key: str) -> Fields:
        """An object; an empty one when it is not there."""
        value = self._get(key, {})
        return Fields(value, self._where(key)) if isinstance(value, dict) else self._wrong(key, "an object")

    def objects(self, key: str, limit: int) -> list[Fields]:
        """An array of at most *limit* objects; empty when it is not there."""
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            self._wrong(key, "an array of objects")
        if len(value) > limit:
            raise ImageError(f"{self._where(key)} has {len(value)} entries, more than {limit}")
        return [Fields(each, f"{self._where(key)}[{number}]") for number, each in enumerate(value)]

    def _get(self, key: str, default: Any) -> Any:
        value = self._data.get(key)
        if value is None and default is None:
            raise ImageError(f'{self._what} has no "{key}"')
        return default if value is None else value

    def _where(self, key: str) -> str:
        return f"{self._what}: {ascii(key)[1:-1][:80]}"

    def _wrong(self, key: str, expected: str) -> NoReturn:
        raise ImageError(f"{self._where(key)} is not {expected}")


def text(value: str, where: str) -> str:
    """*value*, unless it can't be encoded as UTF-8 or has a NUL, which no argument or name can."""
    if "\0" in value:
        raise ImageError(f"{where} has a NUL in it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ImageError(f"{where} has half of a surrogate pair in it") from None
    return value


def parse(raw: bytes, what: str, limit: int) -> Fields:
    """The object that *raw* is; *what* names the document in messages, *limit* is in bytes.

    Raises:
        ImageError: it is too large, malformed, ambiguous, nested too deeply, or no object.
    """
    if len(raw) > limit:
        raise ImageError(f"{what} has {len(raw)} bytes, more than {limit}")
    _check_depth(raw, what)
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError:
        raise ImageError(f"{what} is not UTF-8") from None
    except ValueError as error:
        raise ImageError(f"{what} is not JSON: {error}"[:400]) from None
    if not isinstance(data, dict):
        raise ImageError(f"{what} is not a JSON object")
    return Fields(data, what)


def _check_depth(raw: bytes, what: str) -> None:
    """json recurses on the C stack, as far as the caller's recursion limit lets it."""
    depth = 0
    for match in _TOKEN.finditer(raw):
        token = match[0]
        if token in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise ImageError(f"{what} is nested more than {MAX_DEPTH} deep")
        elif token in (b"]", b"}"):
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{ascii(twice)[:80]} stands twice in one object")
    return data


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
