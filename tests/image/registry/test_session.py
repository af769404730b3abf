"""Redirects, authorization and trying again: where credentials go, and how often anything is sent."""

from __future__ import annotations

import base64
import email.utils
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ImageError, RegistryError
from sandbox.image.config import Host
from sandbox.image.pull import pull
from sandbox.image.push import push
from sandbox.image.reference import parse_reference
from sandbox.image.registry.session import Retry, _retry_after
from sandbox.image.registry.tokens import _merged, parse_challenges
from sandbox.image.transfer import Options
from tests.image.images import DirectoryStore, Made, image, noise
from tests.image.peers import authority
from tests.image.scripted import Exchange, Scripted, in_turn, replying, scripted
from tests.image.test_pull import has_all

Make = Callable[..., Options]
MANIFEST = "GET /v2/x/manifests/latest"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def made() -> Made:
    return image({"a": noise(100_000)})


@pytest.fixture
def other(no_credentials: None) -> Iterator[Scripted]:
    """A second host, where things may be led."""
    with scripted() as server:
        yield server


@pytest.fixture
def login(hostile: Scripted, options: Make, tmp_path: Path) -> Callable[..., Options]:
    """Options with the credentials "u:geheim" for the hostile registry."""

    def make(**entry: str) -> Options:
        path = tmp_path / "auth.json"
        path.write_text(
            json.dumps({"auths": {hostile.name: entry or {"username": "u", "password": "geheim"}}})
        )
        return options(hostile.name, auth_file=str(path))

    return make


BASIC = "Basic " + base64.b64encode(b"u:geheim").decode()


def wants(scheme: str, then: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
    """401 with a challenge, unless there is some Authorization."""

    def act(exchange: Exchange) -> None:
        if exchange.headers.get("Authorization"):
            then(exchange)
        else:
            exchange.reply(401, headers={"WWW-Authenticate": scheme})

    return act


# --- redirects ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["other host", "other port"])
def test_authorization_does_not_follow_to_another_host(
    hostile: Scripted,
    other: Scripted,
    login: Make,
    image_store: DirectoryStore,
    made: Made,
    status: int,
    where: str,
) -> None:
    layer = made.layers[0].digest
    name = other.name.replace("localhost", "127.0.0.1") if where == "other host" else other.name
    hostile.serve(made)
    away = replying(b"", status=status, Location=f"http://{name}/store/{layer}?signature=1%2F2")
    hostile.on(r"GET /v2/x/blobs/.*", wants('Basic realm="r"', lambda exchange: exchange.reply(404)))
    hostile.on(f"GET /v2/x/blobs/{made.config.digest}", replying(made.blobs[made.config.digest]))
    hostile.on(f"GET /v2/x/blobs/{layer}", wants('Basic realm="r"', away))
    other.on(r"GET /store/.*", replying(made.blobs[layer]))
    pull(parse_reference(f"{hostile.name}/x"), image_store, None, login())
    assert has_all(image_store, made)
    [first, second] = hostile.asked(f"GET /v2/x/blobs/{layer}")
    assert (first.headers.get("Authorization"), second.headers["Authorization"]) == (None, BASIC)
    [away_request] = other.seen
    assert away_request.path == f"/store/{layer}?signature=1%2F2"
    assert "Authorization" not in away_request.headers


def test_a_challenge_of_another_host_is_not_answered(
    hostile: Scripted, other: Scripted, login: Make, image_store: DirectoryStore, made: Made
) -> None:
    hostile.serve(made)
    hostile.on(MANIFEST, replying(b"", status=307, Location=f"http://{other.name}/m"))
    other.on(r"GET .*", replying(b"", status=401, WWW_Authenticate='Basic realm="r"'))
    with pytest.raises(RegistryError, match=f"{other.name} answers 401"):
        pull(parse_reference(f"{hostile.name}/x"), image_store, None, login())
    assert [each.headers.get("Authorization") for each in other.seen] == [None]


@pytest.mark.parametrize(
    "location", ["/elsewhere/m", "../../../elsewhere/m", "?m", "//{name}/m", "http://{name}/m"]
)
def test_locations_may_be_relative(
    hostile: Scripted, login: Make, image_store: DirectoryStore, made: Made, location: str
) -> None:
    """And then authorization goes along: it is the same host."""
    hostile.serve(made)
    away = replying(b"", status=307, Location=location.format(name=hostile.name))
    hostile.on(MANIFEST, wants('Basic realm="r"', away))
    hostile.on(r"GET .*[/?]m", replying(made.raw, made.manifest.media_type))
    pull(parse_reference(f"{hostile.name}/x"), image_store, None, login())
    assert hostile.asked(r"GET .*[/?]m")[0].headers["Authorization"] == BASIC


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("", "Location is missing"),
        ("file:///etc/passwd", "sends us nowhere"),
        ("ftp://localhost/x", "sends us nowhere"),
        ("http://u:p@localhost/x", "sends us nowhere"),
        ("http://[::1", "sends us nowhere"),
        ("http://localhost:99999/", "sends us nowhere"),
        ("/a b", "sends us nowhere"),
        ("/\x1b[31m", "sends us nowhere"),
        ("/" + "x" * 30000, "sends us nowhere"),
        (MANIFEST.partition(" ")[2], "redirects more than 5 times"),
    ],
)
def test_locations_that_lead_nowhere(
    hostile: Scripted, options: Make, image_store: DirectoryStore, location: str, said: str
) -> None:
    hostile.on(MANIFEST, replying(b"", status=302, Location=location))
    with pytest.raises(RegistryError, match=said) as caught:
        pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))
    assert len(caught.value.message) < 500
    assert len(hostile.seen) <= 6


