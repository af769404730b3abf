"""The command's entry point, and the short way from `sandbox run` to the helper: a plan that was made before
is used again.

This is on the path of every cached run, where a bare interpreter is most of the cost. So it
imports only os, sys and marshal (a test keeps it so), decides nothing, and leaves everything
that is not exactly as it was to the slow path (`sandbox.cli.run`), which also writes the
entries (`sandbox.cli.cache`) and launches through `launch` below.

An entry is trusted only when the cache directory and the file are the user's own and closed
to others; payloads can't write there, because compiled plans protect it.
"""

# No `from __future__ import annotations`: it would be one more import.
import _imp
import marshal
import os
import sys

#: raised when entries or keys change their meaning
VERSION = 3
#: larger entries are neither written nor read, bytes
MAX_ENTRY = 16 << 20

#: variables that a plan depends on: by which files are looked for, hidden or named in it
INFLUENCES = (
    "DBUS_SESSION_BUS_ADDRESS",
    "HOME",
    "KUBERNETES_SERVICE_HOST",
    "PATH",
    "SANDBOX_CGROUP_PARENT",
    "SHELL",
    "SSH_AUTH_SOCK",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "container",
)

#: options that take no value, and options that do; the slow path's parser has the same (a test)
_FLAGS = """
    -h --help --dry-run -q --quiet --verbose --keep -d --detach
    -i --interactive -t --tty -it -ti --rm
"""
_VALUED = """
    -p --profile --report --pcap --name --require --image --root -v --bind --tmpfs -u --user --entrypoint
    -m --memory --pids --cpus --timeout --cpu-time --disk --output
    --net --publish --activate --allow -e --env --env-file -w --workdir --hostname --cgroup-parent
"""
FLAGS, VALUED = frozenset(_FLAGS.split()), frozenset(_VALUED.split())
_SLOW = ("-h", "--help", "--pcap", "--dry-run", "--name", "--keep", "-d", "--detach")

#: how the lines of proc(5)'s status begin that tell what this process may look at and make: ids,
#: supplementary groups, capabilities, whether newuidmap can gain rights
_RIGHTS = (b"Uid:", b"Gid:", b"Grou", b"CapE", b"CapB", b"NoNe")

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HELPER = PACKAGE + "/_helper/sandbox-helper"
#: what the supervisor has our interpreter execute, to explain a failed set-up. The environment is
#: empty there, so the places of modules are those of this process, less the working directory.
_DOCTOR = "import sys; sys.path[:] = {}; from sandbox.cli.fast import main; sys.exit(main(sys.argv[1:]))"

# Kinds of records (sandbox.wire.Kind), which would cost an import of enum.
_ENVIRONMENT, _ARGV, _REPORT, _VERBOSITY, _DIAGNOSE, _SCRATCH = 10, 64, 68, 69, 70, 71
_LEASE, _PCAP, _LOG, _DOOR = 79, 82, 83, 84

_REGULAR, _DIRECTORY, _TYPE, _OTHERS = 0o100000, 0o040000, 0o170000, 0o077


class Call:
    """What one call asks for besides the plan: read from its options alone."""

    __slots__ = ("door", "log", "pcap", "report", "verbosity")

    def __init__(self, verbosity: int = 1, report: str = "") -> None:
        self.verbosity = verbosity
        self.report = report
        self.log = -1  # a descriptor, for what is kept of the run
        self.door = -1  # and one that listens for who changes its ports
        self.pcap: tuple[int, ...] = ()  # of a capture: its descriptor, and how much it has room for


