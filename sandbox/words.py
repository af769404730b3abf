"""Text of others in messages of ours: names of files and options, which may be hostile or no UTF-8.

The twins of `text_add_visible` and `text_add_string` in helpers/report.c.
"""

from __future__ import annotations

__all__ = ["printable", "quote", "to_json"]

#: what no shell gives a meaning, besides letters and digits
_PLAIN = "_@%+=:,./-"


def printable(text: str, keep: str = "\t") -> str:
    """*text* with nothing in it that a terminal would act on, but the characters of *keep*; bytes that are
    no UTF-8 as \\xNN."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # surrogateescape (PEP 383)
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def quote(word: str) -> str:
    """*word* for a shell to read back, as in the command of a mend; in bash's $'' where it must be."""
    if word.isprintable():  # as shlex.quote, which would have to be imported where no descriptor may be left
        if word and all(char.isascii() and (char.isalnum() or char in _PLAIN) for char in word):
            return word
        return "'" + word.replace("'", "'\"'\"'") + "'"
    parts = []
    for char in word:
        if char in "\\'":
            parts.append("\\" + char)
        elif char.isprintable():
            parts.append(char)
        else:
            parts += [f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape")]
    return f"$'{''.join(parts)}'"


def to_json(value: object, indent: int | None = None) -> str:
    """*value* as JSON in ASCII, with U+FFFD for each byte that is no UTF-8, which JSON can't hold."""
    import json

    text = json.dumps(value, ensure_ascii=False, indent=indent)
    valid = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(char if char.isascii() else json.dumps(char)[1:-1] for char in valid)