def test_never_from_https_to_http(
    other: Scripted, options: Make, image_store: DirectoryStore, tmp_path: Path
) -> None:
    """Neither by a redirect nor for a token."""
    ca, certificate, key = authority(tmp_path / "ca")
    with scripted(tls=(certificate, key)) as registry:
        settings = options(Host(registry.name, ca=str(ca)), other.name)
        reference = parse_reference(f"{registry.name}/x")
        registry.on(MANIFEST, replying(b"", status=307, Location=f"http://{other.name}/m"))
        with pytest.raises(RegistryError, match="from https to http"):
            pull(reference, image_store, None, settings)
        realm = f'Bearer realm="http://{other.name}/token"'
        registry.on(MANIFEST, replying(b"", status=401, WWW_Authenticate=realm))
        with pytest.raises(RegistryError, match="from https to http"):
            pull(reference, image_store, None, settings)
    assert not other.seen


NEAR = r"""
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from sandbox.errors import RegistryError
from sandbox.image.config import Endpoint, Host, Registries
from sandbox.image.pull import pull
from sandbox.image.reference import parse_reference
from sandbox.image.registry.client import has_blob
from sandbox.image.registry.session import Session
from sandbox.image.transfer import Options
from tests.image.images import DirectoryStore, image
from tests.image.scripted import replying, scripted

made = image()
results = {}
with scripted("::", name="10.9.8.7") as registry, scripted("::", name="inner") as inner:
    inner.on(".*", replying(b'{"token": "t"}'))
    port = inner.name.partition(":")[2]
    settings = Options(Registries("", {registry.name: Host(registry.name, tls="off")}))
    reference = parse_reference(registry.name + "/x")
    hosts = ["127.0.0.1", "localhost", "x.localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]",
             "127.1", "2130706433", "0x7f.1", "169.254.169.254", "10.9.8.8"]
    for host in hosts:
        url = f"http://{host}:{port}/latest/meta-data"
        for how in ("redirect", "token"):
            registry.serve(made)
            if how == "redirect":
                registry.on("GET .*", replying(b"", status=307, Location=url))
            else:
                registry.on("GET .*", replying(b"", status=401, WWW_Authenticate=f'Bearer realm="{url}"'))
            try:
                pull(reference, DirectoryStore(Path(sys.argv[2])), None, settings)
                said = "pulled"
            except Exception as error:
                said = str(error)
            results[f"{how} {host}"] = [len(inner.seen), said]
            inner.seen.clear()
    # A name that leads elsewhere first, and here later.
    hosts = Path("/etc/hosts")
    hosts.write_text("10.9.8.7 rebinding.example\n")
    host = Host("rebinding.example:" + registry.name.partition(":")[2], tls="off")
    registry.rules.clear()
    with Session(Endpoint(host, "x"), settings.context()) as session:
        has_blob(session, made.manifest.digest, ())
        asked = len(registry.seen)
        session._transport.close()
        hosts.write_text("127.0.0.1 rebinding.example\n")
        try:
            has_blob(session, made.manifest.digest, ())
            said = "asked"
        except RegistryError as error:
            said = str(error)
        results["rebinding"] = [len(registry.seen) - asked, said]
print(json.dumps(results))
"""