class Entry:
    """A plan that is ready but for its slots, as the cache keeps it; of marshal's types only.

    key          what the call was (`key_of`)
    names, prefixes  the variables that are kept from the caller's environment
    present      those of them that were set
    environment  (name, value) of the command; value None: the caller's, which is not stored
    stamps       of what the plan was made from, as `sandbox.plan.plan.FileStamp` has them
    plan         encoded, without environment
    command      what to run when the call names no command
    entrypoint   what goes before it: an image's
    leases       what is kept from being removed meanwhile (`sandbox.leases`): store, name, layers
    scratch      where to make a directory for overlays on disk, or ""
    cgroup       our own cgroup, where the plan is good for that alone, or ""
    """

    __slots__ = (
        "cgroup",
        "command",
        "entrypoint",
        "environment",
        "key",
        "leases",
        "names",
        "plan",
        "prefixes",
        "present",
        "scratch",
        "stamps",
    )

    key: tuple[object, ...]
    names: tuple[str, ...]
    prefixes: tuple[str, ...]
    present: tuple[str, ...]
    environment: tuple[tuple[str, str | None], ...]
    stamps: tuple[tuple[str, int, int, int], ...]
    plan: bytes
    command: tuple[str, ...]
    entrypoint: tuple[str, ...]
    leases: tuple[tuple[str, str, tuple[str, ...]], ...]
    scratch: str
    cgroup: str

    def pack(self) -> bytes:
        return marshal.dumps(tuple(getattr(self, name) for name in self.__slots__))

    @classmethod
    def unpack(cls, data: bytes) -> "Entry":
        entry = cls()
        for name, value in zip(cls.__slots__, marshal.loads(data), strict=True):
            setattr(entry, name, value)
        return entry


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status. *arguments*: without the program's name."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if words and words[0] == "run":
            # Whatever is odd there (an unreadable cache, no working directory) is for the slow path to say.
            try:  # noqa: SIM105 (contextlib is not imported here)
                run(words[1:])
            except Exception:
                pass
        from sandbox.cli import app

        return app.main(words)
    except KeyboardInterrupt:
        return 130


def run(arguments: list[str]) -> None:
    """Become the supervisor of `sandbox run` *arguments*, or return when it takes the slow path."""
    parts = split(arguments)
    directory = cache_directory()
    if isinstance(parts, str) or not directory:
        return
    options, command = parts
    call = call_of(options)
    key = key_of(options)
    entry = read(directory, file_name(key)) if call is not None else None
    if call is None or entry is None or entry.key != key or not current(entry):
        return
    argv = (*entry.entrypoint, *(command or entry.command))
    if not argv or _has_leftovers(entry.scratch):
        return
    leases = take_leases(entry) if entry.leases else []
    if leases is not None:
        launch(entry, argv, call, leases)


def split(
    arguments: list[str], flags: frozenset[str] = FLAGS, valued: frozenset[str] = VALUED
) -> "tuple[list[str], list[str]] | str":
    """Cut *arguments* into our options and the command; or return the option that is not known.

    The command begins behind `--`, or with the first word that is neither an option nor one's value.
    """
    at = 0
    while at < len(arguments):
        word = arguments[at]
        if word == "--":
            return arguments[:at], arguments[at + 1 :]
        if word[:1] != "-" or word == "-":
            break
        name, equals, _ = word.partition("=")
        if word in flags:
            at += 1
        elif word in valued:
            at += 2
        elif (equals and name in valued) if word[:2] == "--" else word[:2] in valued:
            at += 1
        else:
            return word
    return arguments[:at], arguments[at:]


def call_of(options: list[str]) -> Call | None:
    """The call's own options; None when one of them is for the slow path."""
    call = Call()
    at = 0
    while at < len(options):
        word = options[at]
        if word in ("-q", "--quiet"):
            call.verbosity = 0
        elif word == "--verbose":
            call.verbosity = 2
        elif word == "--report" and at + 1 < len(options):
            call.report = options[at + 1]
            if not call.report:
                return None
        elif word[:9] == "--report=":
            call.report = word[9:]
            if not call.report:
                return None
        elif word.partition("=")[0] in _SLOW:
            return None
        at += 2 if word in VALUED else 1
    return call


