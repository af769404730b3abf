"""A real Debian root file system as an image's archive, made once by `sandbox image import --debootstrap`.

Making it takes a minute and Debian's archive; it is kept in the tests' cache, as the guest's disk is.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import subprocess
from collections.abc import Callable
from pathlib import Path

SUITE = "bookworm"
NAME = "debian:bookworm"
#: options of mmdebstrap's that make it small; one of them changes, and another is made
OPTIONS = ("--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*")
#: what installs `package`, mounted there; what uses it then, and what that says
INSTALL = ("apt-get", "install", "-q", "-y", "/mnt/hellod.deb")
ASK = ("--", "hellod", "/var/lib/hellod")
ANSWER = "hellod:hellod:2750\n"
_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


def archive(sandbox: Callable[..., subprocess.CompletedProcess[str]], uid: int | None = None) -> Path:
    """An OCI archive with the image `NAME`, made by the command *sandbox* if there is none, in the cache of
    the user *uid*, who calls it; by default we are that."""
    home = pwd.getpwuid(os.getuid() if uid is None else uid).pw_dir
    path = Path(home, ".cache/sandbox-test", f"debian-{SUITE}.oci.tar")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            settings = {"timeout": 600, "env": {"PATH": _PATH, "SOURCE_DATE_EPOCH": "1700000000"}}
            made = sandbox("image", "import", "--debootstrap", SUITE, NAME, "--", *OPTIONS, **settings)
            assert made.returncode == 0, made.stderr
            saved = sandbox("image", "save", "-o", path, NAME, **settings)
            assert saved.returncode == 0, saved.stderr
            sandbox("image", "rm", NAME)
    return path


_CONTROL = """\
Package: hellod
Version: 1.0
Architecture: all
Maintainer: tests <tests@localhost>
Depends: adduser
Description: a package that makes a system user
"""
#: what nobody does who can't change owners
_POSTINST = """\
#!/bin/sh
set -e
adduser --quiet --system --group --no-create-home --home /var/lib/hellod hellod
chown hellod:hellod /var/lib/hellod
chmod 2750 /var/lib/hellod
"""


def package(work: Path) -> Path:
    """A package with a system user, which Debian's own tool has built."""
    root = work / "package"
    for directory in ("DEBIAN", "usr/bin", "var/lib/hellod"):
        (root / directory).mkdir(parents=True, mode=0o755)
    (root / "DEBIAN/control").write_text(_CONTROL)
    for name, text in (
        ("DEBIAN/postinst", _POSTINST),
        ("usr/bin/hellod", "#!/bin/sh\nstat -c %U:%G:%a $1\n"),
    ):
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    built = ["dpkg-deb", "--root-owner-group", "--build", str(root), "hellod.deb"]
    subprocess.run(built, check=True, capture_output=True, cwd=work)
    return work / "hellod.deb"