def test_a_registry_elsewhere_does_not_lead_us_to_this_machine(
    need: Callable[..., None], tmp_path: Path, no_credentials: None
) -> None:
    """In a network of its own, where the registry has another address than the services of the machine."""
    need("userns", "ip")
    setup = "ip link set lo up && ip addr add 10.9.8.7/32 dev lo && ip addr add 10.9.8.8/32 dev lo"
    setup += " && ip addr add 169.254.169.254/32 dev lo && mount --bind $0 /etc/hosts"
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    unshare = [
        "unshare",
        "--user",
        "--map-root-user",
        "--net",
        "--mount",
        "sh",
        "-c",
        f'{setup} && exec "$@"',
    ]
    script = [sys.executable, "-c", NEAR, ROOT, tmp_path]
    done = subprocess.run(
        [*unshare, tmp_path / "hosts", *script],
        capture_output=True,
        text=True,
        timeout=250,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    reached = {name for name, (count, _) in results.items() if count}
    assert reached == {"redirect 10.9.8.8", "token 10.9.8.8"}
    for name, (_, said) in results.items():
        if name not in reached:
            assert "on this machine or link: not followed" in said or "can't be re" in said, (name, said)
    assert "on this machine" in results["redirect 127.0.0.1"][1]
    assert "on this machine" in results["token 169.254.169.254"][1]


# --- authorization -----------------------------------------------------------------------------------------


def bearer(server: str, more: str = "") -> str:
    return f'Bearer realm="http://{server}/token",service="s",scope="repository:x:pull"{more}'


def test_credentials_go_to_the_token_server_and_tokens_to_the_registry(
    hostile: Scripted, other: Scripted, login: Make, image_store: DirectoryStore, made: Made
) -> None:
    hostile.serve(made)
    for path in list(hostile.paths):
        data, kind = hostile.paths[path]
        hostile.on(f"GET {path}", wants(bearer(other.name), replying(data, kind)))
    other.on(r"GET /token\?.*", replying(b'{"token": "t0ken", "expires_in": 1000}'))
    pull(parse_reference(f"{hostile.name}/x"), image_store, None, login())
    [asked] = other.seen
    assert asked.headers["Authorization"] == BASIC
    assert asked.path == "/token?service=s&scope=repository%3Ax%3Apull&account=u"
    sent = {each.headers.get("Authorization") for each in hostile.seen}
    assert sent == {None, "Bearer t0ken"}
    assert hostile.seen[0].headers.get("Authorization") is None


def test_an_identity_token_is_posted(
    hostile: Scripted, other: Scripted, login: Make, image_store: DirectoryStore, made: Made
) -> None:
    hostile.serve(made)
    hostile.on(MANIFEST, wants(bearer(other.name), replying(made.raw)))
    other.on("POST /token", replying(b'{"access_token": "t0ken"}'))
    pull(parse_reference(f"{hostile.name}/x"), image_store, None, login(identitytoken="refresh&me"))
    [asked] = other.seen
    assert "Authorization" not in asked.headers
    assert asked.body == (
        b"grant_type=refresh_token&refresh_token=refresh%26me&client_id=sandbox&service=s"
        b"&scope=repository%3Ax%3Apull"
    )


def test_a_registry_token_is_shown_as_it_is(
    hostile: Scripted, login: Make, image_store: DirectoryStore, made: Made
) -> None:
    hostile.serve(made)
    hostile.on(MANIFEST, wants(bearer("localhost:1"), replying(made.raw)))
    pull(parse_reference(f"{hostile.name}/x"), image_store, None, login(registrytoken="r3g"))
    assert hostile.asked(MANIFEST)[1].headers["Authorization"] == "Bearer r3g"


def test_a_401_that_never_ends(
    hostile: Scripted, other: Scripted, login: Make, image_store: DirectoryStore
) -> None:
    refusal = b'{"errors": [{"code": "DENIED", "message": "not you"}]}'
    for scheme in (bearer(other.name), 'Basic realm="r"'):
        hostile.seen.clear()
        refuse = replying(refusal, status=401, WWW_Authenticate=scheme)
        hostile.on(r"GET .*", in_turn(*[refuse] * 20, replying(b"")))
        other.on(r"GET .*", replying(b'{"token": "t"}'))
        with pytest.raises(RegistryError, match=r"refuses x: not you; the credentials of .* do not suffice"):
            pull(parse_reference(f"{hostile.name}/x"), image_store, None, login())
        assert len(hostile.seen) == 2
    assert len(other.seen) == 1


def test_a_token_that_has_become_stale_is_renewed(
    hostile: Scripted, other: Scripted, options: Make, image_store: DirectoryStore, made: Made
) -> None:
    hostile.serve(made)
    tokens = [b'{"token": "one"}', b'{"token": "two"}']
    other.on(r"GET .*", lambda exchange: exchange.reply(200, tokens.pop(0)))
    hostile.on(MANIFEST, wants(bearer(other.name), replying(made.raw)))
    layer = made.layers[0].digest

    def picky(exchange: Exchange) -> None:
        if exchange.headers.get("Authorization") == "Bearer two":
            exchange.reply(200, made.blobs[layer])
        else:
            exchange.reply(401, headers={"WWW-Authenticate": bearer(other.name, ',error="invalid_token"')})

    hostile.on(f"GET /v2/x/blobs/{layer}", picky)
    pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))
    assert has_all(image_store, made)
    assert not tokens