def key_of(options: list[str]) -> tuple[object, ...]:
    """Everything about the call, the process and the machine that a plan depends on, less its files
    and the variables that it keeps.

    Raises:
        OSError: there is no working directory, or no /proc.
    """
    cwd = os.getcwd()
    here = os.stat(cwd)
    with open("/proc/sys/kernel/random/boot_id", "rb", 0) as file:
        boot = file.read(36)
    with open("/proc/self/limits", "rb", 0) as file:  # a plan's own are no higher than the caller's
        limits = file.read(4096)
    with open("/proc/self/status", "rb", 0) as file:
        rights = [line for line in file.read().split(b"\n") if line[:4] in _RIGHTS]
    with open("/proc/sys/kernel/core_pattern", "rb", 0) as file:  # what holds limits.core
        handler = file.read(1)
    return (
        VERSION,
        sys.hexversion,
        PACKAGE,
        tuple(rights),
        os.getpriority(os.PRIO_PROCESS, 0),  # what an untrusted project's is compared with
        boot,
        handler,
        limits,
        os.stat("/proc/self/ns/user").st_ino,
        os.stat("/proc/self/ns/mnt").st_ino,
        cwd,
        here.st_dev,
        here.st_ino,
        (sys.executable, sys.prefix, sys.argv[:1]),  # protected, as what the next call executes
        tuple([os.environ.get(name) for name in INFLUENCES]),
        tuple(options),
        _reported(options),  # protected, too
    )


def _reported(options: list[str]) -> str:
    call = call_of(options)
    return report_path(call.report) if call else ""


def file_name(key: tuple[object, ...]) -> str:
    """Where an entry for *key* is. The interpreter's own 64-bit hash, because hashlib is not to be
    imported here; a collision only overwrites, for the whole key is compared."""
    return _imp.source_hash(VERSION, repr(key).encode()).hex()


def cache_directory() -> str:
    """Where entries are: `sandbox.paths.cache_dir()` + "/plans"; "" when the environment does not say."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if cache[:1] != "/":
        home = os.environ.get("HOME", "")
        cache = home + "/.cache" if home[:1] == "/" else ""
    return cache and cache + "/sandbox/plans"


def read(directory: str, name: str) -> Entry | None:
    """The entry in file *name*; None when there is none that could be trusted."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    at = fd = -1
    try:
        at = os.open(directory, flags | os.O_DIRECTORY)
        fd = os.open(name, flags | os.O_NONBLOCK, dir_fd=at)
        size = private(at) and private(fd)
        data = os.read(fd, size) if size else b""
        return Entry.unpack(data) if data and len(data) == size else None
    except FileNotFoundError:
        return None
    finally:
        for number in (at, fd):
            if number >= 0:
                os.close(number)


def private(fd: int) -> int:
    """The size of what *fd* is, when it is our user's own and closed to others; else 0."""
    status = os.fstat(fd)
    regular = status.st_mode & _TYPE == _REGULAR
    if status.st_uid != os.geteuid() or status.st_mode & _OTHERS or (regular and status.st_size > MAX_ENTRY):
        return 0
    return status.st_size if regular else 1


def current(entry: Entry) -> bool:
    """Whether all that *entry* was made from is as it was."""
    if kept(entry.names, entry.prefixes) != entry.present:
        return False
    if entry.cgroup and entry.cgroup != _own_cgroup():
        return False
    lstat = os.lstat
    for path, mtime, inode, size in entry.stamps:  # as by stamp(), which makes a tuple of each
        try:
            status = lstat(path)
        except OSError:
            if inode:
                return False
            continue
        if status.st_ino != inode:
            return False
        if mtime == -1:
            if status.st_mode & _TYPE != _DIRECTORY:
                return False
        elif status.st_mtime_ns != mtime or status.st_size != size:
            return False
    return True


