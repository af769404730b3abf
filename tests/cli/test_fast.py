"""The fast path: what it reads, whom it trusts, and that it agrees with the parts it replaces."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import owners, paths, wire
from sandbox.cli import cache, fast
from sandbox.cli.run import build_parser
from sandbox.launch import scratch
from sandbox.plan.plan import FileStamp

ROOT = Path(paths.__file__).parent.parent

text = st.text(st.characters(blacklist_characters="\0", blacklist_categories=()), max_size=20).filter(
    lambda value: value == os.fsdecode(os.fsencode(value)) if _encodable(value) else False
)
integer = st.integers(-(2**63), 2**63 - 1)


def _encodable(value: str) -> bool:
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


@given(
    st.lists(st.tuples(st.integers(1, 99), st.lists(text | integer, max_size=4).map(tuple)), max_size=5),
    st.lists(st.lists(text, max_size=3), max_size=3),
)
def test_extend_is_wires(records: list[tuple[int, tuple[str | int, ...]]], before: list[list[str]]) -> None:
    plan = wire.encode(wire.Record(3, "describe", "origin", tuple(fields)) for fields in before)
    expected = wire.extend(plan, [wire.Record(kind, "", "", fields) for kind, fields in records])
    assert fast.extend(plan, records) == expected


def test_the_slots_are_wires() -> None:
    kinds = wire.Kind
    slots = (kinds.ENVIRONMENT, kinds.ARGV, kinds.REPORT, kinds.VERBOSITY, kinds.DIAGNOSE, kinds.SCRATCH)
    assert slots == (
        fast._ENVIRONMENT,
        fast._ARGV,
        fast._REPORT,
        fast._VERBOSITY,
        fast._DIAGNOSE,
        fast._SCRATCH,
    )


def test_the_options_are_the_parsers() -> None:
    assert build_parser().flags_and_valued() == (fast.FLAGS, fast.VALUED)


@pytest.mark.parametrize(
    ("words", "options", "command"),
    [
        ([], [], []),
        (["ls", "-l"], [], ["ls", "-l"]),
        (["--", "--bind"], [], ["--bind"]),
        (["-p", "x", "ls", "--", "y"], ["-p", "x"], ["ls", "--", "y"]),
        (["-px", "--memory=1M", "-it", "-q", "--", "ls"], ["-px", "--memory=1M", "-it", "-q"], ["ls"]),
        (["-e", "-x", "ls"], ["-e", "-x"], ["ls"]),
        (["-m"], ["-m"], []),
        (["-"], [], ["-"]),
        (["", "x"], [], ["", "x"]),
    ],
)
def test_split(words: list[str], options: list[str], command: list[str]) -> None:
    assert fast.split(words) == (options, command)


@pytest.mark.parametrize(
    ("words", "unknown"), [(["--memroy", "1"], "--memroy"), (["-Z"], "-Z"), (["--quiet=1"], "--quiet=1")]
)
def test_split_names_what_it_does_not_know(words: list[str], unknown: str) -> None:
    assert fast.split(words) == unknown


@pytest.mark.parametrize(
    ("options", "verbosity", "report"),
    [
        ([], 1, ""),
        (["-q"], 0, ""),
        (["--verbose", "--report", "x"], 2, "x"),
        (["--report=fd:3", "-p", "-q"], 1, "fd:3"),
        (["-p", "--report", "--pids", "3"], 1, ""),
    ],
)
def test_call_of(options: list[str], verbosity: int, report: str) -> None:
    call = fast.call_of(options)
    assert call is not None
    assert (call.verbosity, call.report) == (verbosity, report)


@pytest.mark.parametrize("option", ["--dry-run", "--help", "-h", "--name=x", "--keep", "-d"])
def test_what_is_not_for_the_fast_path(option: str) -> None:
    assert fast.call_of([option]) is None


def test_directories_are_those_of_paths(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast.cache_directory() == paths.cache_dir() + "/plans"
    assert paths.helper() == fast.HELPER
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert fast.cache_directory() == paths.cache_dir() + "/plans"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert fast.cache_directory() == paths.cache_dir() + "/plans"
    monkeypatch.delenv("HOME")
    assert fast.cache_directory() == ""


def test_stamps_are_the_plans(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    for path in (tmp_path, *(tmp_path / name for name in ("file", "link", "dangling", "missing", "file/x"))):
        for entries in (False, True):
            assert fast.stamp(str(path), entries) == tuple(FileStamp.take(str(path), entries=entries))


def entry(**changes: object) -> fast.Entry:
    made = fast.Entry()
    made.key = ("key", 1)
    made.names, made.prefixes, made.present = ("LANG",), ("LC_",), ()
    made.environment = (("A", "1"), ("LANG", None))
    made.stamps, made.plan, made.command, made.scratch, made.cgroup = (), b"plan", ("true",), "", ""
    made.entrypoint = made.leases = ()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def same(one: fast.Entry | None, other: fast.Entry) -> bool:
    return one is not None and one.pack() == other.pack()


def test_what_is_stored_is_read(tmp_path: Path) -> None:
    directory = tmp_path / "cache" / "plans"
    cache.store(entry(), str(directory))
    assert same(fast.read(str(directory), fast.file_name(("key", 1))), entry())
    assert fast.read(str(directory), fast.file_name(("key", 2))) is None
    assert fast.read(str(tmp_path / "nowhere"), "x") is None
    (file,) = directory.iterdir()
    assert (directory.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)


def test_the_cache_stays_small(tmp_path: Path) -> None:
    for number in range(cache.MAX_ENTRIES + 10):
        cache.store(entry(key=(number,)), str(tmp_path / "plans"))
    assert len(list((tmp_path / "plans").iterdir())) == cache.MAX_ENTRIES
    assert fast.read(str(tmp_path / "plans"), fast.file_name((cache.MAX_ENTRIES + 9,))) is not None
    assert fast.read(str(tmp_path / "plans"), fast.file_name((0,))) is None


def test_what_cannot_be_stored_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache.store(entry(), str(tmp_path / "file" / "plans"))
    cache.store(entry(), "")
    cache.store(entry(plan=bytes(fast.MAX_ENTRY)), str(tmp_path / "plans"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A cache with an entry that would be believed."""
    cache.store(entry(), str(tmp_path / "plans"))
    assert fast.read(str(tmp_path / "plans"), fast.file_name(("key", 1))) is not None
    return tmp_path / "plans" / fast.file_name(("key", 1))