@pytest.mark.parametrize(
    ("challenge", "said"),
    [
        ("", "offers nothing, which is not supported"),
        ("Negotiate", "offers negotiate, which"),
        ("Digest realm=x, nonce=y", "offers digest, which"),
        ("\x1b[31m", "offers nothing"),
        ("Bearer", "names no token server"),
        ('Bearer realm="ftp://localhost/"', "names no token server"),
        ('Bearer realm="file:///etc/passwd"', "names no token server"),
        ('Bearer realm="//localhost/"', "names no token server"),
        ('Bearer realm="http://u:p@localhost/"', "names no token server"),
        ('Bearer realm="http://localhost:1/"', "can't be reached"),
        ("Bearer " + "x=y," * 100_000, "broke off"),
        ("Bearer " + "x=y," * 15_000, "names no token server"),
        ('Basic realm="' + "\\" * 10_000, "does not exist, or needs a login"),
    ],
)
def test_challenges(
    hostile: Scripted, options: Make, image_store: DirectoryStore, challenge: str, said: str
) -> None:
    hostile.on(r"GET .*", replying(b"", status=401, WWW_Authenticate=challenge))
    with pytest.raises(RegistryError, match=said) as caught:
        pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "gave no token"),
        (b'{"token": ""}', "gave no token"),
        (b'{"token": "a\\r\\nX-Evil: 1"}', "gave no token"),
        (b'{"token": "a b"}', "gave no token"),
        (b'{"token": "\\u20ac"}', "gave no token"),
        (b'{"token": "' + b"x" * 40_000 + b'"}', "gave no token"),
        (b'{"token": 5}', "token is not a string"),
        (b'{"token": "t", "expires_in": "soon"}', "expires_in is not"),
        (b'{"token":' + b"[" * 100_000, "nested"),
        (b" " * 2_000_000, "announces 2000000 bytes"),
    ],
)
def test_tokens_that_are_none(
    hostile: Scripted, other: Scripted, options: Make, image_store: DirectoryStore, answer: bytes, said: str
) -> None:
    hostile.on(r"GET .*", replying(b"", status=401, WWW_Authenticate=bearer(other.name)))
    other.on(r"GET .*", replying(answer))
    with pytest.raises(ImageError, match=said):
        pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))
    assert not [each for each in hostile.seen if "Authorization" in each.headers]


