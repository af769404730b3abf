"""What this machine can do: facts for a launch, trials for `doctor`.

`probe()` is what a launch calls: it starts nothing unless an answer is asked for that is not cached.
`examine()` is what `doctor` finds by really doing each thing once. `explain()` finds the row that
explains a failed set-up. The parts: `facts` and `delegation` (cheap), `trials` (the helper, with tiny
plans), `tools` and `cgroups` (what else there is), `cache`, `doctor` (the rows, in order).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from types import MappingProxyType

from sandbox.host.facts import gather
from sandbox.host.model import Cgroup, Check, Host, IdMap, Network, Range

__all__ = [
    "Cgroup",
    "Check",
    "Host",
    "IdMap",
    "Network",
    "Range",
    "checks",
    "examine",
    "explain",
    "probe",
    "to_json",
]


def probe(
    refresh: bool = False,
    *,
    need: Collection[str] = (),
    cgroup: str = "",
    alone: bool = False,
    network: str = "",
) -> Host:
    """The machine, for a launch.

    *need* names rows whose answer the caller can't do without ("overlay", "proc", "idrange", ...):
    one that isn't cached is found by trying, in about 10 ms each. A cached answer is always a
    good one; a bad one is never believed without trying again. *refresh* tries all of *need* anew,
    or, when it is empty, everything that a launch can ask for. *cgroup* asks for `Host.cgroup`:
    "auto", "none" or a directory; with *alone* for this process itself, which becomes the supervisor
    (see `delegation.discover`). *network* asks for `Host.network`, with that backend or "auto".

    Raises nothing: what does not work is a row in `Host.checks` with `ok` False.
    """
    from sandbox import paths

    helper = paths.helper()
    found = gather(helper=helper)
    host = found.host
    if cgroup:
        from sandbox.host.delegation import discover

        place = discover(cgroup, alone=alone, container=host.container, user=host.user)
        host = replace(host, cgroup=place)
    if network:
        from sandbox.host.network import discover as look

        host = replace(host, network=look(network))
    if not need and not refresh:
        return host
    from sandbox.host import cache

    known = {} if refresh else cache.load(paths.cache_dir(), host.key)
    rows = {**host.checks, **{name: known[name] for name in need if name in known}}
    missing = [name for name in need if name not in known]
    if missing or refresh:
        from sandbox.host import trials

        tried = trials.rows(found, helper, missing or trials.NAMES)
        cache.store(paths.cache_dir(), host.key, {**known, **tried})
        rows |= tried
    return replace(
        host,
        overlay=_works(rows, "overlay"),
        proc=_works(rows, "proc"),
        checks=MappingProxyType(rows),
    )


def _works(rows: dict[str, Check], name: str) -> bool:
    return name not in rows or rows[name].ok


def examine() -> tuple[tuple[Check, ...], Host]:
    """What works on this machine, a row each, in order; and the machine, with a cgroup that was tried.
    Starts programs; takes about a second; raises nothing. `sandbox.doctor` has rows for limits, too."""
    from sandbox.host import doctor

    return doctor.examine()


def checks() -> tuple[Check, ...]:
    """The rows of `examine` alone."""
    return examine()[0]


def explain(operation: str, errno_name: str, message: str) -> Check | None:
    """The row that explains a set-up failure: what the helper was doing (`operation`, as in its error
    object), the error's name ("EPERM", or "") and its whole message. None: no row does."""
    from sandbox.host import doctor

    return doctor.explain(operation, errno_name, message)


def to_json(rows: Collection[Check]) -> str:
    """The rows as the text that `sandbox doctor --json` prints: {"ok": bool, "checks": [{"name": ..., ...}]},
    with the fields of `Check`. `ok` is whether every required row is."""
    from sandbox.host import doctor

    return doctor.to_json(rows)