def test_an_entry_that_others_may_write_is_not_believed(stored: Path) -> None:
    for mode in (0o620, 0o602, 0o640, 0o604):
        stored.chmod(mode)
        assert fast.read(str(stored.parent), stored.name) is None


def test_a_directory_that_is_open_to_others_is_not_believed(stored: Path) -> None:
    for mode in (0o720, 0o702, 0o755):
        stored.parent.chmod(mode)
        assert fast.read(str(stored.parent), stored.name) is None


def test_links_are_not_followed(stored: Path, tmp_path: Path) -> None:
    real = stored.rename(stored.parent / "real")
    stored.symlink_to(real)
    with pytest.raises(OSError, match="symbolic links"):
        fast.read(str(stored.parent), stored.name)
    (tmp_path / "link").symlink_to("plans")
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        fast.read(str(tmp_path / "link"), "real")


def test_a_pipe_in_place_of_an_entry_does_not_block(stored: Path) -> None:
    stored.unlink()
    os.mkfifo(stored, 0o600)
    assert fast.read(str(stored.parent), stored.name) is None


@pytest.mark.as_root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_entry_is_not_believed(stored: Path) -> None:
    os.chown(stored, 12345, -1)
    assert fast.read(str(stored.parent), stored.name) is None
    os.chown(stored, 0, -1)
    os.chown(stored.parent, 12345, -1)
    assert fast.read(str(stored.parent), stored.name) is None


def test_garbage_is_not_believed(stored: Path) -> None:
    for data in (b"", b"\xff" * 10, entry().pack()[:-1]):
        stored.write_bytes(data)
        with contextlib.suppress(ValueError, EOFError, TypeError):  # any makes entry.main() go the slow path
            assert fast.read(str(stored.parent), stored.name) is None


