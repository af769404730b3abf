"""A copy of this tree as a fresh clone would be, and the wheels of its dependencies without an index."""

from __future__ import annotations

import base64
import hashlib
import shutil
import zipfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("sandbox", "helpers", "configs", "scripts", "pyproject.toml", "README.md", "LICENSE", ".gitignore")
MADE = shutil.ignore_patterns("__pycache__", "_helper", "_configs", "*.pyc")


def copy_tree(target: Path) -> Path:
    target.mkdir(parents=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=MADE)
        else:
            shutil.copy2(source, target / part)
    return target


#: without optimizing, which takes most of the time; a helper that it has compiled before it has kept
QUICK = """#!/bin/sh
for word; do
    [ "$last" != -o ] || target=$word
    case $word in */helpers/main.c) sources=${word%/main.c} ;; esac
    last=$word
done
[ "$sources" ] || exec COMPILER "$@" -O0
options=$(printf '%s\\n' "$@" | grep '^-')
made=MADE/$( (echo "$options"; cat "$sources"/*.[ch]) | sha256sum | cut -c -64)
[ -e "$made" ] || { COMPILER "$@" -O0 -o "$made.$$" && mv "$made.$$" "$made"; } || exit
cp "$made" "$target"
"""
#: one that is interrupted comes this far
STUCK = """#!/bin/sh
case $* in */helpers/main.c*) exec sleep 1000 ;; esac
exec COMPILER "$@"
"""


def compiler(directory: Path, text: str, made: Path | None = None) -> Path:
    """A cc that is the script *text*; it keeps what it compiled in the directory *made*."""
    found = shutil.which("cc") or shutil.which("gcc")
    assert found, "a C compiler is needed"
    target = directory / "cc"
    target.write_text(text.replace("COMPILER", found).replace("MADE", str(made)))
    target.chmod(0o755)
    return target


def wheel_of(distribution: str, directory: Path) -> Path:
    """Pack an installed distribution into a wheel again (PEP 427), so that pip needs no network."""
    installed = metadata.distribution(distribution)
    tag = next(
        line.partition(": ")[2]
        for line in (installed.read_text("WHEEL") or "").splitlines()
        if line.startswith("Tag: ")
    )
    stem = f"{distribution}-{installed.version}"
    path = directory / f"{stem}-{tag}.whl"
    record = []
    with zipfile.ZipFile(path, "w") as archive:
        for file in installed.files or []:
            name = str(file)
            if name.endswith(("/RECORD", ".pyc")) or name.startswith(".."):
                continue
            data = Path(str(file.locate())).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            archive.writestr(name, data)
            record.append(f"{name},sha256={digest},{len(data)}\n")
        record.append(f"{stem}.dist-info/RECORD,,\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "".join(record))
    return path
