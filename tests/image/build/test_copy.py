"""COPY, ADD and WORKDIR: where files come to lie, and whose they are; docker's documentation is the judge."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.errors import BuildError, SandboxError
from tests.image.build.conftest import Build
from tests.image.layer.archives import archive, directory, file, symlink
from tests.image.stored import put_image

pytestmark = pytest.mark.integration

FILES = {"a": "A", "b": "B", "d/x": "X", "d/y/z": "Z", "d/y/w.md": "W", "e/x": "other"}
BASE = [
    directory("etc"),
    file("etc/passwd", b"root:x:0:0::/:/bin/sh\nbin:x:2:3::/bin:/bin/sh\n"),
    file("etc/group", b"root:x:0:\nstaff:x:50:\n"),
    directory("usr"),
    directory("usr/lib", mode=0o755),
    symlink("lib", "usr/lib"),
    symlink("abs", "/usr/lib"),
    directory("tmp", mode=0o1777),
    directory("there", uid=7, mode=0o700),
    file("there/old", b"old"),
    symlink("out", "../../../../usr/lib"),
    symlink("loop", "loop"),
    file("plain", b"plain"),
]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("COPY a /x", ["x"]),
        ("COPY a /x/", ["x", "x/a"]),
        ("COPY a /", ["a"]),
        ("COPY a .", ["a"]),
        ("COPY a b /x/", ["x", "x/a", "x/b"]),
        ("COPY d /x", ["x", "x/x", "x/y", "x/y/w.md", "x/y/z"]),
        ("COPY d /x/", ["x", "x/x", "x/y", "x/y/w.md", "x/y/z"]),
        ("COPY d/ /x", ["x", "x/x", "x/y", "x/y/w.md", "x/y/z"]),
        ("COPY d e /x/", ["x", "x/x", "x/y", "x/y/w.md", "x/y/z"]),
        ("COPY d/x a /x/y/", ["x", "x/y", "x/y/a", "x/y/x"]),
        ("COPY [ab] /x/", ["x", "x/a", "x/b"]),
        ("COPY ? /x/", ["x", "x/a", "x/b", "x/x", "x/y", "x/y/w.md", "x/y/z"]),
        ("COPY d/*/z /x", ["x"]),
        ("COPY a none* /x/", ["x", "x/a"]),
        ('COPY ["a", "/x y"]', ["x y"]),
        ("COPY --exclude=**/*.md d /x", ["x", "x/x", "x/y", "x/y/z"]),
        ("COPY --parents d/y/z a /x/", ["x", "x/a", "x/d", "x/d/y", "x/d/y/z"]),
        ("COPY /d/../a /x", ["x"]),
        ("WORKDIR /w/v\nCOPY a ./", ["w", "w/v", "w/v/a"]),
        ("WORKDIR /w\nWORKDIR v\nCOPY a u", ["w", "w/v", "w/v/u"]),
        ("ENV D=/q\nCOPY a $D/", ["q", "q/a"]),
        ("COPY <<f /x\nhi\nf", ["x"]),
        ("COPY <<f a /x/\nhi\nf", ["x", "x/a", "x/f"]),
    ],
)
def test_names(build: Build, line: str, expected: list[str]) -> None:
    build.write(FILES)
    assert sorted(build.tree(build(f"FROM scratch\n{line}\n"))) == expected


def test_a_repository_that_is_here(build: Build) -> None:
    """A name with an end that URLs of repositories have is a name like any other."""
    build.write({"a.git/HEAD": "ref"})
    assert sorted(build.tree(build("FROM scratch\nCOPY a.git /a.git\n"))) == ["a.git", "a.git/HEAD"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("COPY a /lib/", "usr/lib/a"),
        ("COPY a /lib", "usr/lib/a"),
        ("COPY a /abs/x", "usr/lib/x"),
        ("COPY a /out/x", "usr/lib/x"),
        ("COPY a /there", "there/a"),
        ("COPY a /there/old", "there/old"),
        ("COPY a /lib/../n", "usr/n"),
        ("WORKDIR /lib/w\nCOPY a .", "usr/lib/w/a"),
        ("COPY a /plain", "plain"),
    ],
)
def test_names_in_an_image_with_links(build: Build, line: str, name: str) -> None:
    put_image(build.store, "base:1", [BASE])
    build.write(FILES)
    image = build(f"FROM base:1\n{line}\n")
    assert build.read(image, name) == b"A"
    tree = build.tree(image)
    assert tree["lib"].issym()
    assert tree["abs"].issym()
    assert (tree["there"].uid, tree["there"].mode) == (7, 0o700), "a directory that was there stays as it is"
    assert tree["tmp"].mode == 0o1777


def test_owners_and_modes(build: Build) -> None:
    put_image(build.store, "base:1", [BASE])
    build.write(FILES)
    (build.context / "a").chmod(0o750)
    image = build(
        "FROM base:1\nARG O=staff\nCOPY a /1\nCOPY --chown=5:6 a /2\nCOPY --chown=bin a /3\n"
        "COPY --chown=bin:$O --chmod=0604 d /new/4\nCOPY --chown=9 a /5\n"
    )
    tree = build.tree(image)
    owners = {
        name: (tree[name].uid, tree[name].gid) for name in ("1", "2", "3", "new", "new/4", "new/4/x", "5")
    }
    assert owners == {
        "1": (0, 0),
        "2": (5, 6),
        "3": (2, 3),
        "new": (2, 50),
        "new/4": (2, 50),
        "new/4/x": (2, 50),
        "5": (9, 9),
    }
    assert tree["1"].mode == 0o750
    assert tree["new/4/x"].mode == 0o604


def test_links_stay_and_sources_that_are_links_are_followed(build: Build) -> None:
    build.write({"d/file": "F"})
    (build.context / "d/link").symlink_to("/etc/passwd")
    (build.context / "to").symlink_to("d")
    (build.context / "f").symlink_to("d/file")
    image = build("FROM scratch\nCOPY d /d\nCOPY to /t\nCOPY f /f\n")
    tree = build.tree(image)
    assert tree["d/link"].linkname == tree["t/link"].linkname == "/etc/passwd"
    assert tree["f"].isfile()
    assert build.read(image, "f") == b"F"


def test_between_stages_owners_stay(build: Build) -> None:
    build.write(FILES)
    image = build(
        "FROM scratch AS one\nCOPY --chown=3:4 d /s/d\nFROM scratch\n"
        "COPY --from=one /s/d /1\nCOPY --from=0 /s/d/x /2\nCOPY --from=one --chown=5:6 /s/d/y/* /3/\n"
    )
    tree = build.tree(image)
    assert (tree["1/x"].uid, tree["1/x"].gid) == (3, 4)
    assert tree["2"].isfile()
    assert sorted(name for name in tree if name.startswith("3")) == ["3", "3/w.md", "3/z"]
    assert tree["3/z"].uid == 5


def test_from_an_image(build: Build) -> None:
    put_image(build.store, "base:1", [BASE])
    image = build("FROM scratch\nCOPY --from=base:1 /lib /l\nCOPY --from=base:1 /etc/pass* /x\n")
    assert build.tree(image)["l"].isdir(), "a link within the image is followed there"
    assert build.read(image, "x").startswith(b"root:")


def test_only_what_is_needed_is_built(build: Build) -> None:
    build.write(FILES)
    build(
        "FROM scratch AS a\nCOPY a /\nFROM scratch AS b\nCOPY nothing /\nFROM a AS c\nCOPY b /\nFROM b\n",
        target="c",
    )
    assert build.told.ran == ["COPY a /", "COPY b /"]


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_archives_are_taken_apart(build: Build, squeeze: Callable[[bytes], bytes]) -> None:
    data = archive(directory("q", uid=5, mode=0o711), file("q/f", b"in", uid=5), symlink("s", "q"))
    build.write({"a.tar.x": squeeze(data), "plain": "P"})
    image = build("FROM scratch\nADD a.tar.x plain /to/\nCOPY a.tar.x /copied\nADD a.tar.x /as\n")
    tree = build.tree(image)
    assert sorted(tree) == [
        "as",
        "as/q",
        "as/q/f",
        "as/s",
        "copied",
        "to",
        "to/plain",
        "to/q",
        "to/q/f",
        "to/s",
    ]
    assert (tree["to/q"].uid, tree["to/q"].mode) == (5, 0o711)
    assert tree["copied"].size == len(squeeze(data))


def test_what_only_begins_like_an_archive_is_copied(build: Build) -> None:
    packed = gzip.compress(os.urandom(3_000_000))
    build.write({"f.gz": packed, "g.gz": b"\x1f\x8bnothing"})
    image = build("FROM scratch\nADD f.gz g.gz /to/\nADD f.gz /one\n")
    assert build.read(image, "to/f.gz") == packed
    assert build.read(image, "one") == packed
    assert build.read(image, "to/g.gz") == b"\x1f\x8bnothing"


def test_an_archive_over_links_of_the_image(build: Build) -> None:
    put_image(build.store, "base:1", [BASE])
    build.write({"a.tar": archive(file("lib/new", b"N"), file("there/more", b"M"))})
    image = build("FROM base:1\nADD a.tar /\n")
    assert build.read(image, "usr/lib/new") == b"N"
    assert build.tree(image)["there"].mode == 0o700


# --- ignore files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ignore", "expected"),
    [
        ("", ["a", "b", "d", "d/x", "d/y", "d/y/w.md", "d/y/z", "e", "e/x"]),
        ("d", ["a", "b", "e", "e/x"]),
        ("/d/\n# e\n", ["a", "b", "e", "e/x"]),
        ("**/x", ["a", "b", "d", "d/y", "d/y/w.md", "d/y/z", "e"]),
        ("*", []),
        ("*\n!a", ["a"]),
        ("*\n!d/y/z", ["d", "d/y", "d/y/z"]),
        ("d\n!d/y\nd/y/w.md", ["a", "b", "d", "d/y", "d/y/z", "e", "e/x"]),
        ("**/*.md\n*/x", ["a", "b", "d", "d/y", "d/y/z", "e"]),
        ("?", []),
        ("[a-b]\n", ["d", "d/x", "d/y", "d/y/w.md", "d/y/z", "e", "e/x"]),
        ("d/**\n", ["a", "b", "d", "e", "e/x"]),
        ("d/**/z\n", ["a", "b", "d", "d/x", "d/y", "d/y/w.md", "e", "e/x"]),
        ("./d/../e\n", ["a", "b", "d", "d/x", "d/y", "d/y/w.md", "d/y/z"]),
    ],
)
def test_ignored(build: Build, ignore: str, expected: list[str]) -> None:
    build.write(FILES)
    tree = build.tree(build("FROM scratch\nCOPY . /\n", ignore=f".dockerignore\n{ignore}"))
    assert sorted(tree) == expected


def test_what_is_ignored_can_not_be_named(build: Build) -> None:
    build.write(FILES)
    with pytest.raises(
        BuildError, match=r"file:2:1: there is no a in the context \(an ignore file leaves it out"
    ):
        build("FROM scratch\nCOPY a /\n", ignore="a")
    assert sorted(build.tree(build("FROM scratch\nCOPY [ab] /\n", ignore="a"))) == ["b"]


def test_a_wrong_pattern_is_shown(build: Build) -> None:
    with pytest.raises(BuildError, match=r"^\.dockerignore:2:1: .*'\[' at 2"):
        build("FROM scratch\n", ignore="a\nb[\n")


# --- mistakes, and worse ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("COPY ../x /", "lies outside the context"),
        ("COPY d/../../x /", "lies outside the context"),
        ("COPY nothing /", "there is no nothing"),
        ("COPY nothing* /", "nothing in the context matches"),
        ("COPY a b /x", "ends with a slash"),
        ("COPY out /", "leads out of the context"),
        ("COPY up /", "leads out of the context"),
        ("COPY up* /", "leads out of the context"),
        ("COPY loop /", "too many links"),
        ("COPY a /plain/x", "plain in the image is no directory"),
        ("COPY a /plain/", "no directory"),
        ("COPY d /plain", "no directory"),
        ("COPY a /loop/x", "too many links"),
        ("COPY conflict /there", "would be a file"),
        ("COPY --chown=nobody a /", "has no user nobody"),
        ("COPY --chown=0:none a /", "has no group none"),
        ("COPY --chmod=u+x a /", "octal"),
        ("COPY --from=base:1 ../x /", "lies outside base:1"),
        ("COPY --from=base:1 /none /", "there is no /none"),
        ("COPY --from=nothing:1 / /", "there is no image nothing:1"),
        ("COPY --from=0 / /", "--from=0 means a stage, and there is none of that number: this is the first"),
        ("COPY --from=7 / /", "--from=7 means a stage, and there is none of that number: this is the first"),
        ("COPY pipe/dev /", "there is no"),
        ("COPY wh /", r"no layer can have a file named \.wh\.x"),
        ("ADD https://example.com/x /", "not available"),
        ("ADD traversal.tar /t", "leads out"),
        ("ADD device.tar /t", "is a device"),
        ("ADD whiteout.tar /", r"named \.wh\.etc"),
        ("ADD cut.tar /t", "ends in the middle"),
        ("COPY [ /", "not closed"),
        ("COPY secret /", "Permission denied"),
        ("COPY x$(id) /", "there is no"),
        ("WORKDIR /plain/w", "no directory"),
        ("COPY a ${N:?say}", "N: say"),
        ("EXPOSE 70000", "no port"),
        ("STOPSIGNAL a b", "no signal"),
        ("ENV A==\nENV ${A}=x", "no name"),
    ],
)
def test_refused(build: Build, line: str, message: str) -> None:
    put_image(build.store, "base:1", [BASE])
    device = tarfile.TarInfo("dev")
    device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        tar.addfile(device)
    build.write(
        {
            **FILES,
            "conflict/old/x": "",
            "wh/.wh.x": "",
            "secret": "",
            "traversal.tar": archive(file("../../x", b"")),
            "device.tar": made.getvalue(),
            "whiteout.tar": archive(file(".wh.etc", b"")),
            "cut.tar": archive(file("x", b"1" * 5000))[:2000],
        }
    )
    (build.context / "secret").chmod(0)
    (build.context / "out").symlink_to("/etc/passwd")
    (build.context / "up").symlink_to("../../etc")
    (build.context / "loop").symlink_to("loop")
    if "conflict" in line:
        (build.context / "conflict/old").rename(build.context / "conflict/dir")
        build.write({"conflict/old": ""})
        put_image(build.store, "base:1", [[*BASE[:-1], directory("there/old")]])
    with pytest.raises(SandboxError, match=message) as caught:
        build(f"FROM base:1\n{line}\n")
    assert caught.value.message.startswith(("file:2:", "file:3:")), "it says which step"
    assert build.store.get_ref("built:latest") is None


def test_context_with_odd_files(build: Build) -> None:
    build.write({"\udcff\n": "odd", "n/" * 60 + "deep": "D"})
    os.mkfifo(build.context / "pipe")
    image = build("FROM scratch\nCOPY . /\n")
    tree = build.tree(image)
    assert tree["pipe"].isfifo()
    assert "\udcff\n" in tree
    assert any(name.endswith("/deep") for name in tree)


def test_a_file_that_changes_meanwhile(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was hashed is what is sent: else the key would stand for another content."""
    from sandbox.image.build.context import Context

    build.write(FILES)
    take = Context.take

    def changing(self: Context, *words: object, **more: object) -> object:
        taken = take(self, *words, **more)  # type: ignore[arg-type]
        build.write({"a": "B"})
        return taken

    monkeypatch.setattr(Context, "take", changing)
    with pytest.raises(BuildError, match="changed while it was read"):
        build("FROM scratch\nCOPY a /\n")


