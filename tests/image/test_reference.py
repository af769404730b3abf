"""The grammar of references: cases that distribution/reference tests too, and properties."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.image.digest import Digest
from sandbox.image.reference import Reference, parse_new_name, parse_reference

HEX = "0123456789abcdef" * 4
SHA256 = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("library/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("index.docker.io/team/x:1", "docker.io/team/x:1", "team/x:1"),
        ("docker.io/library/foo/bar", "docker.io/library/foo/bar:latest", "library/foo/bar:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
        ("test.com:5000", "docker.io/library/test.com:5000", "test.com:5000"),
        ("192.168.0.1", "docker.io/library/192.168.0.1:latest", "192.168.0.1:latest"),
        ("[fc00::1]:5000/x", "[fc00::1]:5000/x:latest", "[fc00::1]:5000/x:latest"),
        ("[::1]/x:t", "[::1]/x:t", "[::1]/x:t"),
        ("test_com/foo", "docker.io/test_com/foo:latest", "test_com/foo:latest"),
        ("Foo/bar", "Foo/bar:latest", "Foo/bar:latest"),
        ("xn--n3h.com/my__image:xn--n3h.com", "xn--n3h.com/my__image:xn--n3h.com", None),
        ("a-b.c/d.e_f--g/h:_", "a-b.c/d.e_f--g/h:_", None),
        (f"x@{SHA256}", f"docker.io/library/x@{SHA256}", f"x@{SHA256}"),
        (f"x:1@{SHA256}", f"docker.io/library/x:1@{SHA256}", f"x:1@{SHA256}"),
        ("a.b/c:Upper", "a.b/c:Upper", None),
        (f"docker.io/{HEX}", f"docker.io/library/{HEX}:latest", f"{HEX}:latest"),
        (f"docker.io/{HEX}@{SHA256}", f"docker.io/library/{HEX}@{SHA256}", f"{HEX}@{SHA256}"),
        ("docker.io/localhost/x", "docker.io/localhost/x:latest", "docker.io/localhost/x:latest"),
    ],
)
def test_is_read_as_docker_reads_it(text: str, full: str, familiar: str | None) -> None:
    reference = parse_reference(text)
    assert str(reference) == full
    assert reference.familiar == (familiar or full)
    assert parse_reference(reference.familiar) == reference == parse_reference(full)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " debian",
        "debian ",
        "deb ian",
        "debian\n",
        "-docker",
        "docker///docker",
        "docker/",
        "/docker",
        "_docker/_docker",
        "dock..er/docker",
        "dock_.er/docker",
        "docker-/docker",
        "____/____",
        "[fc00::1]",
        "[:::]/x",
        "[1:2]/x",
        "[fc00::1]:5000",
        "[fe80::1%eth0]:5000/x",
        "[2001:db8:3:4::192.0.2.33]:5000/debian",
        "fc00::1:5000/debian",
        ":justtag",
        "x:",
        "x:-tag",
        "x:" + "t" * 129,
        "x@",
        "x@sha256:0123",
        "x@md5:" + "0" * 32,
        f"x@{SHA256.upper()}",
        f"@{SHA256}",
        f"x@{SHA256}:tag",
        "aa/asdf$$^/aa",
        "a/" * 128 + "a",
        "localhost:0/x",
        "localhost:65536/x",
        "localhost:99999999999/x",
        "u@localhost/x",
        "a/../b",
        "..",
        "x\0",
        "\x1b[31m",
        "x" * 5000,
        "dé",
        "\u06f1",  # a digit, to str.isdigit
    ],
)
def test_is_refused(text: str) -> None:
    with pytest.raises(ImageError) as caught:
        parse_reference(text)
    assert len(caught.value.message) < 1000
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("https://localhost:5000/x", "write localhost:5000/x"),
        ("docker://debian", "write debian"),
        ("docker/Docker", "write docker/docker"),
        (HEX, f"write NAME@sha256:{HEX}"),
        (SHA256, f"write NAME@{SHA256}"),
    ],
)
def test_what_was_probably_meant(text: str, mend: str) -> None:
    with pytest.raises(ImageError) as caught:
        parse_reference(text)
    assert caught.value.mend == mend


def test_keys() -> None:
    assert parse_reference("x:1").key == "docker.io/library/x:1"
    assert parse_reference(f"x:1@{SHA256}").key == f"docker.io/library/x@{SHA256}"
    assert parse_reference("x:1").identifier == "1"
    assert parse_reference(f"x:1@{SHA256}").identifier == SHA256


def test_what_is_made_here_is_not_called_by_a_digest() -> None:
    assert parse_new_name("tool") == parse_reference("tool:latest")
    for text, mend in {"tool@": "tool:latest", "a.b/c:1@": "a.b/c:1"}.items():
        with pytest.raises(ImageError, match="can't be called by a digest") as error:
            parse_new_name(f"{text}sha256:{'0' * 64}")
        assert error.value.mend == f"write {mend}"


def test_another_tag_or_digest() -> None:
    reference = parse_reference(f"a.b/c@{SHA256}")
    assert str(reference.with_tag("t")) == "a.b/c:t"
    assert str(reference.with_tag("t").with_digest(Digest(SHA256))) == f"a.b/c@{SHA256}"
    with pytest.raises(ImageError):
        reference.with_tag("../t")


_component = st.from_regex(r"[a-z0-9]{1,5}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
_registry = st.from_regex(
    r"([a-zA-Z0-9]{1,4}(-[a-z]{1,3})?(\.[a-z0-9]{1,4}){1,3}|localhost|\[[0-9a-f]{0,4}::[0-9a-f]{0,4}\])(:[1-9][0-9]{0,3})?",
    fullmatch=True,
)
_tag = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,12}", fullmatch=True)


@given(
    st.none() | _registry,
    st.lists(_component, min_size=1, max_size=4),
    st.none() | _tag,
    st.none() | st.just(SHA256) | st.just("sha512:" + HEX * 2),
)
def test_what_the_grammar_makes_is_read(
    registry: str | None, path: list[str], tag: str | None, digest: str | None
) -> None:
    # Without a registry a first component with a dot would be one, and be held to the rules for those.
    assume(registry or len(path) == 1 or not ("." in path[0] or path[0] == "localhost"))
    name = "/".join(([registry] if registry else []) + path)
    text = name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    reference = parse_reference(text)
    assert reference.tag == (tag or ("" if digest else "latest"))
    assert reference.digest == digest
    assert parse_reference(str(reference)) == reference
    assert parse_reference(reference.familiar) == reference
    assert len(reference.familiar) <= len(str(reference))
    if registry and registry != "index.docker.io":
        assert reference.registry == registry


@given(st.text(max_size=80) | st.text("abz09./:@-_[]%A \n", max_size=40))
def test_anything_is_read_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except ImageError as error:
        assert error.message
    else:
        assert isinstance(reference, Reference)
        assert parse_reference(str(reference)) == reference
        # It becomes part of URLs and of files' names.
        assert ".." not in reference.repository.split("/")
        assert str(reference).isascii()
        assert str(reference).isprintable()
