"""Images made by hand, in a store."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sandbox.image.digest import Digest, digest_of
from sandbox.image.manifest import OCI_CONFIG, OCI_MANIFEST, Descriptor
from sandbox.image.store import Image, Store
from tests.image.layer.archives import Item, archive


def put_blob(store: Store, data: bytes) -> Digest:
    """As a pull does it."""
    digest = digest_of(data)
    with store.ingest(digest, len(data)) as ingest:
        if not ingest.present:
            ingest.write(data[ingest.offset :])
            ingest.commit()
    return digest


def put_image(
    store: Store, name: str, layers: Sequence[Sequence[Item] | bytes], config: dict[str, Any] | None = None
) -> Image:
    """An image of these layers, lowest first (archives are stored as they are), called *name*."""
    plain = [layer if isinstance(layer, bytes) else archive(*layer) for layer in layers]
    described, diff_ids = [], []
    for data in plain:
        blob = gzip.compress(data, mtime=0)
        kind = "application/vnd.oci.image.layer.v1.tar+gzip"
        described.append({"mediaType": kind, "digest": put_blob(store, blob), "size": len(blob)})
        diff_ids.append(f"sha256:{hashlib.sha256(data).hexdigest()}")
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [
            {"created": "2024-01-01T00:00:00Z", "created_by": f"layer {n}"} for n in range(len(plain))
        ],
    }
    raw = json.dumps(document).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": put_blob(store, raw), "size": len(raw)},
            "layers": described,
        }
    ).encode()
    descriptor = Descriptor(OCI_MANIFEST, put_blob(store, manifest), len(manifest))
    store.set_ref(name, descriptor)
    return store.image(descriptor)
