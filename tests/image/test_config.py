"""registries.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.errors import ImageError
from sandbox.image.config import Host, Registries, default_file, load_registries
from sandbox.image.reference import parse_reference


def loaded(tmp_path: Path, text: str) -> Registries:
    file = tmp_path / "registries.toml"
    file.write_text(text)
    return load_registries(str(file))


def test_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    registries = loaded(
        tmp_path,
        """
        auth_file = "~/auth.json"
        [registry."docker.io"]
        mirrors = ["mirror.example:5000", "other.example/hub/x"]
        credential_helper = "pass"
        [registry."localhost:5000"]
        tls = "off"
        [registry."mirror.example:5000"]
        ca = "ca.pem"
        cert = "/etc/cert.pem"
        key = "~/key.pem"
        [registry."10.0.0.1"]
        tls = "unverified"
        """,
    )
    assert registries.auth_file == "/home/me/auth.json"
    assert registries.host("localhost:5000").url == "http://localhost:5000"
    assert registries.host("unknown.example").url == "https://unknown.example"
    assert registries.host("10.0.0.1").tls == "unverified"
    mirror = registries.host("mirror.example:5000")
    assert (mirror.ca, mirror.cert, mirror.key) == (f"{tmp_path}/ca.pem", "/etc/cert.pem", "/home/me/key.pem")
    hub = registries.host("docker.io")
    assert (hub.url, hub.credential_helper) == ("https://registry-1.docker.io", "pass")
    sources = registries.sources(parse_reference("debian"))
    assert [(each.host.name, each.repository) for each in sources] == [
        ("mirror.example:5000", "library/debian"),
        ("other.example", "hub/x/library/debian"),
        ("docker.io", "library/debian"),
    ]
    assert sources[0].host.ca
    target = registries.target(parse_reference("team/x"))
    assert (target.host.name, target.repository) == ("docker.io", "team/x")


def test_without_a_file(no_credentials: None) -> None:
    assert load_registries() == Registries(default_file())
    assert default_file().endswith("/config/sandbox/registries.toml")


def test_the_users_file(no_credentials: None) -> None:
    Path(default_file()).parent.mkdir(parents=True)
    Path(default_file()).write_text('[registry."a.b"]\ntls = "off"\n')
    assert load_registries().hosts == {"a.b": Host("a.b", "off")}


@pytest.mark.parametrize(
    ("text", "message", "mend"),
    [
        ("x = 1", '1:1: unknown key "x"; there are auth_file, parallel', None),
        ("parallel = 0", "1:12: not a number from 1 to 16", None),
        ("parallel = true", "not a number", None),
        ('max_image = "5Q"', "is not a size", None),
        ("auth_file = 1", "1:13: not a text", None),
        ("registry = 1", "1:12: not a table", None),
        ("[registry]\nx = 1", "2:5: not a table", None),
        ("[registry.docker.io]\n", "1:18: a name with dots is quoted", 'write [registry."docker.io"]'),
        ('[registry."a b"]\n', "1:11: no registry's name", None),
        ('[registry."https://a.b"]\n', "1:11: no registry's name", None),
        ('[registry."a.b/c"]\n', "1:11: no registry's name", None),
        ('[registry."a.b"]\ninsecure = true', '2:1: unknown key "insecure"', 'write tls = "off"'),
        ('[registry."a.b"]\nmirror = []', 'did you mean "mirrors"?', None),
        ('[registry."a.b"]\ntls = "no"', '2:7: "verify", "unverified"', None),
        ('[registry."a.b"]\ntls = false', '2:7: "verify", "unverified"', None),
        ('[registry."a.b"]\ntls = "off"\nca = "x"', "has no effect", None),
        ('[registry."a.b"]\nkey = "x"', "a key without a certificate", None),
        ('[registry."a.b"]\nmirrors = "c.d"', "2:11: not a list", None),
        ('[registry."a.b"]\nmirrors = ["c.d", "http://e"]', "2:19: no mirror", None),
        ('[registry."a.b"]\nmirrors = ["c.d/"]', "no mirror", None),
        ('[registry."a.b"]\nmirrors = ["c.d/../e"]', "no mirror", None),
        ('[registry."a.b"]\nmirrors = [1]', "no mirror", None),
        ('[registry."a.b"]\ncredential_helper = "../x"', "not the end of a program's name", None),
        ('[registry."a.b"\n', "1:", None),
        ('ca = "\\u0000"', "unknown key", None),
    ],
)
def test_what_is_wrong_is_pointed_at(tmp_path: Path, text: str, message: str, mend: str | None) -> None:
    with pytest.raises(ImageError) as caught:
        loaded(tmp_path, text)
    assert f"{tmp_path}/registries.toml:" in caught.value.message
    assert message in caught.value.message
    assert (caught.value.mend or "").startswith(mend or "")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no"):
        load_registries(str(tmp_path / "missing"))
    with pytest.raises(ImageError, match="not a regular file"):
        load_registries(str(tmp_path))
    (tmp_path / "latin").write_bytes(b"# \xe9")
    with pytest.raises(ImageError, match="not UTF-8"):
        load_registries(str(tmp_path / "latin"))


def test_limits(tmp_path: Path) -> None:
    found = loaded(tmp_path, 'parallel = 2\nmax_image = "50G"\n')
    assert (found.parallel, found.max_image) == (2, 50 << 30)
    assert (Registries().parallel, Registries().max_image) == (4, 0)


def test_the_line_to_write(tmp_path: Path) -> None:
    line = Registries("/r.toml").line("a.b:5", 'tls = "off"')
    assert line == 'in /r.toml:\n[registry."a.b:5"]\ntls = "off"'
    assert loaded(tmp_path, line.partition("\n")[2]).host("a.b:5").tls == "off"
