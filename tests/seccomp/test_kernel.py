"""The filters, loaded into this kernel: what must fail does, and only because of them; what people
run still runs. Each filter is loaded in a fresh interpreter (confined.py), never in this one."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sandbox.seccomp import machines, program

MACHINE = platform.machine()
CONFINED = Path(__file__).with_name("confined.py")
pytestmark = pytest.mark.skipif(
    MACHINE not in machines.MACHINES, reason=f"no system call table for {MACHINE}"
)
MODES = ("default", "strict")

DENIED = {
    # what is tried: (call, arguments...), the answer; without the filter the kernel says something else
    "vsock": ("socket", 40, 1, 0, "EAFNOSUPPORT"),
    "vsock pair": ("socketpair", 40, 1, 0, "buffer", "EAFNOSUPPORT"),
    "packet socket": ("socket", 17, 3, 0, "EAFNOSUPPORT"),
    "packet socket by type": ("socket", 2, 10, 0x300, "EAFNOSUPPORT"),
    "packet socket, high word": ("socket", 17 | 1 << 32, 3, 0, "EAFNOSUPPORT"),
    "netlink sock_diag": ("socket", 16, 3, 4, "EPROTONOSUPPORT"),
    "netlink netfilter": ("socket", 16, 3, 12, "EPROTONOSUPPORT"),
    "netlink uevents": ("socket", 16, 3, 15, "EPROTONOSUPPORT"),
    "io_uring": ("io_uring_setup", 1, "buffer", "ENOSYS"),
    "io_uring enter": ("io_uring_enter", -1, 0, 0, 0, 0, 0, "ENOSYS"),
    "io_uring register": ("io_uring_register", -1, 0, 0, 0, "ENOSYS"),
    "keyctl": ("keyctl", 0, -3, 0, "EPERM"),
    "add_key": ("add_key", 0, 0, 0, 0, 0, "EPERM"),
    "request_key": ("request_key", 0, 0, 0, 0, "EPERM"),
    "bpf": ("bpf", 9999, "buffer", 8, "EPERM"),
    "perf": ("perf_event_open", 0, 0, -1, -1, 0, "EPERM"),
    "userfaultfd": ("userfaultfd", 1, "EPERM"),
    "fanotify": ("fanotify_init", 0x200, 0, "EPERM"),
    "new user namespace": ("unshare", 0x10000000, "EPERM"),
    "new network namespace": ("unshare", 0x40000000, "EPERM"),
    "clone3": ("clone3", 0, 0, "ENOSYS"),
    "setns": ("setns", -1, 0, "EPERM"),
    "mount": ("mount", 0, 0, 0, 0, 0, "EPERM"),
    "umount": ("umount2", "buffer", 0xFFFF, "EPERM"),
    "pivot_root": ("pivot_root", 0, 0, "EPERM"),
    "fsopen": ("fsopen", 0, 0, "EPERM"),
    "fsmount": ("fsmount", -1, 0, 0, "EPERM"),
    "fsconfig": ("fsconfig", -1, 0, 0, 0, 0, "EPERM"),
    "fspick": ("fspick", -1, "buffer", 0xFFFF, "EPERM"),
    "open_tree": ("open_tree", -1, "buffer", 0, "EPERM"),
    "move_mount": ("move_mount", -1, 0, -1, 0, 0, "EPERM"),
    "mount_setattr": ("mount_setattr", -1, "buffer", 0xFFFF, "buffer", 32, "EPERM"),
    "chroot": ("chroot", 0, "EPERM"),
    "sethostname": ("sethostname", 0, -1, "EPERM"),
    "open_by_handle_at": ("open_by_handle_at", -1, 0, 0, "EPERM"),
    "name_to_handle_at": ("name_to_handle_at", -1, 0, 0, 0, 0xFFFF, "EPERM"),
    "quotactl": ("quotactl", -1, 0, 0, 0, "EPERM"),
    "clock_settime": ("clock_settime", 0, 0, "EPERM"),
    "set_mempolicy": ("set_mempolicy", 99, 0, 0, "EPERM"),
    "migrate_pages": ("migrate_pages", 0, 0, 0, 0, "EPERM"),
    "TIOCSTI": ("ioctl", -1, 0x5412, "buffer", "EPERM"),
    "TIOCSTI, high word": ("ioctl", -1, 0x5412 | 1 << 32, "buffer", "EPERM"),
    "TIOCLINUX": ("ioctl", -1, 0x541C, "buffer", "EPERM"),
    "TIOCSETD": ("ioctl", -1, 0x5423, "buffer", "EPERM"),
    "READ_IMPLIES_EXEC": ("personality", 0x400000, "EPERM"),
    "MMAP_PAGE_ZERO": ("personality", 0x100000, "EPERM"),
    "huge pages": ("mmap", 0, 0, 3, 0x40022, -1, 0, "ENOMEM"),
    "a file of huge pages": ("memfd_create", "buffer", 4, "ENOMEM"),
}
# The order of clone's arguments after the first differs between machines; zeros fit all.
DENIED["clone into a user namespace"] = ("clone", 0x10000011, 0, 0, 0, 0, "EPERM")

STRICTLY_DENIED = {
    "ptrace": ("ptrace", 0x4200, -1, 0, 0, "EPERM"),
    "process_vm_readv": ("process_vm_readv", 0, 0, 0, 0, 0, 1, "EPERM"),
    "process_vm_writev": ("process_vm_writev", 0, 0, 0, 0, 0, 1, "EPERM"),
    "pidfd_getfd": ("pidfd_getfd", -1, 0, 0, "EPERM"),
    "shmget": ("shmget", 0, 0, 0, "EPERM"),
    "msgget": ("msgget", 0x5EC, 0, "EPERM"),
    "mq_open": ("mq_open", 0, 0, 0, 0, "EPERM"),
    "vmsplice": ("vmsplice", -1, 0, 0, 0, "EPERM"),
    "io_setup": ("io_setup", 0, 0, "ENOSYS"),
    "F_SETLEASE": ("fcntl", -1, 1024, 0, "EPERM"),
    "F_NOTIFY": ("fcntl", -1, 1026, 0, "EPERM"),
    "seccomp listener": ("seccomp", 1, 8, 0, "EPERM"),
}

ALLOWED = {
    "tcp": ("socket", 2, 1, 6),
    "tcp over IPv6": ("socket", 10, 1, 0),
    "udp": ("socket", 2, 0x80802, 17),
    "unix": ("socket", 1, 1, 0),
    "route": ("socket", 16, 3, 0),
    "memfd": ("memfd_create", "buffer", 0),
    "sealable memfd": ("memfd_create", "buffer", 3),
    "mmap": ("mmap", 0, 4096, 3, 0x22, -1, 0),
    "ask for the personality": ("personality", 0xFFFFFFFF),
    "no ASLR": ("personality", 0x40000),
    "unshare files": ("unshare", 0x400),
    "clone": ("clone", 17, 0, 0, 0, 0),
}


def numbered(calls):
    table = machines.load(MACHINE).calls
    return {name: [table[call], *rest] for name, (call, *rest) in calls.items()}


def confined(filter_, verb, *command, check=True, **options):
    """confined.py with the filter in the file *filter_* ("-": none)."""
    line = [sys.executable, "-I", CONFINED, filter_, verb, *command]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=120, check=False, start_new_session=True, **options
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def outcomes(filter_, calls, verb="calls"):
    text = json.dumps(numbered(calls))
    return json.loads(confined(filter_, verb, input=text).stdout)


@pytest.fixture
def filters(tmp_path):
    """Writes the filter of some options to a file and returns its path."""

    def write(mode, **options):
        path = tmp_path / f"filter-{len(list(tmp_path.iterdir()))}"
        path.write_bytes(program(mode, machine=MACHINE, **options))
        return path

    return write


def split(calls):
    """The calls, and their expected answers."""
    return {name: call[:-1] for name, call in calls.items()}, {name: call[-1] for name, call in calls.items()}


# -- Denied ----------------------------------------------------------------------------------------


@pytest.mark.as_root
@pytest.mark.parametrize("mode", MODES)
def test_denied_calls_fail(filters, mode):
    calls, expected = split(DENIED | (STRICTLY_DENIED if mode == "strict" else {}))
    assert outcomes(filters(mode), calls) == expected


def test_denied_calls_fail_for_a_payload_with_every_capability(filters):
    calls, expected = split(DENIED | STRICTLY_DENIED)
    assert outcomes(filters("strict"), calls, "owner") == expected


@pytest.mark.as_root
def test_only_the_filter_denies():
    """Without it the same calls get another answer, so the tests above can't pass for nothing."""
    calls, expected = split(DENIED | STRICTLY_DENIED)
    unfiltered = outcomes("-", calls, "owner")
    assert [name for name in calls if unfiltered[name] == expected[name]] == []