def test_an_entry_ends_with_what_it_was_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name == "LANG" or name.startswith("LC_"):
            monkeypatch.delenv(name)
    file, missing = tmp_path / "file", tmp_path / "missing"
    file.write_text("x")
    made = entry(stamps=tuple(fast.stamp(str(path)) for path in (file, missing, tmp_path)))
    assert fast.current(made)
    monkeypatch.setenv("LC_ALL", "C")
    assert not fast.current(made)
    monkeypatch.delenv("LC_ALL")
    missing.write_text("")
    assert not fast.current(made)
    missing.unlink()
    assert fast.current(made)
    file.write_text("xy")
    assert not fast.current(made)


def test_the_key_tells_calls_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = fast.key_of(["-p", "x"])
    assert fast.key_of(["-p", "x"]) == first
    assert fast.key_of(["-p", "y"]) != first
    assert fast.key_of(["-px"]) != first
    monkeypatch.setenv("XDG_CONFIG_HOME", "/elsewhere")
    assert fast.key_of(["-p", "x"]) != first
    monkeypatch.undo()
    monkeypatch.chdir("/")
    assert fast.key_of(["-p", "x"]) != first
    # The same path, but another directory.
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path / "d")
    first = fast.key_of([])
    (tmp_path / "d").rename(tmp_path / "e")
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path / "d")
    assert fast.key_of([]) != first


@pytest.mark.parametrize("name", fast.INFLUENCES)
def test_the_key_has_each_variable_that_influences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name, raising=False)
    without = fast.key_of([])
    monkeypatch.setenv(name, "/x")
    assert fast.key_of([]) != without


KEY = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; from sandbox.cli import fast; print(fast.key_of([]))"


def key_under(*wrapper: str) -> str:
    """The key of a process that is made the same way but for what *wrapper* changes."""
    done = subprocess.run([*wrapper, sys.executable, "-c", KEY], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    "wrapper",
    [
        ["prlimit", "--nofile=99:99"],
        ["nice", "-n", "3"],
        ["setpriv", "--no-new-privs"],
        ["unshare", "--user", "--map-current-user"],
        ["unshare", "--user", "--map-root-user", "--mount"],
        ["unshare", "--user", "--map-root-user", "setpriv", "--bounding-set", "-sys_admin"],
    ],
    ids=" ".join,
)
def test_the_key_tells_processes_apart(wrapper: list[str]) -> None:
    assert key_under() == key_under()
    assert key_under(*wrapper) != key_under()


@pytest.mark.as_root
@pytest.mark.parametrize("option", ["--groups=12345", "--regid=12345", "--reuid=12345"])
def test_the_key_tells_groups_apart(option: str, need: Callable[..., None]) -> None:
    need("root")
    groups = [] if option.startswith("--groups") else ["--clear-groups"]
    assert key_under("setpriv", option, *groups) != key_under("setpriv", "--clear-groups")


def test_names_of_files_are_stable_and_harmless() -> None:
    name = fast.file_name(("a", "\udcff", b"\0", None))
    assert name == fast.file_name(("a", "\udcff", b"\0", None))
    assert name.isalnum()


def test_memory_file_is_above_the_standard_descriptors() -> None:
    fd = fast.memory_file(b"x" * 100_000)
    try:
        assert fd > 2
        assert os.get_inheritable(fd)
        assert os.read(fd, 200_000) == b"x" * 100_000
    finally:
        os.close(fd)


def test_scratch_directories_say_whose_they_are(tmp_path: Path, tmp_home: Path) -> None:
    parent = tmp_path / "scratch"
    parent.mkdir()
    name = os.path.basename(fast.make_scratch(str(parent)))
    assert name.rpartition("-")[0] == os.path.basename(scratch.make()).rpartition("-")[0]
    assert not fast._has_leftovers(str(parent))
    here = owners.place()
    foreign = f"{here + 1}-999999999-1-x"  # whether that one lives can't be seen from here
    (parent / foreign).mkdir()
    assert not fast._has_leftovers(str(parent))
    (parent / f"{here}-999999999-1-x" / "work" / "work").mkdir(parents=True)
    (parent / f"{here}-999999999-1-x" / "work" / "work").chmod(0)
    (parent / f"{here}-{os.getpid()}-1-x").mkdir()  # the number was used again
    assert fast._has_leftovers(str(parent))
    scratch.sweep(str(parent))
    assert sorted(os.listdir(parent)) == sorted([name, foreign])
