"""Defences of pulling and pushing, taken away one at a time: see tests/security/mutants.py."""

from __future__ import annotations

from tests.security.mutants import Mutant, one

__all__ = ["MUTANTS"]

CONNECTION = "sandbox/image/registry/connection.py"
TRANSPORT = "sandbox/image/registry/transport.py"
SESSION = "sandbox/image/registry/session.py"
TOKENS = "sandbox/image/registry/tokens.py"
CLIENT = "sandbox/image/registry/client.py"
HERE = "tests/image/registry/"
PULL = "tests/image/test_pull.py"

APPLY = "sandbox/image/layer/apply.py"
LAYERS = "tests/image/layer/"
STORE = "tests/image/test_store.py"

MUTANTS = [
    one(
        "an archive's names stay below the root",
        "sandbox/image/layer/names.py",
        "            if not resolved:\n",
        "            if not resolved and not name:\n",
        LAYERS + "test_names.py",
        "leads_out",
    ),
    one(
        "devices are not made",
        APPLY,
        '            "char": self._device,',
        '            "char": self._fifo,',
        LAYERS + "test_apply.py",
        "devices_are_left_out",
    ),
    one(
        "attributes that a driver would obey are left out",
        "sandbox/image/layer/attributes.py",
        "        if not wanted or name.startswith(DRIVERS) or (squash and name.startswith(_ACL)):",
        "        if not wanted or (squash and name.startswith(_ACL)):",
        LAYERS + "test_apply.py",
        "would_fool_a_driver",
    ),
    one(
        "what was replaced does not come back",
        APPLY,
        "            made.opaque = True\n",
        "            made.opaque = False\n",
        LAYERS + "test_apply.py",
        "between_two_directories",
    ),
    one(
        "an archive's entries are counted",
        "sandbox/image/layer/tar.py",
        "            if self.count > self._limits.entries:",
        "            if self.count > self._limits.entries << 20:",
        LAYERS + "test_tar.py",
        "test_limits",
    ),
    one(
        "bombs end",
        "sandbox/image/layer/compress.py",
        "        if made > self.floor and made > self.ratio * read:",
        "        if made > self.floor << 20 and made > self.ratio * read:",
        LAYERS + "test_compress.py",
        "bomb",
    ),
    one(
        "a layer has the diffID that its image says",
        "sandbox/image/unpacked.py",
        '        if answer.get("digest") != source.diff_id:',
        '        if not answer.get("digest"):',
        STORE,
        "not_what_its_image_says",
    ),
    one(
        "a blob has the digest that names it",
        "sandbox/image/blobs.py",
        "        elif found != self._digest.hex:",
        "        elif not found:",
        "tests/image/test_blobs.py",
        "something_else_gets_no_name",
    ),
    one(
        "what a sandbox uses is not removed",
        "sandbox/image/garbage.py",
        "        if key in used:",
        "        if key in used and not key:",
        STORE,
        "uses_stays",
    ),
    one(
        "nothing is removed while images are added",
        "sandbox/image/garbage.py",
        "        if not alone:",
        "        if not alone and only:",
        STORE,
        "nothing_goes_while",
    ),
    one(
        "the confined child has no network",
        "sandbox/image/confined.py",
        "            namespaces=sum(CLONE.values()),",
        '            namespaces=sum(CLONE.values()) - CLONE["net"],',
        "tests/image/test_confined.py",
        "what_it_can_reach",
    ),
    one(
        "the lower layers can't be written by the confined child",
        "sandbox/image/confined.py",
        "        flags = _INERT if bound.writable else readonly",
        "        flags = _INERT if bound.inside else readonly",
        "tests/image/test_confined.py",
        "what_it_can_reach",
    ),
    one(
        "authorization stays with the registry",
        SESSION,
        "if header and origin_of(request.url) == self._origin:",
        "if header:",
        HERE + "test_session.py",
        "does_not_follow",
    ),
    one(
        "a token server's redirect gets no credentials",
        SESSION,
        'if name != "Authorization"}',
        "if name}",
        HERE + "test_session.py",
        "leads_no_credentials_away",
    ),
    one(
        "challenges of other hosts are not answered",
        SESSION,
        "if answer.status != 401 or origin_of(answer.url) != self._origin:",
        "if answer.status != 401:",
        HERE + "test_session.py",
        "of_another_host_is_not_answered",
    ),
    one(
        "a 401 is answered once",
        SESSION,
        "            if fresh:\n                raise",
        "            if fresh and len(said) > 10_000:\n                raise",
        HERE + "test_session.py",
        "401_that_never_ends",
    ),
    one(
        "nothing leads from HTTPS to HTTP",
        TRANSPORT,
        'if scheme == "http" and self._origin[0] == "https":',
        'if scheme == "ftp":',
        HERE + "test_session.py",
        "never_from_https_to_http",
    ),
    Mutant(
        "nothing leads to this machine",
        (
            (TRANSPORT, "if is_near(name) and not self._near:", "if not name:"),
            (TRANSPORT, "if near and not self._near:", "if not connection:"),
        ),
        HERE + "test_session.py",
        "does_not_lead_us",
    ),
    one(
        "names that lead to this machine by their address are found out",
        TRANSPORT,
        "if near and not self._near:",
        "if not connection:",
        HERE + "test_session.py",
        "does_not_lead_us",
    ),
    one(
        "a registry's name can't lead elsewhere first",
        TRANSPORT,
        "if self._near is None and (connection",
        "if (connection",
        HERE + "test_session.py",
        "does_not_lead_us",
    ),
    one(
        "what a peer sends is counted",
        CONNECTION,
        "if self._left < 0:",
        "if self._left < -(1 << 50):",
        HERE + "test_transport.py",
        "endless_manifest",
    ),
    one(
        "a body has a least rate",
        CONNECTION,
        "if self._came < self._patience.rate_bytes:",
        "if self._came < 0:",
        HERE + "test_transport.py",
        "slow_layer",
    ),
    one(
        "a header has a time",
        CONNECTION,
        "if time.monotonic() > self._deadline:",
        "if time.monotonic() < 0:",
        HERE + "test_transport.py",
        "slowness",
    ),
    one(
        "a manifest has its digest",
        CLIENT,
        "if (wanted and digest != wanted) or",
        "if",
        PULL,
        "index_that_names_itself",
    ),
    one(
        "a configuration has its digest",
        CLIENT,
        "if len(raw) != blob.size or digest_of(raw, blob.digest.algorithm) != blob.digest:",
        "if len(raw) != blob.size:",
        HERE + "test_transport.py",
        "other_content_of_the_same_size",
    ),
    one(
        "tokens stay in their header",
        TOKENS,
        "if not _TOKEN.fullmatch(token):",
        "if not token:",
        HERE + "test_session.py",
        "tokens_that_are_none",
    ),
    one(
        "what is pushed is verified",
        "sandbox/image/registry/upload.py",
        "self._source = VerifiedReader(_opened(blob), blob.digest, blob.size)",
        "self._source = _opened(blob)",
        "tests/image/test_push.py",
        "damaged_blob",
    ),
    one(
        "JSON is not nested without end",
        "sandbox/image/strict_json.py",
        "if depth > MAX_DEPTH:",
        "if depth > 10**9:",
        "tests/image/test_strict_json.py",
        "depth_is_told or refused",
    ),
]
