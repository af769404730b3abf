"""Random TOML documents, written in all the ways that TOML has, for tests against tomli."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

KEYS = st.one_of(
    st.sampled_from(["a", "b", "c", "limits", "x-y", "1", "_"]),
    st.text(alphabet="ab .\"\\'#=[]{}é\t", max_size=4),
)
TEXTS = st.text(alphabet="ab\"\\'#=[]{},\n\t é\U0001f600", max_size=8)
SCALARS = st.one_of(
    TEXTS,
    st.integers(-(2**60), 2**60),
    st.booleans(),
    st.sampled_from([1.5, -0.25, 1e30]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)
TABLES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=3),
    lambda inner: st.dictionaries(
        KEYS, st.one_of(VALUES, inner, st.lists(inner, min_size=1, max_size=3)), max_size=3
    ),
    max_leaves=8,
)


class Writer:
    """Writes a value in ways that *draw* chooses."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def choose(self, *ways: str) -> str:
        way: str = self.draw(st.sampled_from(ways))
        return way

    def blank(self) -> str:
        return self.choose("", " ", "\t ")

    def gap(self) -> str:
        return self.choose("", " ", "\n", " # a ] } ' \" comment\n", "\n\n\t")

    def key(self, name: str) -> str:
        bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
        if bare and self.choose("bare", "quoted") == "bare":
            return name
        if "'" not in name and self.choose("literal", "basic") == "literal":
            return f"'{name}'"
        return basic(name)

    def text(self, value: str) -> str:
        way = self.choose("basic", "literal", "long", "long literal")
        if way == "literal" and "'" not in value and "\n" not in value:
            return f"'{value}'"
        if (
            way == "long literal"
            and "'''" not in value
            and not value.endswith("'" * 3)
            and "\n\n" not in value
        ):
            # Two quotes at most may stand before the end.
            tail = len(value) - len(value.rstrip("'"))
            if tail <= 2:
                return f"'''\n{value}'''"
        if way == "long":
            body = value.replace("\\", "\\\\").replace('"""', '""\\"')
            tail = len(body) - len(body.rstrip('"'))
            if tail <= 2:
                return f'"""\n{body}"""'
        return basic(value)

    def value(self, value: Any) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            inner = ",".join(self.gap() + self.value(each) + self.gap() for each in value)
            comma = self.choose("", ",") if value else ""
            return f"[{inner}{comma}{self.gap()}]"
        if isinstance(value, dict):
            pairs = ",".join(
                self.blank() + self.pair(name, each) + self.blank() for name, each in value.items()
            )
            return f"{{{pairs}{self.blank()}}}"
        return repr(value)

    def pair(self, name: str, value: Any) -> str:
        key = self.key(name)
        # A table with one key may be a dotted key.
        while isinstance(value, dict) and len(value) == 1 and self.choose("dotted", "inline") == "dotted":
            (inner, value), *_ = value.items()
            key += f"{self.blank()}.{self.blank()}{self.key(inner)}"
        return f"{key}{self.blank()}={self.blank()}{self.value(value)}"

    def document(self, table: dict[str, Any], path: tuple[str, ...] = ()) -> str:
        """Plain values first, then tables and arrays of tables with headers."""
        lines, later = [], []
        for name, value in table.items():
            headed = isinstance(value, dict) and self.choose("header", "pair") == "header"
            array = isinstance(value, list) and value and all(isinstance(each, dict) for each in value)
            if headed or (array and self.choose("header", "pair") == "header"):
                later.append((name, value))
            else:
                end = self.choose("", " ", " # x = 1", "\t# 'é")
                lines.append(f"{self.blank()}{self.pair(name, value)}{end}\n{self.choose('', chr(10))}")
        for name, value in later:
            where = (*path, name)
            dotted = f"{self.blank()}.{self.blank()}".join(self.key(part) for part in where)
            for each in value if isinstance(value, list) else [value]:
                left, right = ("[[", "]]") if isinstance(value, list) else ("[", "]")
                lines.append(
                    f"{self.blank()}{left}{self.blank()}{dotted}{self.blank()}{right}{self.blank()}\n"
                )
                lines.append(self.document(each, where))
        return "".join(lines)


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "é": "\\u00e9"}


def basic(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(char, char) for char in text) + '"'


@st.composite
def documents(draw: Any) -> tuple[dict[str, Any], str]:
    """Data and a text that stands for it."""
    data = draw(TABLES)
    return data, Writer(draw).document(data)