def _own_cgroup() -> str:
    """The twin of `sandbox.host.delegation.own_path`, for what that has given."""
    with open("/proc/self/cgroup", "rb", 0) as file:
        for line in os.fsdecode(file.read(1 << 16)).splitlines():
            if line[:3] == "0::":
                return line[3:]
    return ""


def kept(names: tuple[str, ...], prefixes: tuple[str, ...]) -> tuple[str, ...]:
    """The variables of the environment that *names* and *prefixes* select."""
    return tuple(sorted([name for name in os.environ if name in names or name.startswith(prefixes)]))


def stamp(path: str, entries: bool = False) -> tuple[str, int, int, int]:
    """The twin of `sandbox.plan.plan.FileStamp.take`."""
    try:
        status = os.lstat(path)
    except OSError:
        return path, -1, 0, 0
    if not entries and status.st_mode & _TYPE == _DIRECTORY:
        return path, -1, status.st_ino, 0
    return path, status.st_mtime_ns, status.st_ino, status.st_size


def take_leases(entry: Entry) -> "list[int] | None":
    """Descriptors that keep the layers of *entry*; None when some are gone. The one import that only images
    cost."""
    from sandbox.leases import take

    fds = []
    for lease in entry.leases:
        fds.append(take(*lease))
        if fds[-1] < 0:
            for fd in fds[:-1]:
                os.close(fd)
            return None
    return [above_stdio(fd) for fd in fds]


def launch(
    entry: Entry, argv: "list[str] | tuple[str, ...]", call: Call, leases: "list[int] | tuple[int, ...]" = ()
) -> None:
    """Become the supervisor: fill the slots, put the plan into a memfd, and exec the helper.

    Returns only by an exception.

    Raises:
        OSError: the report can't be opened, or the helper not executed.
    """
    environ = os.environ
    environment = [
        name + "=" + (environ[name] if value is None else value) for name, value in entry.environment
    ]
    records: list[tuple[int, tuple[str | int, ...]]] = [
        (_ENVIRONMENT, tuple(environment)),
        (_ARGV, tuple(argv)),
        (_VERBOSITY, (call.verbosity,)),
        (_DIAGNOSE, diagnose(call)),
    ]
    if call.report:
        records.append((_REPORT, (open_report(call.report),)))
    if call.log >= 0:
        records.append((_LOG, (call.log,)))
    if call.door >= 0:
        records.append((_DOOR, (call.door,)))
    if call.pcap:
        records.append((_PCAP, call.pcap))
    records += [(_LEASE, (fd,)) for fd in leases]
    if entry.scratch:
        records.append((_SCRATCH, (make_scratch(entry.scratch),)))
    plan = memory_file(extend(entry.plan, records))
    # The helper starts with an empty environment: nothing of the caller's is near the payload.
    os.execve(HELPER, ["sandbox-helper", "run", str(plan)], {})


def diagnose(call: Call) -> tuple[str, ...]:
    """The command that explains a failed set-up; the supervisor adds what it was doing, the error's
    name and its message. Even a quiet supervisor's failure is told, by the one who explains it."""
    here = os.getcwd()
    places = [os.path.dirname(PACKAGE), *[each for each in sys.path if each[:1] == "/" and each != here]]
    code = _DOCTOR.format(repr(places))
    return sys.executable, "-I", "-S", "-c", code, "doctor", "--explain" if call.verbosity else "--tell"


def report_flags(report: str) -> int:
    """How a report's file is opened. A link may be what an earlier payload left, and is not followed; those
    of the kernel lead to what the caller has open. A FIFO that nobody reads is an error (ENXIO), no wait."""
    ours = report in ("/dev/stdout", "/dev/stderr") or report.startswith(("/dev/fd/", "/proc/self/fd/"))
    follow = 0 if ours else os.O_NOFOLLOW
    return os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | follow


