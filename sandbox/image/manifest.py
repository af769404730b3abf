"""Manifests, indexes and configurations of images, as values.

Both families are read: OCI's (image-spec 1.1: manifest.md, image-index.md, config.md) and docker's (schema
2). The bytes that came are kept beside the values, for storing and sending on: nothing here writes JSON.
What is read is hostile: sizes and counts are bounded, and a document that two readers could take for two
things is refused. Whether content has the digest that a descriptor says is the reader's to check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sandbox.errors import ImageError
from sandbox.image import strict_json
from sandbox.image.digest import Digest, digest_of
from sandbox.image.platform import Platform, platform_of
from sandbox.image.strict_json import Fields

__all__ = [
    "CONFIG_LIMIT",
    "DOCKER_CONFIG",
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "LAYER_LIMIT",
    "MANIFEST_LIMIT",
    "MANIFEST_TYPES",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_MANIFEST",
    "Descriptor",
    "History",
    "ImageConfig",
    "Index",
    "Manifest",
    "ProcessConfig",
    "compression",
    "parse_config",
    "parse_manifest",
]

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
#: What a registry is told that we read.
MANIFEST_TYPES = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)

#: Bytes of a manifest or index: what distribution-spec asks registries to accept.
MANIFEST_LIMIT = 4 << 20
#: Bytes of a configuration.
CONFIG_LIMIT = 16 << 20
#: Layers of an image: as many as the kernel's overlay stacks.
LAYER_LIMIT = 500
#: Entries of an index, and lines of a history.
_ENTRY_LIMIT = 10_000

_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
#: Ends of a layer's media type -> its compression. docker writes ".gzip", OCI "+gzip".
_COMPRESSIONS: dict[str, Compression] = {
    "": "none",
    ".gzip": "gzip",
    "+gzip": "gzip",
    ".zstd": "zstd",
    "+zstd": "zstd",
}

Compression = Literal["none", "gzip", "zstd"]


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a blob is: its type, digest and size in bytes.

    `urls` are of layers that a registry may not distribute; they are kept, and never followed.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()

    @property
    def is_foreign(self) -> bool:
        """Whether it is a layer that registries do not keep."""
        return self.media_type.startswith((_DOCKER_FOREIGN, _OCI_FOREIGN))


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image for one platform: its configuration and its layers, lowest first."""

    raw: bytes = field(repr=False)
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def descriptor(self) -> Descriptor:
        """Of the manifest itself, by sha256."""
        return Descriptor(self.media_type, digest_of(self.raw), len(self.raw))

    @property
    def is_image(self) -> bool:
        """Whether `check_image` has nothing against it."""
        try:
            self.check_image("")
        except ImageError:
            return False
        return True

    def check_image(self, where: str) -> None:
        """Raise `ImageError` unless this is an image whose layers we can use; *where* names it.

        Registries also keep charts, signatures and the like, as manifests of other types.
        """
        if self.config.media_type not in (OCI_CONFIG, DOCKER_CONFIG):
            raise ImageError(
                f"{where} is no container image: its configuration is {_short(self.config.media_type)}"
            )
        for number, layer in enumerate(self.layers, 1):
            if layer.is_foreign:
                raise ImageError(
                    f"{where}: layer {number} may not be distributed by registries, as some of Windows; "
                    "such images can't be pulled"
                )
            compression(layer.media_type, f"{where}: layer {number}")


@dataclass(frozen=True, slots=True)
class Index:
    """The same image for several platforms."""

    raw: bytes = field(repr=False)
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def descriptor(self) -> Descriptor:
        """Of the index itself, by sha256."""
        return Descriptor(self.media_type, digest_of(self.raw), len(self.raw))


