"""Which ids a sandbox has: from `[user]` and the host to the maps that the helper writes.

Arithmetic only: `plan_ids` looks at nothing. Where a host's ranges come from, and what root may give,
is in `sandbox.host`. Ranges that only NSS knows (`subid:` in nsswitch.conf) are not seen.
"""

from __future__ import annotations

from sandbox.host.model import IdMap, Range
from sandbox.ids.maps import SIZE, SLICE, IdPlan, as_user, is_shared, plan_ids, server, slices

__all__ = [
    "SIZE",
    "SLICE",
    "IdMap",
    "IdPlan",
    "Range",
    "as_user",
    "is_shared",
    "plan_ids",
    "server",
    "slices",
]
