"""Manifests, indexes and configurations: what is read, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.image.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    LAYER_LIMIT,
    MANIFEST_LIMIT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Manifest,
    compression,
    parse_config,
    parse_manifest,
)
from sandbox.image.platform import Platform
from tests.image.images import image, index

DIGEST = "sha256:" + "0" * 64
LAYER = "application/vnd.oci.image.layer.v1.tar"


def descriptor(media_type: str = LAYER, **more: object) -> dict[str, object]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 7, **more}


def manifest(**changes: object) -> dict[str, object]:
    made = {"schemaVersion": 2, "config": descriptor(OCI_CONFIG), "layers": [descriptor()], **changes}
    return {key: value for key, value in made.items() if value is not ...}


def parsed(document: object, media_type: str = "") -> Manifest | Index:
    return parse_manifest(json.dumps(document).encode(), media_type, "x:1")


@pytest.mark.parametrize("docker", [False, True])
def test_a_manifest(docker: bool) -> None:
    made = image({"a": b""}, {"b": b""}, docker=docker)
    for announced in ("", made.manifest.media_type, "application/json", "text/plain; charset=utf-8"):
        found = parse_manifest(made.raw, announced)
        assert isinstance(found, Manifest)
        assert found.raw == made.raw
        assert found.media_type == (DOCKER_MANIFEST if docker else OCI_MANIFEST)
        assert found.descriptor == made.manifest
        assert found.config == made.config
        assert list(found.layers) == made.layers
        assert found.is_image
        assert [compression(layer.media_type, "") for layer in found.layers] == ["gzip", "gzip"]


def test_an_index() -> None:
    made = index((image(), {"os": "linux", "architecture": "arm", "variant": "v7"}), (image(), None))
    found = parse_manifest(made.raw, OCI_INDEX)
    assert isinstance(found, Index)
    assert found.descriptor == made.manifest
    assert [each.platform for each in found.manifests] == [Platform("linux", "arm"), None]


@pytest.mark.parametrize(
    ("document", "announced", "said"),
    [
        (manifest(manifests=[]), "", "both an index and a manifest"),
        (manifest(layers=..., manifests=[]), "", "both an index and a manifest"),
        (manifest(mediaType=OCI_INDEX), "", "and is a manifest"),
        (manifest(), OCI_INDEX, "and is a manifest"),
        (manifest(mediaType=OCI_MANIFEST), DOCKER_MANIFEST, "was announced as"),
        ({"manifests": []}, OCI_MANIFEST, "and is an index"),
        ({"manifests": [], "mediaType": OCI_INDEX}, DOCKER_LIST, "was announced as"),
        (
            manifest(mediaType="application/vnd.cncf.helm.chart"),
            "",
            "is no image: its type is application/vnd.cncf",
        ),
        (manifest(), "application/vnd.docker.distribution.manifest.v1+json", "is no image"),
        ({"schemaVersion": 1, "fsLayers": []}, "", "old kind"),
        (manifest(schemaVersion=3), "", "schemaVersion"),
        (manifest(schemaVersion="2"), "", "whole number"),
        (manifest(config=...), "", 'no "mediaType"'),
        (manifest(layers=...), "", "neither layers nor manifests"),
        (manifest(layers={}), "", "not an array of objects"),
        (manifest(layers=[1]), "", "not an array of objects"),
        (manifest(layers=[descriptor()] * (LAYER_LIMIT + 1)), "", "501 entries, more than 500"),
        (manifest(layers=[descriptor(size=-1)]), "", "whole number"),
        (manifest(layers=[descriptor(size=2**63)]), "", "whole number"),
        (manifest(layers=[descriptor(size=1.5)]), "", "whole number"),
        (manifest(layers=[descriptor(digest="sha256:../../etc/passwd")]), "", "digest"),
        (manifest(layers=[descriptor(digest=None)]), "", 'no "digest"'),
        (manifest(layers=[descriptor(urls="http://x")]), "", "array of strings"),
        (manifest(annotations={"a": 1}), "", "object of strings"),
        ({}, "", "neither layers nor manifests"),
    ],
)
def test_refused(document: object, announced: str, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        parsed(document, announced)
    assert len(caught.value.message) < 500


def test_too_large() -> None:
    with pytest.raises(ImageError, match="more than"):
        parse_manifest(b" " * (MANIFEST_LIMIT + 1))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (manifest(config=descriptor("application/vnd.cncf.helm.config.v1+json")), "no container image"),
        (manifest(config=descriptor("application/vnd.oci.empty.v1+json")), "no container image"),
        (manifest(layers=[descriptor("application/vnd.in-toto+json")]), "layer 1 is of the type"),
        (manifest(layers=[descriptor(), descriptor(LAYER + "+xz")]), "layer 2 is of the type"),
        (
            manifest(layers=[descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]),
            "may not be distributed",
        ),
    ],
)
def test_no_images(document: dict[str, Any], said: str) -> None:
    found = parsed(document)
    assert isinstance(found, Manifest)
    assert not found.is_image
    with pytest.raises(ImageError, match=f"x:1.*{said}"):
        found.check_image("x:1")


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        (LAYER, "none"),
        (LAYER + "+gzip", "gzip"),
        (LAYER + "+zstd", "zstd"),
        ("application/vnd.docker.image.rootfs.diff.tar", "none"),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip"),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", "zstd"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "gzip"),
    ],
)
def test_compressions(media_type: str, expected: str) -> None:
    assert compression(media_type, "") == expected


def config(**changes: object) -> bytes:
    data = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
        **changes,
    }
    return json.dumps(data).encode()


def test_a_configuration() -> None:
    raw = config(
        variant="v2",
        created="2024-01-01T00:00:00Z",
        author="me",
        history=[{"created_by": "RUN x"}, {"empty_layer": True, "comment": "c"}],
        config={
            "User": "1:2",
            "Env": ["A=b"],
            "Entrypoint": ["/e"],
            "Cmd": None,
            "WorkingDir": "/w",
            "Volumes": {"/v": {}},
            "ExposedPorts": {"80/tcp": {}},
            "Labels": {"l": "m"},
            "StopSignal": "SIGINT",
            "Shell": ["/bin/bash", "-c"],
            "OnBuild": ["RUN y"],
        },
    )
    found = parse_config(raw)
    assert found.raw == raw
    assert found.platform == Platform("linux", "amd64", "v2")
    assert found.diff_ids == (DIGEST,)
    assert [each.empty_layer for each in found.history] == [False, True]
    process = found.config
    assert (process.entrypoint, process.cmd, process.env) == (("/e",), (), ("A=b",))
    assert (process.user, process.workdir, process.stop_signal) == ("1:2", "/w", "SIGINT")
    assert (process.volumes, process.exposed_ports) == (("/v",), ("80/tcp",))
    assert (process.labels, process.shell, process.on_build) == (
        {"l": "m"},
        ("/bin/bash", "-c"),
        ("RUN y",),
    )


def test_a_configuration_with_nothing_in_it() -> None:
    found = parse_config(b'{"config": null}')
    assert (found.diff_ids, found.history, found.config.env) == ((), (), ())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rootfs": {"type": "squashfs"}}, "rootfs.type"),
        ({"rootfs": {"diff_ids": ["x"]}}, "digest"),
        ({"config": {"Env": [1]}}, "Env"),
        ({"config": {"Env": ["A=\0"]}}, "NUL"),
        ({"config": {"Cmd": "x"}}, "Cmd"),
        ({"config": {"Volumes": ["/v"]}}, "Volumes"),
        ({"config": {"Labels": {"a": None}}}, "Labels"),
        ({"history": [None]}, "history"),
        ({"os": 1}, "os"),
    ],
)
def test_configurations_that_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ImageError, match=said):
        parse_config(config(**changes))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(DIGEST) | st.just(OCI_CONFIG),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "platform"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


@given(_json)
def test_any_document_is_read_or_refused(document: object) -> None:
    raw = json.dumps(document).encode()
    for parse in (parse_manifest, parse_config):
        try:
            assert parse(raw).raw == raw  # type: ignore[operator]
        except ImageError as error:
            assert len(error.message) < 1000