def test_the_token_server_leads_no_credentials_away(
    hostile: Scripted, other: Scripted, login: Make, image_store: DirectoryStore
) -> None:
    with scripted() as third:
        hostile.on(r"GET .*", replying(b"", status=401, WWW_Authenticate=bearer(other.name)))
        other.on(r"(GET|POST) .*", replying(b"", status=307, Location=f"http://{third.name}/token"))
        third.on(r".*", replying(b'{"token": "t"}'))
        for entry in ({}, {"identitytoken": "it"}):
            with pytest.raises(RegistryError):
                pull(parse_reference(f"{hostile.name}/x"), image_store, None, login(**entry))
        assert [each.headers.get("Authorization") for each in third.seen] == [None]
        assert all(each.method == "GET" and not each.body for each in third.seen)


def test_broken_helpers_are_told_with_a_refusal(
    hostile: Scripted, options: Make, image_store: DirectoryStore, made: Made
) -> None:
    host = Host(hostile.name, tls="off", credential_helper="nowhere")
    reference = parse_reference(f"{hostile.name}/x")
    hostile.on(MANIFEST, replying(b"", status=401, WWW_Authenticate='Basic realm="r"'))
    with pytest.raises(RegistryError, match="docker-credential-nowhere is not on PATH"):
        pull(reference, image_store, None, options(host))
    # and no reason to fail where no login is needed
    hostile.rules.clear()
    hostile.serve(made)
    pull(reference, image_store, None, options(host))


@given(st.text(max_size=60) | st.text('Bearer Basic realm="\\,= \t', max_size=80))
def test_any_challenge_is_parsed(text: str) -> None:
    for challenge in parse_challenges(text):
        assert challenge.scheme == challenge.scheme.lower() != ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Bearer realm="a", scope="b c"', [("bearer", {"realm": "a", "scope": "b c"})]),
        (r'Bearer realm="a\"b\\"', [("bearer", {"realm": 'a"b\\'})]),
        ("Bearer realm=a,service=b", [("bearer", {"realm": "a", "service": "b"})]),
        ("BASIC Realm = x", [("basic", {"realm": "x"})]),
        (
            'Negotiate, Basic realm="x", Bearer realm=y',
            [("negotiate", {}), ("basic", {"realm": "x"}), ("bearer", {"realm": "y"})],
        ),
        ('Bearer realm=a, realm="b"', [("bearer", {"realm": "a"})]),
        ("Bearer realm=\x00,x=y", [("bearer", {"realm": "\x00", "x": "y"})]),
    ],
)
def test_challenges_as_they_are_written(text: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(each.scheme, dict(each.parameters)) for each in parse_challenges(text)] == expected


def test_what_a_token_is_asked_for() -> None:
    push_x = ("repository:x:pull,push",)
    assert _merged("", push_x) == ["repository:x:pull,push"]
    assert _merged("repository:x:pull", push_x) == ["repository:x:pull,push"]
    assert _merged("repository:hub/x:pull", push_x) == ["repository:hub/x:pull"]
    assert _merged("repository:x:push,pull", (*push_x, "repository:y:pull")) == [
        "repository:x:push,pull",
        "repository:y:pull",
    ]
    assert _merged("a b", push_x) == ["a", "b"]


# --- trying again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_waited_for(
    hostile: Scripted, options: Make, image_store: DirectoryStore, made: Made, status: int
) -> None:
    hostile.serve(made)
    busy = replying(b"busy", status=status)
    for path in list(hostile.paths):
        hostile.on(f"GET {path}", in_turn(busy, busy, replying(*hostile.paths[path])))
    pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))
    assert has_all(image_store, made)


@pytest.mark.parametrize("status", [400, 404, 405, 410, 418, 501])
def test_what_does_not_pass_is_not(
    hostile: Scripted, options: Make, image_store: DirectoryStore, status: int
) -> None:
    hostile.on(MANIFEST, replying(b"", status=status))
    with pytest.raises(RegistryError) as caught:
        pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))
    assert caught.value.status == status
    assert len(hostile.seen) == 1


