"""Blobs, and what becomes one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sandbox.errors import DigestError, ImageError
from sandbox.image.blobs import Blobs
from sandbox.image.digest import digest_of
from tests.support.needs import need

DATA = os.urandom(300_000)
DIGEST = digest_of(DATA)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(str(tmp_path / "store"))


def receive(blobs: Blobs, data: bytes = DATA) -> None:
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(data[ingest.offset :])
        ingest.commit()


def test_what_came_whole_has_its_name(blobs: Blobs) -> None:
    assert not blobs.has(DIGEST)
    with pytest.raises(ImageError, match="no blob"):
        blobs.open(DIGEST)
    receive(blobs)
    assert blobs.has(DIGEST)
    assert blobs.read(DIGEST, len(DATA)) == DATA
    assert (blobs.all(), blobs.partials(), blobs.size(DIGEST)) == ([DIGEST], [], len(DATA))
    with pytest.raises(ImageError, match="more than"):
        blobs.read(DIGEST, len(DATA) - 1)


def test_what_came_in_part_is_continued(blobs: Blobs) -> None:
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:1000])
    with pytest.raises(KeyboardInterrupt), blobs.ingest(DIGEST, len(DATA)) as ingest:
        assert ingest.offset == 1000
        ingest.write(DATA[1000:2000])
        raise KeyboardInterrupt
    assert len(blobs.partials()) == 1
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        assert ingest.offset == 2000
        ingest.write(DATA[2000:])
        ingest.commit()
    assert blobs.read(DIGEST, 1 << 20) == DATA


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DATA[:-1], "ends after 299999 of 300000"),
        (bytes(len(DATA)), "is another"),
        (DATA + b"x", "goes on after"),
    ],
)
def test_what_is_something_else_gets_no_name(blobs: Blobs, data: bytes, message: str) -> None:
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        with pytest.raises(DigestError, match=message):
            ingest.write(data)
            ingest.commit()
        assert ingest.offset == 0
        assert not blobs.has(DIGEST)
        ingest.write(DATA)  # the same may be tried again
        ingest.commit()
    assert blobs.has(DIGEST)


def test_nothing_is_left_of_what_was_wrong(blobs: Blobs, tmp_path: Path) -> None:
    with pytest.raises(DigestError), blobs.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(bytes(len(DATA)))
        ingest.commit()
    assert blobs.remove_partials() == 0
    assert os.listdir(tmp_path / "store/partial") == []


def test_a_longer_beginning_is_none(blobs: Blobs) -> None:
    with blobs.ingest(DIGEST, len(DATA) * 2) as ingest:
        ingest.write(DATA + b"more")
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        assert ingest.offset == 0


def test_two_at_once_share_the_work(blobs: Blobs) -> None:
    waits: list[int] = []
    seen: list[bool] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with blobs.ingest(DIGEST, len(DATA), waiting=lambda: waits.append(1)) as ingest:
            seen.append(ingest.present)

    thread = threading.Thread(target=second)
    thread.start()
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        inside.set()
        while not waits:
            ingest.write(DATA[ingest.offset : ingest.offset + 1000])
        ingest.write(DATA[ingest.offset :])
        ingest.commit()
    thread.join()
    assert seen == [True]
    assert blobs.partials() == []


def test_who_waits_may_give_up(blobs: Blobs) -> None:
    def give_up() -> None:
        raise TimeoutError

    with (
        blobs.ingest(DIGEST, len(DATA)),
        pytest.raises(TimeoutError),
        blobs.ingest(DIGEST, len(DATA), waiting=give_up),
    ):
        pass


def test_a_lock_dies_with_its_holder(blobs: Blobs, tmp_path: Path) -> None:
    program = f"""if True:
        import os
        from sandbox.image.blobs import Blobs
        from sandbox.image.digest import Digest
        with Blobs({str(tmp_path / "store")!r}).ingest(Digest({str(DIGEST)!r}), {len(DATA)}) as ingest:
            ingest.write(b"x" * 10)
            os.kill(os.getpid(), 9)
        """
    subprocess.run([sys.executable, "-c", program], check=False)
    assert blobs.partial_size() == 10
    with pytest.raises(DigestError), blobs.ingest(DIGEST, len(DATA)) as ingest:
        assert ingest.offset == 10
        ingest.write(DATA[10:])
        ingest.commit()
    receive(blobs)


def test_a_damaged_blob_is_noticed_when_it_is_read(blobs: Blobs) -> None:
    receive(blobs)
    os.chmod(blobs.path(DIGEST), 0o600)
    with open(blobs.path(DIGEST), "r+b") as file:
        file.write(b"damage")
    with pytest.raises(DigestError):
        blobs.read(DIGEST, 1 << 20)


def test_small_ones_in_one_go(blobs: Blobs) -> None:
    digest = blobs.put(b"{}")
    assert blobs.put(b"{}") == digest
    assert blobs.read(digest, 10) == b"{}"
    assert blobs.put(b"") == digest_of(b"")
    assert blobs.read(digest_of(b""), 10) == b""


def test_what_a_maker_that_was_killed_left_is_gone_with_the_next(blobs: Blobs, tmp_path: Path) -> None:
    left = tmp_path / "store/partial/new-0011223344556677"
    with blobs.create() as going_on:
        left.write_bytes(b"half")
        blobs.put(b"another")
        assert not left.exists()
        going_on.write(b"all")
        assert blobs.has(going_on.commit())
    assert os.listdir(tmp_path / "store/partial") == []


def test_a_full_disk(tmp_path: Path) -> None:
    """A tmpfs of a megabyte: what fits stays, and is gone on with when there is room."""
    need("userns", "plain user")
    program = f"""if True:
        import os, sys
        sys.path.insert(0, {os.getcwd()!r})
        from sandbox.errors import ImageError
        from sandbox.image.digest import digest_of
        from sandbox.image.store import Store
        store = Store(sys.argv[1] + "/store")
        data = os.urandom(900_000)
        filler = sys.argv[1] + "/filler"
        open(filler, "wb").write(bytes(500_000))
        try:
            with store.ingest(digest_of(data), len(data)) as ingest: ingest.write(data)
        except OSError as error: print(error.strerror, 0 < ingest.offset < len(data))
        try: store.put_blob(os.urandom(300_000))
        except ImageError as error: print(error)
        os.unlink(filler)
        with store.ingest(digest_of(data), len(data)) as ingest:
            print(ingest.offset > 0)
            ingest.write(data[ingest.offset:])
            ingest.commit()
        print(len(store.blobs.all()), len(store.blobs.partials()))
        """
    command = 'mount -t tmpfs -o size=1m none "$0" && exec "$@" "$0"'
    argv = ["unshare", "-Urm", "sh", "-c", command, tmp_path, sys.executable, "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "No space left on device True",
        f"cannot store a blob: No space left on device ({tmp_path}/store/partial)",
        "  mend: free some space: sandbox image prune, or sandbox image prune --unpacked",
        "True",
        "1 0",
    ], done.stderr
