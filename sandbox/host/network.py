"""What a sandbox's own network can be made with here: a backend, nft, and the name servers to forward to.

Asked by a launch whose profile has such a network. Programs are looked for, and pasta is asked how old it is;
nothing else is started. What a plan would change by is in `Network.watched`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from sandbox.host.facts import read
from sandbox.host.model import Network

__all__ = ["discover", "name_servers"]

#: Where programs for the network are. These come before the caller's PATH: what is found runs outside, and a
#: directory of a PATH may be one that a payload writes to (a project's virtual environment).
_DIRECTORIES = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
_RESOLV = "/etc/resolv.conf"
_TUN = "/dev/net/tun"


def discover(backend: str, environ: Mapping[str, str] = os.environ) -> Network:
    """Find *backend* ("auto", "pasta", "slirp4netns") and the rest; for "proxy" the name servers alone.

    "auto" is pasta where it is new enough to be closed as it should, else slirp4netns. Raises nothing:
    `Network.reason` says what is missing, and `Network.mend` what to type.
    """
    if backend == "proxy":
        real = os.path.realpath(_RESOLV)
        return Network(name_servers=name_servers(read(_RESOLV)), watched=(_RESOLV, real))
    from sandbox.host import tools

    pasta, pasta_looked = _find("pasta", environ)
    slirp, slirp_looked = _find("slirp4netns", environ)
    nft, nft_looked = _find("nft", environ)
    date, new = "", False
    if pasta and backend != "slirp4netns":
        check = tools.pasta(run=lambda args: tools.output([pasta, *args[1:]]))
        date, new = tools.pasta_date(check.detail), check.ok
    name, path = _choose(backend, pasta if new or backend == "pasta" else "", slirp)
    reason, mend = _missing(backend, name, nft)
    real = os.path.realpath(_RESOLV)
    return Network(
        backend=name,
        path=path,
        modern=new,
        date=date,
        old=pasta if pasta and not new and name == "slirp4netns" and backend == "auto" else "",
        nft=nft,
        ipv6=os.path.exists("/proc/net/if_inet6"),
        name_servers=name_servers(read(_RESOLV)),
        resolv_conf=real,
        reason=reason,
        mend=mend,
        watched=(*pasta_looked, *slirp_looked, *nft_looked, _RESOLV, real),
    )


def name_servers(text: str) -> tuple[str, ...]:
    """The addresses of resolv.conf(5), with their scope (%eth0), without those that are none."""
    import ipaddress

    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            found.append(str(ipaddress.ip_address(words[1])))
        except ValueError:
            continue
    return tuple(found)


def _find(name: str, environ: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """The path of a program, and all that were looked at; those of a relative PATH are none."""
    directories = [each.rstrip("/") for each in environ.get("PATH", "").split(":") if each.startswith("/")]
    looked = []
    for directory in dict.fromkeys((*_DIRECTORIES, *directories)):
        path = f"{directory}/{name}"
        looked.append(path)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path, tuple(looked)
    return "", tuple(looked)


def _choose(backend: str, pasta: str, slirp: str) -> tuple[str, str]:
    for name, path in (("pasta", pasta), ("slirp4netns", slirp)):
        if path and backend in ("auto", name):
            return name, path
    return "", ""


def _missing(backend: str, name: str, nft: str) -> tuple[str, str]:
    if not name and backend == "auto":
        return (
            "neither slirp4netns nor a pasta that is new enough is installed",
            "sudo apt install slirp4netns",
        )
    if not name:
        package = "passt" if backend == "pasta" else backend
        return f"{backend} is not installed", f"sudo apt install {package}"
    if not nft:
        return "nft, which keeps the sandbox from the host, is not installed", "sudo apt install nftables"
    if not os.path.exists(_TUN):
        return f"{_TUN} does not exist", "sudo modprobe tun"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"{_TUN} can't be opened", f"sudo chmod 0666 {_TUN}"
    return "", ""