def test_as_often_as_was_said(hostile: Scripted, options: Make, image_store: DirectoryStore) -> None:
    hostile.on(MANIFEST, replying(b'{"errors":[{"message":"too many"}]}', status=429))
    with pytest.raises(RegistryError, match="has had enough requests: too many") as caught:
        pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))
    assert len(hostile.seen) == 3
    assert "podman login" in str(caught.value.mend)


def test_a_wait_that_is_asked_for(
    hostile: Scripted, options: Make, image_store: DirectoryStore, made: Made
) -> None:
    """It is kept if it is bearable, and else told."""
    hostile.serve(made)
    later = replying(b"", status=429, Retry_After="1")
    hostile.on(MANIFEST, in_turn(later, replying(made.raw)))
    settings = options(hostile.name, retry=Retry(3, 0.01, 2.0))
    reference = parse_reference(f"{hostile.name}/x")
    began = time.monotonic()
    pull(reference, image_store, None, settings)
    assert time.monotonic() - began >= 1
    hostile.seen.clear()
    hostile.on(MANIFEST, replying(b"", status=429, Retry_After="7200"))
    with pytest.raises(RegistryError, match="has had enough requests for 2h"):
        pull(reference, image_store, None, settings)
    assert len(hostile.seen) == 1


def test_retry_after() -> None:
    assert _retry_after("120") == 120
    assert _retry_after(" 0 ") == 0
    soon = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert 90 < _retry_after(soon) <= 100
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    for nonsense in ("", "soon", "-5", "1" * 500, "Wed, 99 Foo 99999 99:99:99 GMT", "\u0661"):
        assert _retry_after(nonsense) == 0


@given(st.text(max_size=40))
def test_any_retry_after(text: str) -> None:
    assert _retry_after(text) >= 0


def test_connections_that_break_are_made_again(
    hostile: Scripted, options: Make, image_store: DirectoryStore, made: Made
) -> None:
    hostile.serve(made)

    def drop(exchange: Exchange) -> None:
        exchange.close_connection = True

    for path in list(hostile.paths):
        hostile.on(f"GET {path}", in_turn(drop, drop, replying(*hostile.paths[path])))
    pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))
    assert has_all(image_store, made)


# --- proxies -----------------------------------------------------------------------------------------------


def test_a_proxy_of_the_environment(
    other: Scripted, options: Make, image_store: DirectoryStore, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for URLs, with a login of its own; for what no_proxy names it isn't."""
    monkeypatch.setenv("http_proxy", f"http://me:pw@{other.name}")
    for digest, data in made.blobs.items():
        other.on(rf"GET http://registry\.example:5000/v2/x/blobs/{digest}", replying(data))
    other.on(r"GET http://registry\.example:5000/v2/x/manifests/latest", replying(made.raw))
    reference = parse_reference("registry.example:5000/x")
    pull(reference, image_store, None, options(reference.registry))
    assert has_all(image_store, made)
    login = "Basic " + base64.b64encode(b"me:pw").decode()
    assert {each.headers["Proxy-Authorization"] for each in other.seen} == {login}
    monkeypatch.setenv("no_proxy", "example")
    other.seen.clear()
    with pytest.raises(RegistryError, match="can't be resolved"):
        pull(reference, image_store, None, options(reference.registry))
    assert not other.seen


def test_no_proxy_for_this_machine(
    hostile: Scripted, options: Make, image_store: DirectoryStore, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://localhost:1")
    hostile.serve(made)
    pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))


