"""What an image says of its processes, checked: command, user, variables, working directory, volumes.

Pure, and strict: all of it was written by whoever made the image. The profile and the options of the call
go before it everywhere.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sandbox.errors import ImageError, ProfileError
from sandbox.ids import IdPlan, as_user
from sandbox.plan.accounts import NoSuch, Who, look_up
from sandbox.plan.invocation import at, is_below, origin_of
from sandbox.plan.layers import Settings
from sandbox.profile.kinds import nearest
from sandbox.profile.model import Profile, User
from sandbox.root import etc

__all__ = ["argv", "entered", "environment", "identify", "numbered", "stop_signal", "volumes", "workdir"]

_MOST_VOLUMES, _MOST_VARIABLES, _LONGEST = 100, 1000, 128 << 10
#: where an image's volume is nobody's business: what every sandbox has for itself, and what holds the system
_RESERVED = ("/", "/dev", "/proc", "/sys", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64")
#: what mends an image whose configuration makes no sense
_ANOTHER = "choose another image, or make one of it that is right: FROM it in a Containerfile, sandbox build"
_LOCALE = re.compile(r"LANG|LANGUAGE|LC_[A-Z]+")
_REAL_TIME = re.compile(r"SIGRT(MIN\+|MAX-)([0-9]|[12][0-9]|30)", re.ASCII)
_IDS = re.compile(r"[0-9]{1,10}:[0-9]{1,10}", re.ASCII)


def _shown(text: str) -> str:
    return ascii(text[:80])


def argv(settings: Settings | None, given: Sequence[str]) -> list[str]:
    """The command: the entry point, then what was *given*, or else the image's own.

    Raises:
        ImageError: it is none.
    """
    if settings is None:
        return list(given)
    words = [*settings.entrypoint, *(given or settings.cmd)]
    if any("\0" in word for word in words) or (words and not words[0]):
        whose = f"the image {settings.reference}" if settings.reference else "the entry point"
        raise ImageError(f"{whose} has no usable command: {_shown(' '.join(words))}", _ANOTHER)
    return words


def entered(profile: Profile, settings: Settings | None) -> Settings | None:
    """*settings* with the profile's entry point, where it has one: the image's own command was written for
    the image's own, and goes with it, as in docker and podman."""
    if profile.entrypoint is None:
        return settings
    return replace(settings or Settings(""), entrypoint=profile.entrypoint, cmd=())


# --- users ----------------------------------------------------------------------------------------------


def identify(profile: Profile, settings: Settings | None, ids: IdPlan, texts: Mapping[str, str]) -> IdPlan:
    """*ids*, by which the files of images belong to others, with the payload's: what the profile says, else
    what the image says, else root. *texts* has the root's own "passwd" and "group".

    Raises:
        ImageError: the image names a user that it does not have.
        ProfileError: the profile does, or asks for what an image can't have.
        HostError: there is no such id in the range.
    """
    origin = origin_of(profile, "user.map")
    if profile.user.map == "root":
        return as_user(ids, 0, 0)
    if profile.user.map != "keep":
        return as_user(ids, *_named(profile, texts))
    if origin.source:
        if ids.single:
            return as_user(ids, ids.host_uid, ids.host_gid)
        raise ProfileError(
            f'{at(origin)}user.map = "keep" does not go with an image: its files belong to ids of the range, '
            "and what is yours on the host is root's inside",
            'map = "root" in [user], or leave it out: the image then says who runs',
        )
    if settings is None or not settings.user:
        return as_user(ids, 0, 0)
    try:
        return as_user(ids, *_find(settings.user, texts))
    except NoSuch as error:
        raise ImageError(
            f"the image {settings.reference} wants to run as {_shown(settings.user)}, and has not "
            f"{error.what} in its /etc/{error.file}",
            "name another one: -u root, or -u UID:GID",
        ) from None


def numbered(profile: Profile, texts: Mapping[str, str]) -> User:
    """The profile's [user], with numbers for names of users and groups, which are looked up in *texts*.

    Raises:
        ProfileError: the root has no such user or group.
    """
    if profile.user.map in ("keep", "root") or _IDS.fullmatch(profile.user.map):
        return profile.user
    who = _named(profile, texts)
    return replace(profile.user, map=f"{who.uid}:{who.gid}")


def _named(profile: Profile, texts: Mapping[str, str]) -> Who:
    wanted = profile.user.map
    where = f'{at(origin_of(profile, "user.map"))}user.map = "{wanted}": '
    if profile.root.source in ("host", "empty") and not profile.root.layers and not _IDS.fullmatch(wanted):
        raise ProfileError(
            f"{where}this root has no accounts of its own", 'map = "keep", "root" or "UID:GID"'
        )
    try:
        return _find(wanted, texts)
    except NoSuch as error:
        hint = nearest(error.word, error.names)
        raise ProfileError(
            f"{where}the root has not {error.what} in its /etc/{error.file}{hint}",
            "name one that is there, or numbers: -u root, or -u UID:GID",
        ) from None