def test_default_leaves_what_only_strict_denies(filters):
    calls, expected = split(STRICTLY_DENIED)
    loose = outcomes(filters("default"), calls)
    assert [name for name in calls if loose[name] == expected[name]] == []
    assert loose == outcomes("-", calls)


@pytest.mark.as_root
@pytest.mark.parametrize("mode", MODES)
def test_allowed_calls_work(filters, mode):
    assert outcomes(filters(mode), ALLOWED) == dict.fromkeys(ALLOWED, "ok")


def test_unknown_calls_do_not_exist(filters):
    """Whether this kernel has them (459 to 461, 470) or not."""
    numbers = (459, 460, 461, 470, 472, 500, 511, 599, 1000, 0x3FFFFFFF)
    calls = {str(number): [number] for number in numbers}
    done = confined(filters("default"), "calls", input=json.dumps(calls))
    assert json.loads(done.stdout) == dict.fromkeys(calls, "ENOSYS")


def test_denied_memfd_does_not_exist(filters):
    call = {"memfd": ("memfd_create", "buffer", 0), "shm": ("shmget", 0, 0, 0)}
    path = filters("default", deny=["memfd_create", "memfd_secret", "shmget"])
    assert outcomes(path, call) == {"memfd": "ENOSYS", "shm": "EPERM"}