def test_a_link_that_takes_a_files_place_meanwhile(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.image.build.context import Context

    build.write(FILES)
    take = Context.take

    def changing(self: Context, *words: object, **more: object) -> object:
        taken = take(self, *words, **more)  # type: ignore[arg-type]
        (build.context / "d").rename(build.context / "was")
        (build.context / "d").symlink_to("/etc")
        return taken

    monkeypatch.setattr(Context, "take", changing)
    assert build.read(build("FROM scratch\nCOPY d/x /\n"), "x") == b"X", "the directory is open all the while"


def test_judges(build: Build, judged: Callable[[object], Path]) -> None:
    build.write(FILES)
    (build.context / "d/link").symlink_to("x")
    image = build(
        "FROM scratch\nCOPY . /\nENV A=1\nLABEL l=2\nEXPOSE 80\nVOLUME /v\nWORKDIR /w\nUSER 5\n"
        'CMD ["x"]\nENTRYPOINT ["y"]\nSTOPSIGNAL SIGINT\nHEALTHCHECK NONE\n',
        tag="judged",
    )
    root = judged(image)
    assert (root / "d/y/z").read_text() == "Z"
    assert stat.S_ISLNK((root / "d/link").lstat().st_mode)
    config = image.config.config
    assert (config.cmd, config.entrypoint) == (("x",), ("y",))
