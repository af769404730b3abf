"""What a registry can send, and how slowly: it gets an error, and not our memory or our time."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox.errors import DigestError, ImageError, RegistryError
from sandbox.image.config import Host
from sandbox.image.manifest import MANIFEST_LIMIT
from sandbox.image.pull import pull
from sandbox.image.reference import parse_reference
from sandbox.image.registry.connection import is_near
from sandbox.image.registry.transport import origin_of
from sandbox.image.transfer import Options
from tests.image.images import DirectoryStore, Made, image, noise
from tests.image.scripted import Exchange, Scripted, replying

Make = Callable[..., Options]


@pytest.fixture
def made() -> Made:
    return image({"a": noise(300_000)})


@pytest.fixture
def fails(hostile: Scripted, options: Make, image_store: DirectoryStore) -> Callable[..., ImageError]:
    """Pull "x" and expect an error that says the given thing; nothing may have got a name."""

    def run(said: str, kind: type[ImageError] = ImageError, **settings: Any) -> ImageError:
        with pytest.raises(kind, match=said) as caught:
            pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name, **settings))
        assert not list(image_store.refs.iterdir())
        assert len(caught.value.message) < 1500
        assert caught.value.message.isprintable()
        return caught.value

    return run


MANIFEST = "GET /v2/x/manifests/latest"


#: For a client that reads all that comes: what an endless answer has.
ENDLESS = 300 << 20


def endless(exchange: Exchange, header: str, piece: bytes) -> None:
    """Send *piece* for as long as somebody reads, or nearly."""
    exchange.close_connection = True
    exchange.wfile.write(f"HTTP/1.1 200 OK\r\n{header}\r\n".encode())
    pieces = piece * (65536 // len(piece) + 1)
    for _ in range(ENDLESS // len(pieces)):
        exchange.wfile.write(pieces)
    exchange.registry.seen.extend([exchange.registry.seen[0]] * 1000)  # nobody stopped us


@pytest.mark.parametrize(
    ("header", "piece", "said"),
    [
        ("", b"x" * 65536, "sends more than"),
        ("Transfer-Encoding: chunked\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n", "sends more than"),
        ("Transfer-Encoding: chunked\r\n", b"1;" + b"e" * 60000 + b"\r\nx\r\n", "sends more than"),
        ("Transfer-Encoding: chunked\r\n\r\n0\r\nX: y", b"Trailer: x\r\n", "sends more than"),
        (f"Content-Length: {MANIFEST_LIMIT + 1}\r\n", b"x" * 65536, "announces"),
        ("Content-Length: 1" + "0" * 4000 + "\r\n", b"x" * 65536, "sends more than|broke off"),
        ("Content-Encoding: gzip\r\n", gzip.compress(b"\0" * 10_000_000), "sends more than"),
    ],
)
def test_an_endless_manifest(
    hostile: Scripted, fails: Callable[..., ImageError], header: str, piece: bytes, said: str
) -> None:
    hostile.on(MANIFEST, lambda exchange: endless(exchange, header, piece))
    fails(said, RegistryError)
    assert len(hostile.seen) <= 3


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 1000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"x" * 65536),
        (b"HTTP/1.1 200 ", b"y" * 65536),
    ],
)
def test_an_endless_header(
    hostile: Scripted, fails: Callable[..., ImageError], begin: bytes, piece: bytes
) -> None:
    def act(exchange: Exchange) -> None:
        exchange.close_connection = True
        exchange.wfile.write(begin)
        while True:
            exchange.wfile.write(piece)

    hostile.on(MANIFEST, act)
    fails("broke off|sends more than", RegistryError)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 206 Partial\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 418 \x1b[31mteapot\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 400 No\r\nContent-Length: 44\r\n\r\n"
        + b'{"errors":[{"message":"\\u001b]0;title\\u0007"}]}',
        b"HTTP/1.1 400 No\r\nContent-Length: 5\r\n\r\n[[[[[",
    ],
)
def test_nonsense(hostile: Scripted, fails: Callable[..., ImageError], answer: bytes) -> None:
    hostile.on(MANIFEST, lambda exchange: exchange.raw(answer))
    fails(".")
    assert len(hostile.seen) <= 3


def trickle(exchange: Exchange, begin: bytes, piece: bytes) -> None:
    """Send *piece* again and again, slowly, for as long as somebody reads, or nearly."""
    exchange.close_connection = True
    exchange.wfile.write(begin)
    for _ in range(100):
        exchange.wfile.write(piece)
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"", b""),  # nothing comes
        (b"HTTP/1.1 200 OK\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"T: x\r\n"),
    ],
)
def test_slowness(hostile: Scripted, fails: Callable[..., ImageError], begin: bytes, piece: bytes) -> None:
    def act(exchange: Exchange) -> None:
        if not piece:
            exchange.wfile.write(begin)
            exchange.rfile.read(1)  # until the client has had enough
            exchange.close_connection = True
            return
        trickle(exchange, begin, piece)

    hostile.on(MANIFEST, act)
    fails("takes too long", RegistryError)


def test_a_slow_layer(hostile: Scripted, fails: Callable[..., ImageError], made: Made) -> None:
    """Faster than a timeout of the socket would notice, and too slow all the same."""
    layer = made.layers[0]
    hostile.serve(made)
    begin = f"HTTP/1.1 200 OK\r\nContent-Length: {layer.size}\r\n\r\n".encode()
    hostile.on(f"GET /v2/x/blobs/{layer.digest}", lambda exchange: trickle(exchange, begin, b"x" * 10))
    fails("takes too long: it sends too slowly", RegistryError)


# --- blobs of other sizes and contents ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-1], "bytes are announced"),
        (lambda data: data + b"x", "bytes are announced"),
        (lambda data: b"", "bytes are announced"),
        (lambda data: b"x" + data[1:], "not what came"),
    ],
)
def test_another_layer(
    hostile: Scripted,
    fails: Callable[..., ImageError],
    image_store: DirectoryStore,
    made: Made,
    change: Callable[[bytes], bytes],
    said: str,
) -> None:
    layer = made.layers[0]
    hostile.serve(made)
    hostile.on(f"GET /v2/x/blobs/{layer.digest}", replying(change(made.blobs[layer.digest])))
    fails(said)
    assert not image_store.has_blob(layer.digest)


@pytest.mark.parametrize("less", [True, False])
def test_a_layer_of_unannounced_length(
    hostile: Scripted,
    fails: Callable[..., ImageError],
    image_store: DirectoryStore,
    made: Made,
    less: bool,
) -> None:
    layer = made.layers[0]
    data = made.blobs[layer.digest]
    hostile.serve(made)

    def act(exchange: Exchange) -> None:
        exchange.raw(b"HTTP/1.1 200 OK\r\n\r\n" + (data[:1000] if less else data + b"x" * 100_000))

    hostile.on(f"GET /v2/x/blobs/{layer.digest}", act)
    fails(f"ends after 1000 of {layer.size}" if less else "sends more than")
    assert not image_store.has_blob(layer.digest)


@pytest.mark.parametrize("which", ["config", "layer"])
def test_compressed_on_the_way(
    hostile: Scripted, fails: Callable[..., ImageError], made: Made, which: str
) -> None:
    """A bomb, and the reason is told."""
    blob = made.config if which == "config" else made.layers[0]
    hostile.serve(made)
    bomb = gzip.compress(b"\0" * 50_000_000)
    hostile.on(f"GET /v2/x/blobs/{blob.digest}", replying(bomb, Content_Encoding="gzip"))
    fails("compressed it on the way" if which == "layer" else "announces")


@pytest.mark.parametrize("blob", ["config", "manifest"])
def test_other_content_of_the_same_size(
    hostile: Scripted, fails: Callable[..., ImageError], made: Made, blob: str
) -> None:
    hostile.serve(made)
    if blob == "config":
        data = made.blobs[made.config.digest].replace(b"/hello", b"/jello")
        hostile.on(f"GET /v2/x/blobs/{made.config.digest}", replying(data))
        fails("not what its digest says", DigestError)
    else:
        said = "sha256:" + "0" * 64
        hostile.on(MANIFEST, replying(made.raw, Docker_Content_Digest=said))
        fails("not what the registry says it is", DigestError)


def test_a_size_that_is_a_lie_about_what_is_there(
    hostile: Scripted, fails: Callable[..., ImageError], image_store: DirectoryStore, made: Made
) -> None:
    image_store.put_blob(made.blobs[made.layers[0].digest])
    size = str(made.layers[0].size).encode()
    hostile.serve(made)
    hostile.on(MANIFEST, replying(made.raw.replace(size, b"9" + size)))
    fails("as the manifest says", DigestError)


@pytest.mark.parametrize(
    "kind", ["text/html", "application/json", "", "application/octet-stream", "x" * 5000, "\xe9; a=b"]
)
def test_content_types_that_say_nothing(
    hostile: Scripted, options: Make, image_store: DirectoryStore, made: Made, kind: str
) -> None:
    hostile.serve(made)
    hostile.on(MANIFEST, replying(made.raw, kind))
    pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))


# --- hosts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("localhost", True),
        ("x.localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:169.254.169.254", True),
        ("169.254.169.254", True),
        ("fe80::1%eth0", True),
        ("0.0.0.0", True),
        ("::", True),
        ("224.0.0.1", True),
        ("10.0.0.1", False),
        ("192.168.1.1", False),
        ("93.184.216.34", False),
        ("localhost.example", False),
        ("notlocalhost", False),
        ("", False),
    ],
)
def test_what_is_near(name: str, near: bool) -> None:
    assert is_near(name) == near


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "/x",
        "//a.b/x",
        "ftp://a.b/x",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http:///x",
        "http://u:p@a.b/",
        "http://a.b:x/",
        "http://a.b:99999/",
        "http://[::1/",
        "http://a.b/ x",
        "http://a.b/\r\nX: y",
        "http://a.b/\xe9",
        "http://a.b/" + "x" * 20000,
    ],
)
def test_urls_that_are_not_followed(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|Port|IPv6"):
        origin_of(url)


def test_origins() -> None:
    assert origin_of("HTTPS://A.b./x") == ("https", "a.b", 443) == origin_of("https://a.b:443")
    assert origin_of("http://[::1]:5000/x?y#z") == ("http", "::1", 5000)


def test_a_registry_that_is_not_there(
    options: Make, image_store: DirectoryStore, no_credentials: None
) -> None:
    with pytest.raises(RegistryError, match=r"localhost:1 can't be reached: .*refused"):
        pull(parse_reference("localhost:1/x"), image_store, None, options("localhost:1"))
    with pytest.raises(RegistryError, match=r"the name no-such\.invalid can't be resolved"):
        pull(parse_reference("no-such.invalid/x"), image_store, None, options("no-such.invalid"))


@pytest.fixture
def odd(no_credentials: None) -> Iterator[None]:
    yield


@pytest.mark.parametrize("ca", ["missing", "empty", "nonsense"])
def test_authorities_that_can_not_be_used(
    options: Make, image_store: DirectoryStore, odd: None, tmp_path: Any, ca: str
) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "nonsense").write_text("nonsense")
    host = Host("localhost:1", ca=str(tmp_path / ca))
    with pytest.raises(RegistryError, match=f"{ca} can't be used"):
        pull(parse_reference("localhost:1/x"), image_store, None, options(host))