# -- Other architectures ---------------------------------------------------------------------------

# mov eax, 20 (i386's getpid); int 0x80; ret
INT80 = r"""
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000cd80c3"))
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
"""


@pytest.mark.as_root
@pytest.mark.skipif(MACHINE != "x86_64", reason="int 0x80 is x86's")
@pytest.mark.parametrize("mode", MODES)
def test_i386_calls_kill(filters, mode):
    done = confined(filters(mode), "exec", sys.executable, "-c", INT80, check=False)
    assert (done.returncode, done.stdout) == (-31, "")  # SIGSYS
    free = confined("-", "exec", sys.executable, "-c", INT80, check=False)
    assert free.returncode != -31  # a pid, or SIGSEGV where the kernel has no i386 emulation


@pytest.mark.skipif(MACHINE != "x86_64", reason="x32 is x86's")
@pytest.mark.parametrize("mode", MODES)
def test_x32_calls_kill(filters, mode):
    calls = json.dumps({"getpid": [0x40000027], "ioctl": [0x40000202, 0, 0x5412, 0]})
    done = confined(filters(mode), "calls", input=calls)
    assert json.loads(done.stdout) == {"getpid": "SIGSYS", "ioctl": "SIGSYS"}
    free = json.loads(confined("-", "calls", input=calls).stdout)
    assert "SIGSYS" not in free.values()


# -- The core limit --------------------------------------------------------------------------------

CORE = textwrap.dedent("""
    import resource as r
    for new in ((0, 0), (0, 1), (1, 1)):
        r.setrlimit(r.RLIMIT_CORE, new)           # gpg and ssh-agent end when this fails
    try:
        r.prlimit(0, r.RLIMIT_CORE, (0, 0))       # asks for the old one too
        print("changed by prlimit")
    except PermissionError:
        pass
    r.setrlimit(r.RLIMIT_NOFILE, (17, 17))
    print(r.getrlimit(r.RLIMIT_CORE), r.prlimit(0, r.RLIMIT_CORE), r.getrlimit(r.RLIMIT_NOFILE))
""")