@pytest.mark.parametrize("proxy", ["socks5://localhost:1", "http://[::1", "http://localhost:x"])
def test_proxies_that_can_not_be_used(
    options: Make,
    image_store: DirectoryStore,
    monkeypatch: pytest.MonkeyPatch,
    no_credentials: None,
    proxy: str,
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(RegistryError, match="the environment's proxy can't be used") as caught:
        pull(parse_reference("registry.example/x"), image_store, None, options("registry.example"))
    assert caught.value.mend


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_through_a_tunnel(
    options: Make,
    image_store: DirectoryStore,
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    no_credentials: None,
    scheme: str,
) -> None:
    """HTTPS goes through CONNECT: the proxy sees the host, and no header of ours."""
    from tests.image.tunnel import tunnel

    ca, certificate, key = authority(tmp_path / "ca", "registry.example")
    with scripted(tls=(certificate, key)) as registry:
        registry.serve(made)
        proxy_tls = None
        if scheme == "https":
            proxy_ca, *files = authority(tmp_path / "proxy")
            proxy_tls = (files[0], files[1])
            monkeypatch.setenv("SSL_CERT_FILE", str(proxy_ca))
        with tunnel(int(registry.name.partition(":")[2]), proxy_tls) as proxy:
            monkeypatch.setenv("https_proxy", f"{scheme}://me:pw@localhost:{proxy.port}")
            settings = options(Host("registry.example", ca=str(ca)))
            pull(parse_reference("registry.example/x"), image_store, None, settings)
            assert has_all(image_store, made)
            login = "Basic " + base64.b64encode(b"me:pw").decode()
            assert all(b"CONNECT registry.example:443 " in each for each in proxy.heads)
            assert all(login.encode() in each for each in proxy.heads)
            assert not any("Proxy-Authorization" in each.headers for each in registry.seen)


# --- being interrupted -------------------------------------------------------------------------------------

PULL = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from sandbox.image.config import Host, Registries
from sandbox.image.pull import pull
from sandbox.image.reference import parse_reference
from sandbox.image.transfer import Options
from tests.image.images import DirectoryStore
name = sys.argv[2]
registries = Registries("", {name: Host(name, tls="off")})
try:
    pull(parse_reference(name + "/x"), DirectoryStore(Path(sys.argv[3])), None, Options(registries))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_pull_is_gone_on_with(
    hostile: Scripted, options: Make, tmp_path: Path, number: signal.Signals
) -> None:
    import threading

    made = image({"a": noise(500_000)}, {"b": noise(400_000, 2)})
    store = DirectoryStore(tmp_path / "store")
    hostile.serve(made)
    half, over = threading.Semaphore(0), threading.Event()

    def act(exchange: Exchange) -> None:
        data = made.blobs[made.layers[0].digest]
        if exchange.path.endswith(made.layers[1].digest):
            data = made.blobs[made.layers[1].digest]
        exchange.send_response(200)
        exchange.send_header("Content-Length", str(len(data)))
        exchange.end_headers()
        exchange.wfile.write(data[:200_000])
        half.release()
        over.wait(60)
        exchange.close_connection = True

    for layer in made.layers:
        hostile.on(f"GET /v2/x/blobs/{layer.digest}", act)
    process = subprocess.Popen(
        [sys.executable, "-c", PULL, str(ROOT), hostile.name, str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert half.acquire(timeout=60)
        assert half.acquire(timeout=60)
        for layer in made.layers:
            while (store.partial / layer.digest).stat().st_size < 200_000:
                time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        over.set()
    if number == signal.SIGINT:
        assert (out, err) == ("interrupted\n", "")
    hostile.rules.clear()
    hostile.seen.clear()
    pull(parse_reference(f"{hostile.name}/x"), store, None, options(hostile.name))
    assert has_all(store, made)
    for layer in made.layers:
        assert hostile.asked(f"GET /v2/x/blobs/{layer.digest}")[0].headers["Range"] == "bytes=200000-"


def test_credentials_are_in_no_message(
    hostile: Scripted, login: Make, image_store: DirectoryStore, made: Made
) -> None:
    image_store.add(made)
    for status in (400, 401, 403, 404, 500):
        hostile.on(r".*", wants('Basic realm="r"', replying(b"", status=status)))
        for act in (
            lambda: pull(parse_reference(f"{hostile.name}/x"), image_store, None, login()),
            lambda: push(parse_reference(f"{hostile.name}/x"), image_store, login(), made.manifest),
        ):
            with pytest.raises(ImageError) as caught:
                act()
            assert "geheim" not in repr(caught.value) + str(caught.value)
            assert BASIC.partition(" ")[2] not in str(caught.value)
