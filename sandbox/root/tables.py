"""Tables: which parts of the host a "host" root shows, and what /dev and /proc hold.

Not here: anything that depends on a profile or on what this machine really has.
"""

from __future__ import annotations

__all__ = [
    "DEVICES",
    "DEVICE_LINKS",
    "ETC",
    "HOST_TREES",
    "PROC_MASKED",
    "PROC_READONLY",
    "RESERVED",
    "RUNTIME",
    "RUNTIME_VARIABLES",
    "SCRATCH",
]

#: Trees of a "host" root, read-only, where they exist; links (merged /usr) stay links. Never /run,
#: /var, /home, /root, /srv, /boot: they hold sockets, secrets and other people's data.
HOST_TREES: tuple[str, ...] = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/libexec",
    "/opt",
    "/nix",
    "/gnu",
)

#: Below /etc: what host tools can't do without, read-only, where it exists. All of it is readable by
#: everybody and holds no secrets; what may (ssl/private, gitconfig, environment, wgetrc) is left out.
ETC: tuple[str, ...] = (
    "alternatives",  # 63 programs of a Debian /usr/bin are links through it
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ssl/certs",
    "ssl/openssl.cnf",
    "ssl/cert.pem",
    "pki/ca-trust",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
    "pki/tls/openssl.d",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "localtime",
    "timezone",
    "locale.alias",
    "locale.conf",
    "os-release",
    "lsb-release",
    "debian_version",
    "redhat-release",
    "fedora-release",
    "alpine-release",
    "profile",
    "profile.d",
    "bash.bashrc",
    "bash_completion.d",
    "bashrc",
    "inputrc",
    "shells",
    "terminfo",
    "services",
    "protocols",
    "mime.types",
    "magic",
    "fonts",
    "perl",
    "python3",
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
    "maven",
    "java",
    "java-8-openjdk",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "java-25-openjdk",
    "jvm",
    "texmf",
    "vim",
)

#: Device nodes of /dev: bound from the host, for nobody can make them in a user namespace (mknod(2)).
DEVICES: tuple[str, ...] = ("null", "zero", "full", "random", "urandom", "tty")

DEVICE_LINKS: tuple[tuple[str, str], ...] = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)

#: Below /proc: parts that show the machine rather than the sandbox (as container engines mask them). What
#: only the host's root could read anyway (slabinfo, kmsg, kpage*) needs no mask: nobody inside is that.
PROC_MASKED: tuple[str, ...] = (
    "acpi",
    "interrupts",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "latency_stats",
    "modules",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
)

#: Below /proc: parts that configure the kernel. Their files belong to ids that are not mapped, but some
#: are open to whoever owns a namespace.
PROC_READONLY: tuple[str, ...] = ("asound", "bus", "driver", "fs", "irq", "sys", "sysrq-trigger")

#: Of the host, below a directory that is mounted: hidden, for a read-only bind does not close a unix
#: socket, and the host's /proc shows the host's processes.
RUNTIME: tuple[str, ...] = ("/run", "/proc", "/var/run", "/tmp/.X11-unix", "/tmp/.ICE-unix")

#: Variables of the caller's that name such a directory or socket.
RUNTIME_VARIABLES: tuple[str, ...] = ("XDG_RUNTIME_DIR", "SSH_AUTH_SOCK")

#: What every sandbox has in memory, for programs that expect to be able to write there.
SCRATCH: tuple[str, ...] = ("/tmp", "/var/tmp", "/run")

#: Destinations that a profile may not mount on: what every sandbox needs to be itself.
RESERVED: frozenset[str] = frozenset(
    (
        "/",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/proc",
        *(f"/dev/{name}" for name in DEVICES),
        *(f"/dev/{name}" for name, _ in DEVICE_LINKS),
    )
)
