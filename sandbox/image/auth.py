"""Credentials for registries, from where podman, skopeo and docker keep them.

Looked for in this order: the file that `registries.toml` or $REGISTRY_AUTH_FILE names, and then no other;
else podman's auth.json, at run time and in the configuration, and docker's config.json. In a file the entry
with the longest matching path counts (containers-auth.json(5)); a credential helper goes before an entry for
its registry, docker's `credsStore` behind all. Nothing is asked for, remembered or written here.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox import paths
from sandbox.errors import ImageError
from sandbox.image import credential_helper, strict_json
from sandbox.image.credential_helper import HelperError
from sandbox.image.reference import DEFAULT_REGISTRY
from sandbox.image.strict_json import Fields
from sandbox.profile import files
from sandbox.words import quote

__all__ = ["Credentials", "Keyring", "credential_files"]

_LIMIT = files.MAX_BYTES
#: Other names for the default registry in credential files.
_DEFAULT_NAMES = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")
#: What docker itself calls it, to helpers too.
_DOCKER_KEY = "https://index.docker.io/v1/"
#: The username of an answer whose secret is an identity token.
_TOKEN_USER = "<token>"


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to log in: a name and password, or an identity token (OAuth2's refresh token), or a registry token
    that is presented as it is. `source` says where they were found."""

    source: str
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


class Keyring:
    """Finds credentials. Helpers that are broken are no reason to fail while no login is needed: they are
    told by `problems`, for the message of a registry's refusal.

    Args:
        auth_file: the only file to look in, "" for the usual ones.
        helpers: by registry, the NAME of its docker-credential-NAME; asked before all files.
    """

    def __init__(self, auth_file: str = "", helpers: Mapping[str, str] | None = None) -> None:
        self.files = (auth_file,) if auth_file else credential_files()
        self.problems: list[str] = []
        self._must_exist = auth_file
        self._helpers = helpers or {}

    def find(self, registry: str, repository: str) -> Credentials | None:
        """Those for a repository of a registry ("docker.io", "library/debian"), or None.

        Raises:
            ImageError: a file can't be read or is malformed.
        """
        if registry in self._helpers:
            return self._ask(self._helpers[registry], registry)
        for path in self.files:
            document = self._open(path)
            found = self._in_file(document, path, registry, repository) if document else None
            if found is not None:
                return found
        return None

    def _open(self, path: str) -> Fields | None:
        try:
            raw, _ = files.read(path)
        except (FileNotFoundError, NotADirectoryError):
            if path == self._must_exist:
                mend = f"podman login --authfile {quote(path)} REGISTRY"
                message = f"there is no {path}, which should have the credentials"
                raise ImageError(message, mend) from None
            return None
        except OSError as error:
            mend = files.opening(os.path.abspath(path))
            message = f"the credentials in {path} can't be read: {error.strerror}"
            raise ImageError(message, mend) from None
        return strict_json.parse(raw, path, _LIMIT)

    def _in_file(self, document: Fields, path: str, registry: str, repository: str) -> Credentials | None:
        for key, helper in document.mapping("credHelpers").items():
            if _normal(key) == registry:
                found = self._ask(helper, registry)
                if found:
                    return found
        found = _entry(document.fields("auths"), path, registry, repository)
        if found is None and "credsStore" in document:
            found = self._ask(document.text("credsStore"), registry)
        return found

    def _ask(self, helper: str, registry: str) -> Credentials | None:
        names = (_DOCKER_KEY, registry) if registry == DEFAULT_REGISTRY else (registry,)
        source = f"docker-credential-{helper}"
        try:
            for name in names:
                secret = credential_helper.ask(helper, name)
                if secret is None:
                    continue
                if secret.username == _TOKEN_USER:
                    return Credentials(source, identity_token=secret.secret)
                return Credentials(source, secret.username, secret.secret)
        except HelperError as error:
            self.problems.append(error.message)
        return None


def credential_files(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The files to look in, there or not."""
    environ = os.environ if environ is None else environ
    if environ.get("REGISTRY_AUTH_FILE"):
        return (os.path.abspath(environ["REGISTRY_AUTH_FILE"]),)
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    config = environ.get("XDG_CONFIG_HOME", "")
    docker = environ.get("DOCKER_CONFIG", "")
    home = paths.home()
    return (
        f"{runtime}/containers/auth.json"
        if runtime.startswith("/")
        else f"/run/containers/{os.getuid()}/auth.json",
        f"{config if config.startswith('/') else f'{home}/.config'}/containers/auth.json",
        f"{docker if docker.startswith('/') else f'{home}/.docker'}/config.json",
    )


def _normal(key: str) -> str:
    """A key of `auths` as a registry, with a path or not: docker writes URLs there."""
    text = key.partition("://")[2] or key
    text = text.rstrip("/")
    for end in ("/v1", "/v2"):
        text = text.removesuffix(end)
    host, slash, path = text.partition("/")
    return (DEFAULT_REGISTRY if host in _DEFAULT_NAMES else host) + slash + path


def _entry(auths: Fields, path: str, registry: str, repository: str) -> Credentials | None:
    """What the longest key says that is the repository or a path above it."""
    keys: dict[str, str] = {}
    for key in auths.keys():  # noqa: SIM118  # not a mapping
        if _normal(key) not in keys or key == _normal(key):
            keys[_normal(key)] = key
    wanted = f"{registry}/{repository}"
    while True:
        if wanted in keys:
            found = _decode(auths.fields(keys[wanted]), f"{path} ({keys[wanted]})")
            if found is not None:
                return found
        if "/" not in wanted:
            return None
        wanted = wanted.rpartition("/")[0]


def _decode(entry: Fields, source: str) -> Credentials | None:
    """An entry's credentials; None for an empty one, as docker leaves where a helper has them."""
    username, password = entry.text("username", ""), entry.text("password", "")
    encoded = entry.text("auth", "")
    if encoded:
        try:
            decoded = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            decoded = ""
        username, colon, password = decoded.partition(":")
        if not colon:
            raise ImageError(f'{source}: "auth" is not NAME:PASSWORD in base64', "log in again: podman login")
        password = password.rstrip("\0")
    found = Credentials(
        source, username, password, entry.text("identitytoken", ""), entry.text("registrytoken", "")
    )
    return found if username or found.identity_token or found.registry_token else None