def under_core_limit(filter_, code):
    """Run Python *code* with a core limit of 1 byte, set before the filter, as the helper does."""
    set_limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_CORE, (1, 1)); "
    set_limit += "os.execv(sys.argv[1], sys.argv[1:])"
    inside = [sys.executable, "-I", str(CONFINED), str(filter_), "exec", sys.executable, "-c", code]
    line = [sys.executable, "-c", set_limit, *inside]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout.strip(), done.stderr


@pytest.mark.as_root
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nested", [False, True])
def test_core_limit_stays(filters, mode, nested):
    code, out, err = under_core_limit(filters(mode, nested=nested), CORE)
    assert (code, out) == (0, "(1, 1) (1, 1) (17, 17)"), err


def test_core_limit_is_free_without_hold_core(filters):
    code = "import resource as r; r.setrlimit(r.RLIMIT_CORE, (0, 0)); print(r.getrlimit(r.RLIMIT_CORE))"
    assert under_core_limit(filters("default", hold_core=False), code)[1] == "(0, 0)"
    assert under_core_limit(filters("default"), code)[1] == "(1, 1)"


INSISTENT = [["gpg", "--batch", "--list-keys"], ["ssh-agent", "true"]]


@pytest.mark.parametrize("command", [command for command in INSISTENT if shutil.which(command[0])])
def test_programs_that_insist_on_no_core_files(filters, command, tmp_path):
    code = (
        f"import os; os.environ.update(GNUPGHOME={str(tmp_path)!r}); os.execvp({command[0]!r}, {command!r})"
    )
    code, _, err = under_core_limit(filters("default"), code)
    assert code == 0, err


# -- What people run -------------------------------------------------------------------------------

PYTHON = textwrap.dedent("""
    import asyncio, concurrent.futures as f, multiprocessing as m, os, resource, shutil, socket, sqlite3
    import subprocess, tempfile, threading, time
    with f.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(abs, range(-100, 0))) == 5050
    assert subprocess.run(["true"]).returncode == 0
    assert subprocess.run("echo $((6 * 7)) | cat", shell=True, capture_output=True).stdout == b"42\\n"
    with m.get_context("spawn").Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
    lock, shared = m.Lock(), m.Value("i", 3)
    with lock:
        shared.value += 1
    async def main():
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        server.close()
    asyncio.run(main())
    socket.getaddrinfo("localhost", 80), socket.if_nameindex(), socket.socketpair()
    with tempfile.TemporaryDirectory() as top:
        data = sqlite3.connect(os.path.join(top, "x.db"))
        data.execute("create table t(a)"), data.commit()
        shutil.copyfile(os.path.join(top, "x.db"), os.path.join(top, "y.db"))
        os.mkfifo(os.path.join(top, "fifo"))
    os.nice(1), os.sched_getaffinity(0), os.getrandom(8), os.pidfd_open(os.getpid()), time.sleep(0.01)
    print("works")
""")

C = textwrap.dedent("""
    #include <pthread.h>
    #include <spawn.h>
    #include <stdio.h>
    #include <sys/wait.h>
    #include <threads.h>
    extern char **environ;
    static void *run(void *p) { return p; }
    int main(void) {
        pthread_t t; pid_t child; int status;
        char *argv[] = {"true", NULL};
        if (pthread_create(&t, NULL, run, NULL) || pthread_join(t, NULL)) return 1;
        if (posix_spawnp(&child, "true", NULL, NULL, argv, environ)) return 2;
        if (waitpid(child, &status, 0) != child || status) return 3;
        return puts("works") < 0;
    }
""")

JAVA = textwrap.dedent("""
    import java.util.concurrent.*;
    import java.util.stream.*;
    public class Main {
        public static void main(String[] a) throws Exception {
            long n = IntStream.range(0, 1000).parallel().sum();
            Process p = new ProcessBuilder("true").start();
            java.net.NetworkInterface.getNetworkInterfaces();
            System.out.println(p.waitFor() == 0 && n == 499500 ? "works" : "fails");
        }
    }
""")

