"""How registries are reached: the user's `registries.toml`.

    auth_file = "~/tokens/auth.json"        # instead of podman's and docker's files
    parallel = 4                            # blobs of an image at once
    max_image = "50G"                       # most bytes of its layers, as they are transferred

    [registry."docker.io"]
    mirrors = ["mirror.example:5000", "mirror.example/hub"]     # tried first, in order
    credential_helper = "pass"              # runs docker-credential-pass

    [registry."localhost:5000"]
    tls = "off"                             # plain HTTP; "unverified": any certificate
    ca = "~/ca.pem"                         # beside the system's; cert and key: our own

A registry that is not named is reached by verified HTTPS, and there is no falling back to less. Nothing but
the user's own file is read: no image and no project can change it. Nothing is connected to here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from sandbox import paths
from sandbox.errors import ImageError, ProfileError
from sandbox.image.reference import DEFAULT_REGISTRY, Reference, is_registry, is_repository
from sandbox.profile import files
from sandbox.profile.document import Document, parse
from sandbox.profile.document import Path as Key
from sandbox.profile.kinds import nearest
from sandbox.units import parse_size
from sandbox.words import quote

__all__ = ["Endpoint", "Host", "Registries", "Tls", "default_file", "load_registries"]

Tls = Literal["verify", "unverified", "off"]

#: Where the default registry's API is, which its name does not tell.
_API_HOSTS = {DEFAULT_REGISTRY: "registry-1.docker.io"}
_KEYS = ("tls", "ca", "cert", "key", "mirrors", "credential_helper")
_MOST_PARALLEL = 16
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Host:
    """How one registry is reached.

    Attributes:
        name: as in references: "docker.io", "localhost:5000".
        tls: whether its certificate is verified, taken as it comes, or HTTP used.
        ca: a PEM file with authorities to trust besides the system's, "" for none.
        cert, key: PEM files to show to it, "" for none.
        mirrors: where its images are looked for first: HOST[:PORT] or HOST[:PORT]/PREFIX.
        credential_helper: NAME of the docker-credential-NAME that knows how to log in, "" for none.
    """

    name: str
    tls: Tls = "verify"
    ca: str = ""
    cert: str = ""
    key: str = ""
    mirrors: tuple[str, ...] = ()
    credential_helper: str = ""

    @property
    def url(self) -> str:
        """The beginning of every URL of its API, without a slash at the end."""
        scheme = "http" if self.tls == "off" else "https"
        return f"{scheme}://{_API_HOSTS.get(self.name, self.name)}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A registry, and the path that a repository has in it: a mirror's may differ from the reference's."""

    host: Host
    repository: str


@dataclass(frozen=True, slots=True)
class Registries:
    """What `registries.toml` says.

    Attributes:
        file: its name, there or not.
        hosts: registries by their names in references.
        auth_file: "" or a path.
        parallel: how many blobs of an image are transferred at once.
        max_image: most bytes of an image's layers, as they are transferred; 0 for no limit.
    """

    file: str = ""
    hosts: Mapping[str, Host] = field(default_factory=dict)
    auth_file: str = ""
    parallel: int = 4
    max_image: int = 0

    def host(self, name: str) -> Host:
        """How the registry *name* is reached."""
        return self.hosts.get(name) or Host(name)

    def sources(self, reference: Reference) -> tuple[Endpoint, ...]:
        """Where to pull from: the mirrors, then the registry itself."""
        registry = self.host(reference.registry)
        found = []
        for mirror in registry.mirrors:
            name, _, prefix = mirror.partition("/")
            path = f"{prefix}/{reference.repository}" if prefix else reference.repository
            found.append(Endpoint(self.host(name), path))
        return (*found, self.target(reference))

    def target(self, reference: Reference) -> Endpoint:
        """Where to push to: the registry itself."""
        return Endpoint(self.host(reference.registry), reference.repository)

    def line(self, name: str, setting: str) -> str:
        """The lines to write for *setting* of a registry, and where: for messages."""
        return f'in {self.file or default_file()}:\n[registry."{name}"]\n{setting}'


def default_file() -> str:
    """~/.config/sandbox/registries.toml."""
    return os.path.join(paths.config_dir(), "registries.toml")


