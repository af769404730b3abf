"""Credentials: podman's and docker's files, and credential helpers."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.errors import ImageError
from sandbox.image.auth import Keyring, credential_files

pytestmark = pytest.mark.usefixtures("no_credentials")


def auth(login: str) -> dict[str, str]:
    return {"auth": base64.b64encode(login.encode()).decode()}


def write(path: str, document: object) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_text(json.dumps(document))


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Make docker-credential-NAME, a shell script."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()

    def make(name: str, script: str) -> None:
        path = tmp_path / "bin" / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return make


def test_the_files_in_their_order() -> None:
    home = os.environ["HOME"]
    files = credential_files()
    assert files == (
        f"{home}/run/containers/auth.json",
        f"{home}/config/containers/auth.json",
        f"{home}/.docker/config.json",
    )
    for number, path in reversed(list(enumerate(files))):
        write(path, {"auths": {"a.b": auth(f"user{number}:p:w")}})
        found = Keyring().find("a.b", "x")
        assert found and (found.username, found.password) == (f"user{number}", "p:w")
        assert found.source == f"{path} (a.b)"
        assert "p:w" not in repr(found)


def test_other_places() -> None:
    environ = {"XDG_RUNTIME_DIR": "relative", "DOCKER_CONFIG": "/d"}
    assert credential_files(environ)[0] == f"/run/containers/{os.getuid()}/auth.json"
    assert credential_files(environ)[2] == "/d/config.json"
    assert credential_files({"REGISTRY_AUTH_FILE": "/a/b"}) == ("/a/b",)


def test_a_file_that_was_asked_for_is_the_only_one(tmp_path: Path) -> None:
    write(credential_files()[0], {"auths": {"a.b": auth("u:p")}})
    only = str(tmp_path / "only.json")
    with pytest.raises(ImageError, match=r"there is no .*only\.json"):
        Keyring(only).find("a.b", "x")
    write(only, {"auths": {}})
    assert Keyring(only).find("a.b", "x") is None


@pytest.mark.parametrize(
    ("repository", "user"),
    [
        ("foo/bar/image", "deepest"),
        ("foo/other", "namespace"),
        ("foo", "namespace"),
        ("food", "registry"),
        ("foo/bar/image2", "namespace"),
    ],
)
def test_the_longest_path_counts(repository: str, user: str) -> None:
    keys = {"r.local/foo/bar/image": "deepest", "r.local/foo": "namespace", "r.local": "registry"}
    write(credential_files()[1], {"auths": {key: auth(f"{name}:x") for key, name in keys.items()}})
    found = Keyring().find("r.local", repository)
    assert found and found.username == user


@pytest.mark.parametrize(
    ("key", "registry", "found"),
    [
        ("https://index.docker.io/v1/", "docker.io", True),
        ("docker.io", "docker.io", True),
        ("index.docker.io", "docker.io", True),
        ("https://a.b", "a.b", True),
        ("https://a.b/v2/", "a.b", True),
        ("http://a.b:5000/", "a.b:5000", True),
        ("a.b", "a.b:5000", False),
        ("a.b:5000", "a.b", False),
        ("b", "a.b", False),
        ("https://a.b.evil", "a.b", False),
        ("https://evil/a.b", "a.b", False),
    ],
)
def test_how_keys_are_written(key: str, registry: str, found: bool) -> None:
    write(credential_files()[2], {"auths": {key: auth("u:p")}})
    assert (Keyring().find(registry, "x") is not None) == found


def test_an_exact_key_goes_before_a_url() -> None:
    entries = {"https://a.b/v1/": auth("url:p"), "a.b": auth("exact:p"), "http://a.b": auth("other:p")}
    write(credential_files()[2], {"auths": entries})
    found = Keyring().find("a.b", "x")
    assert found and found.username == "exact"


def test_kinds_of_entries() -> None:
    entries = {
        "plain": {"username": "u", "password": "p"},
        "identity": {**auth("00000000-0000-0000-0000-000000000000:"), "identitytoken": "it"},
        "token": {"registrytoken": "rt"},
        "empty": {},
        "nul": auth("u:p\0\0"),
    }
    write(credential_files()[0], {"auths": entries})
    keyring = Keyring()
    assert keyring.find("empty", "x") is None
    found = {name: keyring.find(name, "x") for name in ("plain", "identity", "token", "nul")}
    assert [(each.username, each.password) for each in (found["plain"], found["nul"]) if each] == [
        ("u", "p")
    ] * 2
    assert found["identity"] and found["identity"].identity_token == "it"
    assert found["token"] and found["token"].registry_token == "rt"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"auths": []}', "not an object"),
        ('{"auths": {"a.b": 1}}', "a.b is not an object"),
        ('{"auths": {"a.b": {"auth": "!"}}}', "not NAME:PASSWORD"),
        ('{"auths": {"a.b": {"auth": "c2VjcmV0"}}}', "not NAME:PASSWORD"),
        ('{"credHelpers": {"a.b": 1}}', "object of strings"),
        ('{"credsStore": 1}', "not a string"),
    ],
)
def test_malformed_files(text: str, said: str) -> None:
    path = credential_files()[1]
    write(path, {})
    Path(path).write_text(text)
    with pytest.raises(ImageError, match=said) as caught:
        Keyring().find("a.b", "x")
    assert path in caught.value.message
    assert "secret" not in caught.value.message  # what "c2VjcmV0" is


def test_files_that_cannot_be_read() -> None:
    path = credential_files()[1]
    os.makedirs(path)
    with pytest.raises(ImageError, match="can't be read: not a regular file"):
        Keyring().find("a.b", "x")


# --- helpers -----------------------------------------------------------------------------------------------

ANSWERS = (
    'read server; echo "{\\"ServerURL\\":\\"$server\\",\\"Username\\":\\"u-$server\\",\\"Secret\\":\\"s\\"}"'
)
NOTHING = "echo 'credentials not found in native keychain'; exit 1"


def test_a_helper_for_a_registry(helper: Callable[[str, str], None]) -> None:
    helper("one", ANSWERS)
    write(credential_files()[0], {"credHelpers": {"a.b": "one"}, "auths": {"a.b": auth("plain:p")}})
    found = Keyring().find("a.b", "x")
    assert found and (found.username, found.password, found.source) == ("u-a.b", "s", "docker-credential-one")
    assert Keyring().find("c.d", "x") is None


def test_dockers_store_of_credentials(helper: Callable[[str, str], None]) -> None:
    answer = ANSWERS.partition("; ")[2]
    helper("all", f"read server; case $server in https://index.docker.io/v1/) {answer};; *) {NOTHING};; esac")
    write(credential_files()[2], {"credsStore": "all", "auths": {"https://index.docker.io/v1/": {}}})
    found = Keyring().find("docker.io", "library/debian")
    assert found and found.username == "u-https://index.docker.io/v1/"
    keyring = Keyring()
    assert keyring.find("a.b", "x") is None
    assert keyring.problems == []


def test_identity_tokens(helper: Callable[[str, str], None]) -> None:
    helper("t", """echo '{"Username":"<token>","Secret":"it"}'""")
    found = Keyring("", {"a.b": "t"}).find("a.b", "x")
    assert found and (found.identity_token, found.username) == ("it", "")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo boom; exit 3", "docker-credential-bad failed with status 3: boom"),
        ("echo boom >&2; exit 1", "failed with status 1: boom"),
        ("exit 1", "it said nothing"),
        ("printf '\\033[31mred'; exit 1", r"\\x1b\[31mred"),
        ("echo hello", "not JSON"),
        ("echo '[]'", "not a JSON object"),
        ("echo '{\"Secret\": 1}'", "Secret is not a string"),
        ("yes '{'", "printed more than"),
        ("yes >&2", "printed more than"),
        ("kill -9 $$", "failed with status -9"),
    ],
)
def test_broken_helpers_are_told_and_no_more(
    helper: Callable[[str, str], None], script: str, said: str
) -> None:
    helper("bad", script)
    keyring = Keyring("", {"a.b": "bad"})
    assert keyring.find("a.b", "x") is None
    [problem] = keyring.problems
    assert re.search(said, problem)
    assert len(problem) < 500


def test_a_helper_that_is_missing() -> None:
    keyring = Keyring("", {"a.b": "nowhere"})
    assert keyring.find("a.b", "x") is None
    assert keyring.problems == ["docker-credential-nowhere is not on PATH"]


def test_a_helper_is_found_by_absolute_paths_only(
    helper: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper("here", ANSWERS)
    monkeypatch.chdir(tmp_path / "bin")
    monkeypatch.setenv("PATH", ":.")
    keyring = Keyring("", {"a.b": "here"})
    assert keyring.find("a.b", "x") is None
    assert "not on PATH" in keyring.problems[0]


@pytest.mark.parametrize("name", ["../bin/x", "/bin/true", "", "a b"])
def test_names_of_helpers_are_no_paths(name: str) -> None:
    write(credential_files()[0], {"credHelpers": {"a.b": name}})
    keyring = Keyring()
    assert keyring.find("a.b", "x") is None
    assert "not on PATH" in keyring.problems[0]


def test_one_that_hangs_is_ended_with_what_it_started(
    helper: Callable[[str, str], None], tmp_path: Path
) -> None:
    from sandbox.image import credential_helper

    helper("slow", f"sleep 1000 & echo $! > {tmp_path}/pid; wait")
    with pytest.raises(credential_helper.HelperError, match=r"did not answer in 0\.5 seconds"):
        credential_helper.ask("slow", "a.b", 0.5)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(500):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    pytest.fail("it still runs")