NODE = textwrap.dedent("""
    const {Worker} = require("worker_threads"), {execSync} = require("child_process"), fs = require("fs");
    execSync("true"); require("os").networkInterfaces();
    fs.promises.readFile(process.execPath).then(() =>
      new Worker("require('worker_threads').parentPort.postMessage(1)", {eval: true})
        .on("message", () => console.log("works")));
""")

GO = textwrap.dedent("""
    package main
    import ("fmt"; "net"; "os/exec")
    func main() {
        l, err := net.Listen("tcp", "127.0.0.1:0")
        if err != nil { panic(err) }
        go func() { c, _ := l.Accept(); c.Close() }()
        if _, err = net.Dial("tcp", l.Addr().String()); err != nil { panic(err) }
        if err = exec.Command("true").Run(); err != nil { panic(err) }
        fmt.Println("works")
    }
""")

GIT = """
set -e
git init -q . && echo hello > file && git add file
git -c user.name=a -c user.email=a@b.c commit -q -m one
git gc -q && git clone -q . copy && git -C copy log --format=%s | grep -qx one
echo works
"""

BASH = """
set -eo pipefail
seq 1 100000 | sort -rn | head -n 5 2>/dev/null | tac | tail -n 1 >/dev/null || true
coproc cat; echo x >&"${COPROC[1]}"; read -r y <&"${COPROC[0]}"; test "$y" = x
diff <(echo a) <(echo a); (sleep 0.01 & wait); mkfifo p; (echo q > p &); test "$(cat p)" = q
tar cf t.tar p; dd if=/dev/zero of=z bs=64k count=4 status=none; cp --reflink=auto z z2; cmp z z2
timeout 5 true; find . -name z2 | xargs -r -P 4 rm
echo works
"""

PROGRAMS = {
    "python": ("python3", [sys.executable, "-c", PYTHON]),
    "gcc": ("gcc", ["sh", "-c", "gcc -pthread -O2 main.c -o main && ./main"]),
    "static": ("gcc", ["sh", "-c", "gcc -pthread -static main.c -o main && ./main"]),
    "git": ("git", ["sh", "-c", GIT]),
    "bash": ("bash", ["bash", "-c", BASH]),
    "java": ("java", ["java", "Main.java"]),
    "node": ("node", ["node", "-e", NODE]),
    "go": ("go", ["sh", "-c", "go run main.go"]),
    "perl": ("perl", ["perl", "-MTime::HiRes", "-e", 'system("true") or print "works\\n"']),
}
PRESENT = [name for name, (tool, _) in PROGRAMS.items() if shutil.which(tool)]


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A directory with sources, and HOME in it."""
    top = tmp_path / "workshop"
    top.mkdir()
    for name, text in (("main.c", C), ("Main.java", JAVA), ("main.go", GO)):
        (top / name).write_text(text)
    for variable in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(top))
    return top


@pytest.mark.as_root
@pytest.mark.parametrize("name", PRESENT)
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("default", {}),
        ("strict", {}),
        ("strict", {"deny": ["memfd_create", "memfd_secret", "shmget"]}),
        ("default", {"nested": True}),
    ],
    ids=["default", "strict", "strict-deny", "nested"],
)
def test_programs_work(filters, workshop, name, mode, options):
    done = confined(filters(mode, **options), "exec", *PROGRAMS[name][1], cwd=workshop, check=False)
    assert done.stdout.splitlines()[-1:] == ["works"], done.stderr
    assert done.returncode == 0


DEBUGGERS = {
    "strace": "strace -f -o log sh -c 'true | true' && grep -q exit_group log && echo works",
    # turns address randomisation off, too
    "gdb": "gdb -nx -batch -ex run --args true 2>&1 | grep -q 'exited normally' && echo works",
}


@pytest.mark.parametrize("tool", [tool for tool in DEBUGGERS if shutil.which(tool)])
def test_debuggers_work_in_default_only(filters, workshop, tool):
    command = ["sh", "-c", DEBUGGERS[tool]]
    assert confined(filters("default"), "exec", *command, cwd=workshop).stdout == "works\n"
    done = confined(filters("strict"), "exec", *command, cwd=workshop, check=False)
    assert "works" not in done.stdout


def test_tracers_cannot_change_the_verdict(filters, workshop, need):
    """The filter sees what a tracer made of a call (Linux 4.8), and strace's skipped calls (-1)."""
    need("strace")
    inject = "strace -f -o log -e inject=getppid:retval=7 -e trace=getppid"
    code = f"{sys.executable} -c 'import os; print(os.getppid())'"
    done = confined(filters("default"), "exec", "sh", "-c", f"{inject} {code}", cwd=workshop)
    assert done.stdout == "7\n"


