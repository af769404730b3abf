"""Where things of ours are: the user's directories, the helper, the built-in profiles, the installation.

The user's directories are those of platformdirs (the XDG base directory specification). It is
imported only when neither the XDG variables nor HOME decide, since it costs more than all the
rest of a start. Nothing here creates anything.
"""

from __future__ import annotations

import os
import stat
import sys

__all__ = [
    "cache_dir",
    "config_dir",
    "configs",
    "data_dir",
    "helper",
    "home",
    "installation",
    "runtime_dir",
    "state_dir",
]

_NAME = "sandbox"
#: the directory that scripts/sandbox makes for its virtual environment, with the dependencies beside that
_PRIVATE = ".sandbox-env"
_PACKAGE = os.path.dirname(os.path.realpath(__file__))
#: prefixes of a Python that belongs to the system: nobody but root writes there
_SYSTEM = frozenset(("/", "/usr", "/usr/local"))


def home() -> str:
    """The caller's home directory: HOME where that is absolute, else passwd(5)'s, else "/"."""
    value = os.environ.get("HOME", "")
    if not value.startswith("/"):
        import pwd

        try:
            value = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            value = "/"
    return os.path.normpath("/" + value.lstrip("/"))


def config_dir() -> str:
    """Where the user's own profiles are (in `profiles/`): ~/.config/sandbox."""
    return _user("XDG_CONFIG_HOME", ".config", "user_config_dir")


def cache_dir() -> str:
    """What can be made again: ~/.cache/sandbox."""
    return _user("XDG_CACHE_HOME", ".cache", "user_cache_dir")


def state_dir() -> str:
    """What is ours to remember, as which projects are trusted: ~/.local/state/sandbox."""
    return _user("XDG_STATE_HOME", ".local/state", "user_state_dir")


def data_dir() -> str:
    """What is the user's to keep: ~/.local/share/sandbox."""
    return _user("XDG_DATA_HOME", ".local/share", "user_data_dir")


def _user(variable: str, below_home: str, function: str) -> str:
    base = os.environ.get(variable, "")
    if base.startswith("/"):
        return os.path.join(base, _NAME)
    base = os.environ.get("HOME", "")
    if base:
        return os.path.join(base if base.startswith("/") else home(), below_home, _NAME)
    import platformdirs

    path: str = getattr(platformdirs, function)(_NAME)
    # Without a HOME and without an account it can be relative, and would then be the project's.
    return path if path.startswith("/") else os.path.join("/", below_home, _NAME)


def runtime_dir() -> str:
    """What lasts as long as the login: $XDG_RUNTIME_DIR/sandbox.

    The variable counts only for a directory of the user's own that is closed to others, as its specification
    asks: after su(1) it names another user's.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base.startswith("/") and _is_private(base):
        return os.path.join(base, _NAME)
    base = f"/run/user/{os.getuid()}"
    if _is_private(base):
        return os.path.join(base, _NAME)
    return os.path.join(cache_dir(), "run")


def _is_private(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def helper() -> str:
    """The helper's executable. No variable of the environment changes it."""
    return os.path.join(_PACKAGE, "_helper", "sandbox-helper")


def configs() -> str:
    """Where the built-in profiles are: `_configs` in an installed package, `configs/` in a checkout."""
    installed = os.path.join(_PACKAGE, "_configs")
    return installed if os.path.isdir(installed) else os.path.join(os.path.dirname(_PACKAGE), "configs")


def installation() -> tuple[str, ...]:
    """Everything of ours that the next call of sandbox will execute: no payload may write there. Real paths.

    That is the package with its dependencies beside it (or the checkout), the virtual environment, an
    interpreter that is not the system's, the command's own script, and where byte code is kept.
    """
    found = [_PACKAGE, os.path.dirname(_PACKAGE)]
    for prefix in (os.path.dirname(os.path.dirname(sys.executable)) if sys.executable else "", sys.prefix):
        if prefix and os.path.exists(os.path.join(prefix, "pyvenv.cfg")):
            found.append(prefix)
            found += [above for above in [os.path.dirname(prefix)] if os.path.basename(above) == _PRIVATE]
    found += [sys.base_prefix, sys.base_exec_prefix]
    script = sys.argv[0] if sys.argv else ""
    if os.path.basename(script) == _NAME and os.path.isabs(script):
        found += [script, *_checkout_of(script)]
    if sys.pycache_prefix:
        found.append(sys.pycache_prefix)
    real = [os.path.realpath(path) for path in found]
    return tuple(dict.fromkeys(path for path in real if path not in _SYSTEM))


def _checkout_of(script: str) -> list[str]:
    """The checkout that *script* is the `scripts/sandbox` of. Of another user's the package that runs is a
    copy (see scripts/sandbox), which is made anew when the original changes."""
    scripts = os.path.dirname(os.path.realpath(script))
    beside = os.path.join(scripts, "environment.py")
    return (
        [os.path.dirname(scripts)]
        if os.path.basename(scripts) == "scripts" and os.path.exists(beside)
        else []
    )