def report_path(report: str) -> str:
    """The file that is behind a report named by its descriptor, which the shell may have opened where the
    command can write; "" when it is no file, or the report is not named so."""
    if report in ("/dev/stdout", "/dev/stderr"):
        number = "1" if report == "/dev/stdout" else "2"
    elif report[:3] == "fd:" or report.startswith(("/dev/fd/", "/proc/self/fd/")):
        number = report.rpartition("/")[2].rpartition(":")[2]
    else:
        return ""
    try:
        path = os.readlink("/proc/self/fd/" + number)
        return path if path[:1] == "/" and os.path.samestat(os.stat(int(number)), os.stat(path)) else ""
    except (OSError, ValueError):
        return ""


def open_report(report: str) -> int:
    """The descriptor that `--report` names: a new or emptied file, or fd:N.

    Raises:
        OSError: it can't be opened, or is not open; EMLINK: it has another name, by which the command could
            write to it.
    """
    if report[:3] == "fd:":
        fd = int(report[3:])
        refuse_names(fd)
        os.set_inheritable(fd, True)
        return fd
    fd = above_stdio(os.open(report, report_flags(report), 0o666))
    if refuse_names(fd):
        os.ftruncate(fd, 0)
    os.set_blocking(fd, True)
    os.set_inheritable(fd, True)
    return fd


def refuse_names(fd: int) -> bool:
    """Whether *fd* is a regular file. Its name is protected, but a hard link that an earlier command left
    where this one may write would be another.

    Raises:
        OSError: EMLINK, for a file with several names.
    """
    status = os.fstat(fd)
    if status.st_mode & _TYPE != _REGULAR:
        return False
    if status.st_nlink > 1:
        raise OSError(31, "it has other names (hard links), by which the command could write to it")
    return True


def make_scratch(parent: str) -> str:
    """A new directory in *parent* for this process, as which the supervisor will run.

    Its name says whose it is (see `_has_leftovers`).
    """
    from sandbox.owners import new_name

    path = f"{parent}/{new_name()}"
    os.mkdir(path, 0o700)
    return path


def _has_leftovers(scratch: str) -> bool:
    """Whether *scratch* has a directory of a process that is gone: the slow path removes those. Those
    elsewhere are not ours to judge (see `sandbox.owners`)."""
    names = os.listdir(scratch) if scratch else []
    if not names:
        return False
    from sandbox.owners import place

    ours = f"{place()}-"
    owners = [name[len(ours) :].partition("-")[0] for name in names if name.startswith(ours)]
    return any(not os.path.exists("/proc/" + pid) for pid in owners)


def memory_file(data: bytes) -> int:
    """A memfd with *data*, at its beginning, inherited by exec and above 2: a standard descriptor that
    the caller closed must stay closed."""
    fd = above_stdio(os.memfd_create("sandbox-plan", 0))
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def above_stdio(fd: int) -> int:
    """*fd* as one above 2, which an exec leaves open."""
    lower = []
    while fd <= 2:
        lower.append(fd)
        fd = os.dup(fd)
    for number in lower:
        os.close(number)
    os.set_inheritable(fd, True)
    return fd


def extend(plan: bytes, records: list[tuple[int, tuple[str | int, ...]]]) -> bytes:
    """`sandbox.wire.extend` for records without description and origin, without imports."""
    body = [plan[16:]]
    for kind, fields in records:
        parts = [_field(""), _field("")] + [_field(value) for value in fields]
        data = b"".join(parts)
        body.append(_little(kind, 2) + _little(len(parts), 2) + _little(8 + len(data), 4) + data)
    data = b"".join(body)
    count = int.from_bytes(plan[12:16], "little") + len(records)
    return plan[:8] + _little(16 + len(data), 4) + _little(count, 4) + data


def _field(value: str | int) -> bytes:
    data = _little(value, 8) if isinstance(value, int) else os.fsencode(value)
    return _little(len(data), 4) + data + bytes(4 - len(data) % 4)


def _little(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little", signed=value < 0)