# The child calls getppid; the tracer makes it unshare(CLONE_NEWUSER), and prints what came of it.
TRACER = textwrap.dedent("""
    #include <errno.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/ptrace.h>
    #include <sys/syscall.h>
    #include <sys/user.h>
    #include <sys/wait.h>
    #include <unistd.h>
    int main(void) {
        struct user_regs_struct r;
        int status;
        pid_t child = fork();
        if (child == 0) {
            ptrace(PTRACE_TRACEME, 0, 0, 0);
            raise(SIGSTOP);
            _exit(syscall(SYS_getppid) == -1 ? errno : 0);
        }
        waitpid(child, &status, 0);
        do {
            ptrace(PTRACE_SYSCALL, child, 0, 0);
            waitpid(child, &status, 0);
            ptrace(PTRACE_GETREGS, child, 0, &r);
        } while (r.orig_rax != SYS_getppid);
        r.orig_rax = SYS_unshare;
        r.rdi = CLONE_NEWUSER;
        ptrace(PTRACE_SETREGS, child, 0, &r);
        ptrace(PTRACE_DETACH, child, 0, 0);
        waitpid(child, &status, 0);
        puts(WEXITSTATUS(status) ? strerrorname_np(WEXITSTATUS(status)) : "ok");
        return 0;
    }
""")


@pytest.mark.skipif(MACHINE != "x86_64", reason="the tracer knows x86_64's registers only")
def test_tracers_cannot_smuggle_calls(filters, workshop, need):
    need("gcc")
    (workshop / "tracer.c").write_text(TRACER)
    subprocess.run(["gcc", "-D_GNU_SOURCE", "tracer.c", "-o", "tracer"], cwd=workshop, check=True)
    assert confined("-", "exec", "./tracer", cwd=workshop).stdout == "ok\n"
    assert confined(filters("default"), "exec", "./tracer", cwd=workshop).stdout == "EPERM\n"


OWN_FILTER = textwrap.dedent("""
    import ctypes, struct, sys
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, int(sys.argv[1], 16)))
    prog = ctypes.create_string_buffer(struct.pack("@HP", 1, ctypes.addressof(code)))
    assert libc.prctl(22, 2, prog, 0, 0) == 0
    print(libc.syscall(int(sys.argv[2]), 0x10000000), ctypes.get_errno())
""")


def test_own_filters_cannot_weaken(filters):
    """The strictest of all filters decides: a payload's "allow all" or "log" changes nothing."""
    number = str(machines.load(MACHINE).calls["unshare"])
    for action in ("7fff0000", "7ffc0000"):  # SECCOMP_RET_ALLOW, SECCOMP_RET_LOG
        command = [sys.executable, "-c", OWN_FILTER, action, number]
        assert confined(filters("strict"), "exec", *command).stdout == "-1 1\n"
        assert confined("-", "exec", *command).stdout == "0 0\n"


@pytest.mark.parametrize("tool", ["unshare", "bwrap"])
def test_namespaces_nested_only(filters, need, tool):
    need(tool)
    command = {
        "unshare": ["unshare", "-Urmpf", "--mount-proc", "true"],
        "bwrap": ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"],
    }[tool]
    assert confined(filters("default"), "exec", *command, check=False).returncode != 0
    confined(filters("default", nested=True), "exec", *command)
    confined(filters("strict", nested=True), "exec", *command)
