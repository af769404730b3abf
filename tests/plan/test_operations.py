"""Operations: what they encode is what they say, for any value."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox.plan import operations as ops
from sandbox.wire import Kind, Mount, Record, decode, encode

paths = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40).map(
    lambda text: "/" + text
)
flags = st.integers(0, 511).map(Mount)
counts = st.integers(0, 2**62)
modes = st.integers(0, 0o7777)

operations = st.one_of(
    st.builds(ops.Tmpfs, dst=paths, origin=paths, flags=flags, mode=modes, size=counts, inodes=counts),
    st.builds(ops.Bind, dst=paths, origin=paths, source=paths, flags=flags, beneath=st.just("") | paths),
    st.builds(
        ops.Overlay,
        dst=paths,
        lowers=st.lists(paths, min_size=1, max_size=4).map(tuple),
        upper=st.sampled_from(("", "mount0")),
        size=counts,
        flags=flags,
    ),
    st.builds(ops.Proc, dst=paths, flags=flags),
    st.builds(ops.Devpts, dst=paths, flags=flags),
    st.builds(ops.Mqueue, dst=paths, flags=flags),
    st.builds(ops.File, dst=paths, content=st.binary(max_size=100), mode=modes),
    st.builds(ops.Directory, dst=paths, mode=modes),
    st.builds(ops.Symlink, dst=paths, target=paths),
    st.builds(ops.Mask, dst=paths, flags=flags),
    st.builds(ops.ReadOnly, dst=paths, flags=flags),
    st.builds(ops.Pin, dst=paths, flags=flags),
)

#: how many fields wire.Kind gives each kind behind description and origin (an overlay: at least)
FIELDS = {
    Kind.TMPFS: 5,
    Kind.BIND: 4,
    Kind.OVERLAY: 5,
    Kind.PROC: 2,
    Kind.DEVPTS: 2,
    Kind.MQUEUE: 2,
    Kind.FILE: 3,
    Kind.DIRECTORY: 3,
    Kind.SYMLINK: 2,
    Kind.MASK: 2,
    Kind.READONLY: 2,
    Kind.PIN: 2,
}


def as_bytes(value: str | bytes | int) -> bytes:
    if isinstance(value, int):
        return value.to_bytes(8, "little", signed=True)
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


@given(st.lists(operations, max_size=8))
def test_encoded_operations_decode_to_themselves(found: list[ops.Operation]) -> None:
    decoded = list(decode(encode(each.encode() for each in found)))
    assert [kind for kind, _ in decoded] == [each.kind for each in found]
    for each, (kind, fields) in zip(found, decoded, strict=True):
        expected = (each.describe(), each.origin, each.dst, *each.arguments())
        assert fields == tuple(map(as_bytes, expected))
        count = len(fields) - 2
        assert count == FIELDS[Kind(kind)] or (kind == Kind.OVERLAY and count >= FIELDS[Kind.OVERLAY])


@given(operations)
def test_description_fits_behind_cannot(operation: ops.Operation) -> None:
    text = operation.describe()
    assert operation.dst in text
    assert text[0].islower()


def test_every_kind_of_operation_has_a_class() -> None:
    classes = {getattr(ops, name) for name in ops.__all__} - {ops.Operation}
    assert {each.kind for each in classes} == {kind for kind in Kind if 32 <= kind < 64}


def test_descriptions() -> None:
    bind = ops.Bind(dst="/x", source="/home/u/x", flags=Mount.READONLY)
    assert bind.describe() == "bind /home/u/x read-only on /x"
    assert ops.Bind(dst="/x", source="data", beneath="/p").describe() == "bind /p/data on /x"
    assert ops.Tmpfs(dst="/tmp").describe() == "mount a tmpfs on /tmp"
    assert ops.Tmpfs(dst="/tmp", size=64 << 20).describe() == "mount a tmpfs of 64M on /tmp"
    overlay = ops.Overlay(dst="/o", lowers=("/a", "/b"), upper="m0")
    assert overlay.describe() == "mount an overlay of /a, /b with its changes on disk on /o"
    assert ops.Pin(dst="/p").describe() == "protect /p from being renamed"
    assert ops.Pin(dst="/p", flags=Mount.READONLY).describe() == "protect /p from writing"


def test_origin_is_carried_to_the_helper() -> None:
    record = ops.Mask(dst="/x", origin="sandbox.toml:3").encode()
    assert record == Record(Kind.MASK, "hide /x", "sandbox.toml:3", ("/x", 0))
