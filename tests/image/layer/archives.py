"""Layers as data: a list of entries that becomes an archive, by the standard library's tarfile."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, field
from typing import Any

TYPES = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
}


@dataclass(frozen=True)
class Item:
    """One entry of an archive, as a test writes it."""

    kind: str
    name: str
    data: bytes = b""
    link: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 1_000_000_000
    xattrs: tuple[tuple[str, bytes], ...] = ()
    device: tuple[int, int] = (1, 3)
    pax: dict[str, str] = field(default_factory=dict, hash=False)


def file(name: str, data: bytes = b"", **rest: Any) -> Item:
    return Item("file", name, data, **rest)


def directory(name: str, mode: int = 0o755, **rest: Any) -> Item:
    return Item("dir", name, mode=mode, **rest)


def symlink(name: str, link: str, **rest: Any) -> Item:
    return Item("symlink", name, link=link, mode=0o777, **rest)


def hardlink(name: str, link: str) -> Item:
    return Item("hardlink", name, link=link)


def whiteout(name: str) -> Item:
    above, _, last = name.rpartition("/")
    return Item("file", f"{above}/.wh.{last}" if above else f".wh.{last}")


def opaque(name: str) -> Item:
    return Item("file", f"{name}/.wh..wh..opq" if name else ".wh..wh..opq")


def archive(*items: Item, format: int = tarfile.PAX_FORMAT) -> bytes:
    """The items as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for item in items:
            info = tarfile.TarInfo(item.name)
            info.type = TYPES[item.kind]
            info.linkname, info.mode, info.uid, info.gid = item.link, item.mode, item.uid, item.gid
            info.mtime, info.size = item.mtime, len(item.data)
            info.devmajor, info.devminor = item.device if item.kind in ("char", "block") else (0, 0)
            info.pax_headers = dict(item.pax)
            for name, value in item.xattrs:
                info.pax_headers[f"SCHILY.xattr.{name}"] = value.decode("utf-8", "surrogateescape")
            tar.addfile(info, io.BytesIO(item.data))
    return buffer.getvalue()