def load_registries(file: str | None = None) -> Registries:
    """What the user's file says, or *file*; nothing, if the user's is not there.

    Raises:
        ImageError: it can't be read or says something wrong, with file, line and column.
    """
    path = file or default_file()
    try:
        data, _ = files.read(path)
        document = parse(data.decode(), path, file=path, base=os.path.dirname(os.path.abspath(path)))
        return _read(document, path)
    except FileNotFoundError:
        if file is None:
            return Registries(path)
        raise ImageError(f"there is no {path}", f"ls -ld {quote(path)}") from None
    except OSError as error:
        mend = files.opening(os.path.abspath(path))
        raise ImageError(f"{path} can't be read: {error.strerror}", mend) from None
    except UnicodeDecodeError:
        raise ImageError(f"{path} is not UTF-8", f"iconv -t UTF-8 {quote(path)}") from None
    except ProfileError as error:
        raise ImageError(error.message, error.mend) from None


def _read(document: Document, path: str) -> Registries:
    _only(document, (), document.data, ("auth_file", "parallel", "max_image", "registry"))
    tables = document.data.get("registry", {})
    if not isinstance(tables, dict):
        document.fail(("registry",), 'not a table; write [registry."HOST"]')
    hosts = {name: _host(document, name, table) for name, table in tables.items()}
    auth_file = _file(document, ("auth_file",), document.data)
    return Registries(path, hosts, auth_file, _parallel(document), _max_image(document))


def _parallel(document: Document) -> int:
    value = document.data.get("parallel", 4)
    if type(value) is not int or not 1 <= value <= _MOST_PARALLEL:
        document.fail(("parallel",), f"not a number from 1 to {_MOST_PARALLEL}")
    return value


def _max_image(document: Document) -> int:
    try:
        return parse_size(document.data.get("max_image", 0))
    except ValueError as error:
        document.fail(("max_image",), str(error))


def _host(document: Document, name: str, table: Any) -> Host:
    where: Key = ("registry", name)
    if not isinstance(table, dict):
        document.fail(where, f'not a table; write [registry."{name}"]')
    _check_name(document, where, name, table)
    _only(document, where, table, _KEYS)
    tls = table.get("tls", "verify")
    if tls not in get_args(Tls):
        document.fail((*where, "tls"), '"verify", "unverified" (any certificate) or "off" (plain HTTP)')
    host = Host(
        name,
        tls,
        _file(document, (*where, "ca"), table),
        _file(document, (*where, "cert"), table),
        _file(document, (*where, "key"), table),
        _mirrors(document, where, table),
        _helper(document, where, table),
    )
    if host.key and not host.cert:
        document.fail((*where, "key"), "a key without a certificate: add cert")
    if tls != "verify" and host.ca:
        document.fail((*where, "ca"), f'has no effect with tls = "{tls}"')
    return host


def _check_name(document: Document, where: Key, name: str, table: dict[str, Any]) -> None:
    inner = next((key for key, value in table.items() if isinstance(value, dict) and is_registry(key)), None)
    if inner is not None:  # [registry.docker.io]
        document.fail(
            (*where, inner), "a name with dots is quoted", f'write [registry."{name}.{inner}"]', key=True
        )
    if not is_registry(name):
        document.fail(where, "no registry's name; one is written HOST or HOST:PORT", key=True)


def _only(document: Document, where: Key, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            hint = nearest(key, known) or f"; there are {', '.join(known)}"
            mend = 'write tls = "off" for plain HTTP, or "unverified"' if key == "insecure" else None
            document.fail((*where, key), f'unknown key "{key}"{hint}', mend, key=True)


def _text(document: Document, key: Key, table: Mapping[str, Any]) -> str:
    value = table.get(str(key[-1]), "")
    if not isinstance(value, str) or "\0" in value:
        document.fail(key, "not a text")
    return value


def _file(document: Document, key: Key, table: Mapping[str, Any]) -> str:
    """A path: absolute, from the home with ~/, or from the file's own directory."""
    value = _text(document, key, table)
    if not value:
        return ""
    if value.startswith("~/"):
        return os.path.join(paths.home(), value[2:])
    return os.path.normpath(os.path.join(document.base or "/", value))


def _mirrors(document: Document, where: Key, table: Mapping[str, Any]) -> tuple[str, ...]:
    value = table.get("mirrors", [])
    key = (*where, "mirrors")
    if not isinstance(value, list):
        document.fail(key, 'not a list; write mirrors = ["HOST:PORT"]')
    for number, mirror in enumerate(value):
        name, slash, prefix = mirror.partition("/") if isinstance(mirror, str) else ("", "", "")
        if not is_registry(name) or (slash and not is_repository(prefix)):
            document.fail((*key, number), "no mirror; one is written HOST[:PORT] or HOST[:PORT]/PREFIX")
    return tuple(value)


def _helper(document: Document, where: Key, table: Mapping[str, Any]) -> str:
    key = (*where, "credential_helper")
    value = _text(document, key, table)
    if value and not _HELPER.fullmatch(value):
        document.fail(key, 'not the end of a program\'s name; "pass" runs docker-credential-pass')
    return value
