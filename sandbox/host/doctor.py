"""All rows of `sandbox doctor`, and which of them explains a failure."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace

from sandbox import words
from sandbox.host import cache, causes, cgroups, network, tools, trials
from sandbox.host import rows as plain
from sandbox.host.facts import Facts, gather
from sandbox.host.model import Check, Host

__all__ = ["examine", "explain", "to_json"]


def examine() -> tuple[tuple[Check, ...], Host]:
    """Every row, in the order in which they are worth reading, the required ones first; and the machine
    with the cgroup that it really gives."""
    from sandbox import paths

    helper = paths.helper()
    found = gather(helper=helper)
    container = found.host.container
    tried = _tried(found, helper)
    parent = os.environ.get("SANDBOX_CGROUP_PARENT") or "auto"
    place = cgroups.tried(container, user=found.host.user, parent=parent)
    rows = (
        plain.kernel(found.host),
        helper_row(helper),
        tried["userns"],
        _apparmor(found, helper, works=tried["userns"].ok),
        tried["proc"],
        tried["seccomp"],
        tried["net"],
        tried["idrange"],
        tried["overlay"],
        tools.fuse(container),
        tools.tun(container),
        tools.pasta(),
        tools.slirp4netns(),
        tools.nft(),
        tools.network(network.discover("auto")),
        cgroups.user_manager(found.host.user),
        cgroups.cgroup(place),
    )
    return rows, replace(found.host, cgroup=place)


def _tried(found: Facts, helper: str) -> dict[str, Check]:
    """All trials, made now; the launches that follow profit from them."""
    from sandbox import paths

    tried = trials.rows(found, helper, trials.NAMES)
    cache.store(paths.cache_dir(), found.host.key, tried)
    return tried


def helper_row(helper: str, *, run: tools.Runner = tools.output) -> Check:
    """Does our helper start, and does it speak the plans that we write?"""
    done = run([helper, "version"])
    ok = done is not None and done[0] == 0 and done[1].strip().endswith("plan version 1")
    if ok and done:
        detail = f"{helper}: {done[1].strip()}"
    elif not os.path.exists(helper):
        detail = f"{helper} does not exist"
    else:
        detail = f"{helper} does not run" if done is None else f"{helper} says {done[1].strip()[:80]!r}"
    mend = "" if ok else "install sandbox again; in a checkout, `scripts/sandbox doctor` builds it"
    return Check("helper", ok, True, detail, "no sandbox can be made", mend)


def _apparmor(found: Facts, helper: str, *, works: bool) -> Check:
    """The restriction has a row of its own, because it is the most common cause by far."""
    value = found.sysctls["kernel/apparmor_restrict_unprivileged_userns"]
    restricts = causes.apparmor_restricts(found)
    ok = works or not restricts
    detail = "AppArmor does not restrict them"
    if value:
        detail = f"kernel.apparmor_restrict_unprivileged_userns is {value}"
    if restricts and works:
        detail += ", and our helper is allowed"
    mend = "" if ok else causes.apparmor(os.path.realpath(helper))
    consequence = "an ordinary user can make no sandbox where AppArmor forbids it"
    return Check("userns-apparmor", ok, False, detail, consequence, mend)


def explain(operation: str, errno_name: str, message: str) -> Check | None:
    """The row that explains a failed set-up, or None. It is tried again here: a row that is fine
    explains nothing. Raises nothing."""
    from sandbox import paths

    name = trials.culprit(operation, errno_name, message)
    helper = paths.helper()
    if "cannot start" in message and helper in message:
        row = helper_row(helper)
    elif name is None:
        return None
    else:
        row = trials.rows(gather(helper=helper), helper, [name])[name]
    return None if row.ok else row


def to_json(rows: Collection[Check]) -> str:
    """See `sandbox.host.to_json`."""
    document = {
        "ok": all(row.ok for row in rows if row.required),
        "checks": [{field: getattr(row, field) for field in Check.__slots__} for row in rows],
    }
    return words.to_json(document, indent=2)