@dataclass(frozen=True, slots=True)
class History:
    """How a layer came to be, as whoever built it says; empty layers are not among the image's layers."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """What the image asks for the processes that run from it. Nothing of it is checked or resolved yet.

    Attributes:
        entrypoint, cmd: the command is the two in a row.
        env: "NAME=VALUE" each.
        user: "", "NAME", "UID", with ":GROUP" behind or not.
        workdir: as written, "" for the root.
        volumes: directories that should outlive the container.
        exposed_ports: "80/tcp" each.
        stop_signal: "SIGTERM", "15" or "".
        shell: what a Dockerfile's RUN is run by.
        on_build: Dockerfile instructions for images built upon this one (docker's images only).
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """An image's configuration. `diff_ids` are the digests of its uncompressed layers, lowest first."""

    raw: bytes = field(repr=False)
    architecture: str
    os: str
    variant: str
    diff_ids: tuple[Digest, ...]
    history: tuple[History, ...]
    config: ProcessConfig
    created: str = ""
    author: str = ""

    @property
    def digest(self) -> Digest:
        """By sha256: what is called the image's ID."""
        return digest_of(self.raw)

    @property
    def platform(self) -> Platform:
        """What the image is for, in canonical names."""
        return platform_of(self.os, self.architecture, self.variant)


def compression(media_type: str, where: str) -> Compression:
    """How a layer of that type is compressed; *where* names the layer.

    Raises:
        ImageError: it is no layer's type, or a compression that isn't supported.
    """
    for prefix in (_OCI_LAYER, _DOCKER_LAYER, _OCI_FOREIGN, _DOCKER_FOREIGN):
        end = media_type.removeprefix(prefix)
        if end != media_type and end in _COMPRESSIONS:
            return _COMPRESSIONS[end]
    raise ImageError(f"{where} is of the type {_short(media_type)}, which is no layer's that is supported")


def parse_manifest(raw: bytes, media_type: str = "", where: str = "the manifest") -> Manifest | Index:
    """The manifest or index that *raw* is.

    Args:
        media_type: what it was announced as: by a descriptor, or by a registry's Content-Type. Types that
            announce nothing, as "application/json", are ignored.
        where: names the document in messages.

    Raises:
        ImageError: malformed, too large, of an old or unknown kind, or not what was announced.
    """
    document = strict_json.parse(raw, where, MANIFEST_LIMIT)
    kind = _kind(document, media_type, where)
    if document.number("schemaVersion", 2) != 2:
        raise ImageError(f"{where} has another schemaVersion than 2")
    annotations = document.mapping("annotations")
    if kind in (OCI_INDEX, DOCKER_LIST):
        entries = tuple(_descriptor(each) for each in document.objects("manifests", _ENTRY_LIMIT))
        return Index(raw, kind, entries, annotations)
    layers = tuple(_descriptor(each) for each in document.objects("layers", LAYER_LIMIT))
    return Manifest(raw, kind, _descriptor(document.fields("config")), layers, annotations)


def _kind(document: Fields, announced: str, where: str) -> str:
    """Which of `MANIFEST_TYPES` it is. One that could be read as two is refused (CVE-2021-41190)."""
    if "manifests" in document and ("layers" in document or "config" in document):
        raise ImageError(f"{where} is both an index and a manifest: readers would differ on what it is")
    announced = announced.partition(";")[0].strip().lower()
    written = document.text("mediaType", "")
    if document.number("schemaVersion", 2) == 1 or "fsLayers" in document:
        raise ImageError(
            f"{where} is of the old kind that docker gave up in 2017 (schema 1)", "push the image again"
        )
    for media_type in (announced, written):
        if media_type.startswith("application/vnd.") and media_type not in MANIFEST_TYPES:
            raise ImageError(f"{where} is no image: its type is {_short(media_type)}")
    said = {media_type for media_type in (announced, written) if media_type in MANIFEST_TYPES}
    if len(said) > 1:
        raise ImageError(f"{where} says it is {_short(written)}, and was announced as {_short(announced)}")
    index = "manifests" in document
    if not index and "layers" not in document:
        raise ImageError(f"{where} is no manifest: it names neither layers nor manifests")
    kind = said.pop() if said else (OCI_INDEX if index else OCI_MANIFEST)
    if index != (kind in (OCI_INDEX, DOCKER_LIST)):
        raise ImageError(f"{where} says it is {_short(kind)}, and is {'an index' if index else 'a manifest'}")
    return kind


def _descriptor(entry: Fields) -> Descriptor:
    platform = None
    if "platform" in entry:
        of = entry.fields("platform")
        platform = platform_of(
            of.text("os", ""), of.text("architecture", ""), of.text("variant", ""), of.text("os.version", "")
        )
    return Descriptor(
        media_type=entry.text("mediaType"),
        digest=Digest(entry.text("digest")),
        size=entry.number("size"),
        annotations=entry.mapping("annotations"),
        platform=platform,
        urls=entry.strings("urls"),
    )


def parse_config(raw: bytes, where: str = "the image's configuration") -> ImageConfig:
    """The configuration that *raw* is.

    Raises:
        ImageError: malformed, or too large.
    """
    document = strict_json.parse(raw, where, CONFIG_LIMIT)
    rootfs = document.fields("rootfs")
    if rootfs.text("type", "layers") != "layers":
        raise ImageError(f'{where}: rootfs.type is not "layers"')
    return ImageConfig(
        raw=raw,
        architecture=document.text("architecture", ""),
        os=document.text("os", ""),
        variant=document.text("variant", ""),
        diff_ids=tuple(Digest(each) for each in rootfs.strings("diff_ids")),
        history=tuple(_history(each) for each in document.objects("history", _ENTRY_LIMIT)),
        config=_process(document.fields("config")),
        created=document.text("created", ""),
        author=document.text("author", ""),
    )


def _history(entry: Fields) -> History:
    return History(
        created=entry.text("created", ""),
        created_by=entry.text("created_by", ""),
        author=entry.text("author", ""),
        comment=entry.text("comment", ""),
        empty_layer=entry.flag("empty_layer"),
    )


def _process(config: Fields) -> ProcessConfig:
    return ProcessConfig(
        entrypoint=config.strings("Entrypoint"),
        cmd=config.strings("Cmd"),
        env=config.strings("Env"),
        user=config.text("User", ""),
        workdir=config.text("WorkingDir", ""),
        volumes=config.fields("Volumes").keys(),
        exposed_ports=config.fields("ExposedPorts").keys(),
        labels=config.mapping("Labels"),
        stop_signal=config.text("StopSignal", ""),
        shell=config.strings("Shell"),
        on_build=config.strings("OnBuild"),
    )


def _short(media_type: str) -> str:
    return ascii(media_type)[1:-1][:120] or "none"
