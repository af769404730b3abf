"""Names of images, as docker writes them: "debian", "debian:12", "localhost:5000/team/tool@sha256:…".

The grammar and the defaults are those of distribution/reference, which docker and podman share: the first
component is a registry if it has a dot, a colon or an upper-case letter or is "localhost"; else the
registry is docker.io. What answers for a registry, and how, is `config`'s and `registry`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from sandbox.errors import DigestError, ImageError
from sandbox.image.digest import Digest

__all__ = [
    "DEFAULT_REGISTRY",
    "Reference",
    "is_registry",
    "is_repository",
    "parse_new_name",
    "parse_reference",
]

DEFAULT_REGISTRY = "docker.io"
_DEFAULT_TAG = "latest"
_DEFAULT_NAMESPACE = "library/"
_OLD_DEFAULT = "index.docker.io"
#: Longest text that is looked at: a name, a tag and a digest of the longest kinds together are shorter.
_LONGEST = 1024
_LONGEST_NAME = 255

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[([0-9a-fA-F:]+)\])(?::([0-9]{{1,5}}))?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IDENTIFIER = re.compile(r"[0-9a-f]{64}")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reference:
    """A name with its defaults filled in. `tag` is "" only where there is a digest.

    Attributes:
        registry: host, with a port if one was given: "docker.io", "localhost:5000".
        repository: the path in it: "library/debian".
        tag: "12", or "".
        digest: of the manifest or index, or None. It decides; the tag beside it is for people.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """Registry and repository: "docker.io/library/debian"."""
        return f"{self.registry}/{self.repository}"

    @property
    def key(self) -> str:
        """The one name under which a store keeps it: with the digest if there is one, else with the tag."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"

    @property
    def identifier(self) -> str:
        """What a registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag

    @property
    def familiar(self) -> str:
        """As people write it, "debian:12"; `parse_reference` gives the same reference from it."""
        end = self._end()
        for prefix in (f"{DEFAULT_REGISTRY}/{_DEFAULT_NAMESPACE}", f"{DEFAULT_REGISTRY}/"):
            short = self.name.removeprefix(prefix)
            try:
                if short != self.name and parse_reference(short + end) == self:
                    return short + end
            except ImageError:  # 64 hexadecimal digits are a name only with a registry
                continue
        return self.name + end

    def with_tag(self, tag: str) -> Reference:
        """The same repository with another tag and no digest."""
        if not _TAG.fullmatch(tag):
            raise ImageError(_bad_tag(tag))
        return replace(self, tag=tag, digest=None)

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository with a digest and no tag."""
        return replace(self, tag="", digest=digest)

    def _end(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        """Everything: "docker.io/library/debian:12@sha256:…"."""
        return self.name + self._end()


def parse_reference(text: str) -> Reference:
    """The reference that *text* writes; no tag and no digest means the tag "latest".

    Raises:
        ImageError: it isn't one; the message says what is wrong and what was probably meant.
    """
    _refuse_lookalikes(text)
    name, at, digest_text = text.partition("@")
    digest = _digest(text, digest_text) if at else None
    name, tag = _split_tag(name)
    if tag is not None and not _TAG.fullmatch(tag):
        raise ImageError(f"{_shown(text)}: {_bad_tag(tag)}")
    registry, repository = _split_registry(name)
    if not is_registry(registry):
        raise ImageError(
            f"{_shown(text)}: {_shown(registry)} is no registry; one is written HOST or HOST:PORT"
        )
    if not is_repository(repository):
        raise ImageError(*_bad_repository(text, repository))
    if len(f"{registry}/{repository}") > _LONGEST_NAME:
        raise ImageError(f"{_shown(text)}: the name has more than {_LONGEST_NAME} characters")
    return Reference(registry, repository, tag or ("" if digest else _DEFAULT_TAG), digest)


def parse_new_name(text: str) -> Reference:
    """The reference that *text* writes, for an image that is made here: one by digest would promise what only
    its maker knows.

    Raises:
        ImageError: it isn't one, or has a digest.
    """
    reference = parse_reference(text)
    if reference.digest:
        tagged = replace(reference, tag=reference.tag or _DEFAULT_TAG, digest=None)
        raise ImageError(
            f"{_shown(text)}: a new image can't be called by a digest, which is what comes of it",
            f"write {tagged.familiar}",
        )
    return reference


def is_registry(text: str) -> bool:
    """Whether *text* is written as a registry is: HOST or HOST:PORT."""
    match = _REGISTRY.fullmatch(text)
    if match is None or int(match[2] or 1) not in range(1, 65536):
        return False
    if match[1] is None:
        return True
    from ipaddress import AddressValueError, IPv6Address

    try:
        IPv6Address(match[1])
    except AddressValueError:
        return False
    return True


def is_repository(text: str) -> bool:
    """Whether *text* is written as the path of a repository is."""
    return _REPOSITORY.fullmatch(text) is not None


def _refuse_lookalikes(text: str) -> None:
    if not text:
        raise ImageError("an image's name can't be empty", "write one such as debian:12")
    if len(text) > _LONGEST:
        raise ImageError(f"{_shown(text)}: no image's name is that long")
    if match := _SCHEME.match(text):
        rest = text[match.end() :]
        raise ImageError(f'{_shown(text)}: an image\'s name has no "{match[0]}"', f"write {_shown(rest)}")
    if text.startswith(("sha256:", "sha512:")) or _IDENTIFIER.fullmatch(text):
        raise ImageError(
            f"{_shown(text)} is a digest, not a name: it does not say from which repository",
            f"write NAME@{text if ':' in text else 'sha256:' + text}"[:200],
        )


def _digest(text: str, digest: str) -> Digest:
    try:
        return Digest(digest)
    except DigestError as error:
        raise ImageError(f"{_shown(text)}: {error.message}") from None


def _split_tag(name: str) -> tuple[str, str | None]:
    """A colon after the last slash begins a tag; one before it, a port."""
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, None)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash:
        return DEFAULT_REGISTRY, _DEFAULT_NAMESPACE + name
    if first == _OLD_DEFAULT:
        first = DEFAULT_REGISTRY
    elif not (first == "localhost" or "." in first or ":" in first or first.lower() != first):
        return DEFAULT_REGISTRY, name
    if first == DEFAULT_REGISTRY and "/" not in rest:
        rest = _DEFAULT_NAMESPACE + rest
    return first, rest


def _bad_tag(tag: str) -> str:
    return f"{_shown(tag)} is no tag: up to 128 letters, digits, _ . and -, not beginning with . or -"


def _bad_repository(text: str, repository: str) -> tuple[str, str | None]:
    if repository != repository.lower() and _REPOSITORY.fullmatch(repository.lower()):
        return f"{_shown(text)}: names of images are in lower case", f"write {_shown(text.lower())}"
    return (
        f"{_shown(text)} is no image's name: components of lower-case letters and digits, joined by "
        ". _ __ or -, with a slash between them",
        None,
    )


def _shown(text: str) -> str:
    """For messages: one line, bounded, with nothing that a terminal would act on."""
    return ascii(text)[1:-1] if len(text) <= 160 else ascii(text[:150])[1:-1] + "..."