def _find(wanted: str, texts: Mapping[str, str]) -> Who:
    return look_up(wanted, texts.get("passwd", ""), texts.get("group", ""))


# --- the rest --------------------------------------------------------------------------------------------


def environment(settings: Settings | None, kept: Mapping[str, str]) -> dict[str, str]:
    """The image's variables, and over them those *kept* of the caller's; but a locale is the image's choice,
    which may not have the caller's.

    Raises:
        ImageError: one of them is none.
    """
    found: dict[str, str] = {}
    entries = settings.env if settings else ()
    if len(entries) > _MOST_VARIABLES:
        message = f"the image {settings.reference if settings else ''} sets {len(entries)} variables"
        raise ImageError(message, _ANOTHER)
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not name or not equals or "\0" in entry or len(entry) > _LONGEST:
            raise ImageError(
                f"the image {settings.reference if settings else ''} sets no variable by {_shown(entry)}",
                _ANOTHER,
            )
        found[name] = value
    return {**found, **{name: value for name, value in kept.items() if not _is_own_locale(name, found)}}


def _is_own_locale(name: str, found: Mapping[str, str]) -> bool:
    return bool(_LOCALE.fullmatch(name)) and any(_LOCALE.fullmatch(each) for each in found)


def home(settings: Settings | None) -> str:
    """The home that the image sets by HOME, "" for none."""
    for entry in settings.env if settings else ():
        name, _, value = entry.partition("=")
        if name == "HOME" and value.startswith("/") and value.isprintable() and ":" not in value:
            return _inside(value)
    return ""


def _inside(path: str) -> str:
    return os.path.normpath("/" + path.lstrip("/"))


def workdir(settings: Settings | None) -> str:
    """Where the image's processes start, "" where it does not say. However it is written it lies inside."""
    if settings is None or not settings.workdir:
        return ""
    if "\0" in settings.workdir or len(settings.workdir) > 4095:
        raise ImageError(f"the image {settings.reference} has no usable working directory", _ANOTHER)
    return _inside(settings.workdir)


def starts_in(profile: Profile, settings: Settings | None) -> bool:
    """Whether it is the image that says where its command starts, alone or in part."""
    return not (profile.process.workdir or "").startswith(("/", "~")) and workdir(settings) not in ("", "/")


def volumes(settings: Settings | None) -> tuple[str, ...]:
    """The directories that the image wants to be writable, without those that are ours or the system's.

    Raises:
        ImageError: there are too many.
    """
    if settings is None:
        return ()
    if len(settings.volumes) > _MOST_VOLUMES:
        raise ImageError(
            f"the image {settings.reference} has {len(settings.volumes)} volumes, more than {_MOST_VOLUMES}",
            _ANOTHER,
        )
    usable = [_inside(each) for each in settings.volumes if each.isprintable() and len(each) < 4096]
    return tuple(
        dict.fromkeys(
            each
            for each in sorted(usable)
            if each not in _RESERVED and not any(is_below(each, top) for top in ("/dev", "/proc", "/sys"))
        )
    )


def stop_signal(settings: Settings | None) -> int:
    """The number of the signal that asks the image's command to end; 0 where it does not say.

    Raises:
        ImageError: there is no such signal.
    """
    if settings is None or not settings.stop_signal:
        return 0
    text = settings.stop_signal
    if text.isascii() and text.isdigit() and len(text) < 3 and 0 < int(text) < signal.NSIG:
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    found = {each.name: int(each) for each in signal.Signals}.get(name)
    if match := _REAL_TIME.fullmatch(name):  # what asks systemd to end is SIGRTMIN+3
        found = signal.SIGRTMIN + int(match[2]) if match[1] == "MIN+" else signal.SIGRTMAX - int(match[2])
    if found is None or not 0 < found < signal.NSIG:
        message = f"the image {settings.reference} has the stop signal {_shown(text)}, which is none"
        raise ImageError(message, _ANOTHER)
    return found


def account_home(settings: Settings | None, passwd: str, uid: int) -> tuple[str, str]:
    """(name, home) of *uid*: as the image's own passwd(5) says, HOME before it; "/" for who has none."""
    found = etc.find_user(passwd, uid)
    name = found[0] if found else ("root" if uid == 0 else f"user{uid}")
    return name, home(settings) or (found[1] if found else "/")
