"""What the filter does with every system call of Linux up to 7.2, and why.

Every known call is in exactly one group. A group has one verdict per mode: "default" is for
whatever a user runs, "strict" for judges and other untrusted code (gcc, python, node, java, go,
git and bash must still work in it), and `nested` replaces both where a sandbox may make
sandboxes of its own. `capability` is one that opens the group in either mode. Calls that are
in no group, so everything newer than this table, answer ENOSYS as on a kernel without them.

Denied calls say EPERM. ENOSYS is kept for those whose callers have a fallback for kernels that
lack the call, and are known to look for that error alone.

Few capabilities open anything, since the payload's are those of a user namespace that owns
nothing: the kernel asks for CAP_SYS_TIME, CAP_SYSLOG, CAP_SYS_MODULE, CAP_BPF and the like in
the initial one, or in the owner of the mounts, so letting such calls through would show the
payload more kernel code and never succeed.
"""

from __future__ import annotations

from typing import NamedTuple

from sandbox.kernel import CAPABILITIES
from sandbox.seccomp.bpf import ALLOW, PRETEND, Action, Clause, Compare, Rule, errno

__all__ = ["GROUPS", "RULES", "STRICT_RULES", "Group", "core_rules", "rules"]

EPERM = errno(1)
ENOMEM = errno(12)
ENOSYS = errno(38)
EPROTONOSUPPORT = errno(93)
EAFNOSUPPORT = errno(97)

CAP_SYS_CHROOT, CAP_SYS_PTRACE, CAP_SYS_NICE = map(
    CAPABILITIES.index, ("SYS_CHROOT", "SYS_PTRACE", "SYS_NICE")
)


class Group(NamedTuple):
    """Calls that are treated alike. `nested` None: as the mode says; `capability` -1: none."""

    purpose: str
    calls: str
    default: Action
    strict: Action
    nested: Action | None = None
    capability: int = -1


def _open(purpose: str, calls: str) -> Group:
    return Group(purpose, calls, ALLOW, ALLOW)


GROUPS = (
    # -- What programs live on: allowed in both modes --------------------------------------------
    _open(
        "files: opening, reading, writing",
        "read write open openat openat2 creat close close_range lseek pread64 pwrite64 readv writev "
        "preadv pwritev preadv2 pwritev2 dup dup2 dup3 pipe pipe2 fcntl flock ioctl sendfile "
        "copy_file_range splice tee truncate ftruncate fallocate fadvise64 readahead fsync fdatasync "
        "sync_file_range syncfs",
    ),
    # Special files need no rule: without CAP_MKNOD in the initial namespace only FIFOs, sockets
    # and whiteouts can be made. Extended attributes in *at form (6.13) add no power.
    _open(
        "files: names, attributes, directories",
        "stat fstat lstat newfstatat statx access faccessat faccessat2 statfs fstatfs getdents "
        "getdents64 getcwd chdir fchdir mkdir mkdirat rmdir rename renameat renameat2 link linkat "
        "unlink unlinkat symlink symlinkat readlink readlinkat mknod mknodat chmod fchmod fchmodat "
        "fchmodat2 chown fchown lchown fchownat umask utime utimes utimensat futimesat setxattr "
        "lsetxattr fsetxattr setxattrat getxattr lgetxattr fgetxattr getxattrat listxattr llistxattr "
        "flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat inotify_init "
        "inotify_init1 inotify_add_watch inotify_rm_watch",
    ),
    # mlock is bounded by RLIMIT_MEMLOCK. Runtimes seal and colour their own memory (mseal, pkeys,
    # shadow stacks). memfd_create is what the launcher denies where nothing counts shared memory.
    _open(
        "memory",
        "mmap munmap mprotect mremap msync mincore madvise brk mlock mlock2 munlock mlockall "
        "munlockall memfd_create pkey_mprotect pkey_alloc pkey_free membarrier mseal map_shadow_stack "
        "remap_file_pages",
    ),
    # uretprobe and uprobe are called by code that the kernel itself plants in a process traced by
    # the host's administrator; an error would crash the payload and hides nothing.
    _open(
        "processes and threads",
        "clone unshare fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill pidfd_open "
        "pidfd_send_signal getpid getppid gettid getpgid getpgrp setpgid getsid setsid set_tid_address "
        "set_robust_list get_robust_list rseq rseq_slice_yield prctl arch_prctl personality "
        "restart_syscall uretprobe uprobe futex futex_wait futex_wake futex_requeue futex_waitv",
    ),
    # Identity changes stay within the ids that the namespace maps. Programs may confine
    # themselves further by seccomp and Landlock.
    _open(
        "identity, limits, scheduling, own confinement",
        "getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid "
        "setresuid setresgid setfsuid setfsgid setgroups capget capset getrlimit setrlimit prlimit64 "
        "getrusage times getpriority setpriority ioprio_get ioprio_set sched_yield sched_getaffinity "
        "sched_setaffinity sched_getparam sched_setparam sched_getscheduler sched_setscheduler "
        "sched_getattr sched_setattr sched_get_priority_max sched_get_priority_min "
        "sched_rr_get_interval getcpu seccomp landlock_create_ruleset landlock_add_rule "
        "landlock_restrict_self",
    ),
    _open(
        "signals, timers, clocks, waiting",
        "rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo "
        "rt_sigsuspend rt_sigreturn sigaltstack pause alarm signalfd signalfd4 eventfd eventfd2 "
        "nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time getitimer setitimer "
        "timer_create timer_settime timer_gettime timer_getoverrun timer_delete timerfd_create "
        "timerfd_settime timerfd_gettime poll ppoll select pselect6 epoll_create epoll_create1 "
        "epoll_ctl epoll_wait epoll_pwait epoll_pwait2",
    ),
    _open(
        "sockets",
        "socket socketpair bind listen accept accept4 connect shutdown getsockname getpeername "
        "setsockopt getsockopt sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg",
    ),
    _open("about the system", "uname sysinfo getrandom"),
    # -- Allowed in default, not for judges -------------------------------------------------------
    # Safe under seccomp since Linux 4.8: the filter sees the call that the tracer left. Debuggers,
    # strace and sanitizers need them; a judged program that traces its own children only hides
    # what it does, and this is where many kernel bugs were.
    Group(
        "debugging other processes",
        "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise process_mrelease",
        ALLOW,
        EPERM,
        capability=CAP_SYS_PTRACE,
    ),
    # Their objects outlive processes and are charged to none, so a memory limit that is held by
    # watching processes misses them; msgsnd is the usual tool for shaping the kernel's heap. Python,
    # Java and node use POSIX semaphores and shared mappings, which are allowed.
    Group(
        "System V IPC and message queues",
        "shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl "
        "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
        ALLOW,
        EPERM,
    ),
    # Databases and qemu use these; all fall back to threads.
    Group("kernel AIO", "io_setup io_destroy io_getevents io_pgetevents io_submit io_cancel", ALLOW, ENOSYS),
    # What other sandboxes and the host hold in the page cache of shared files can be told by
    # cachestat; secret memory is invisible to whoever watches; the others are new code that nothing
    # depends on yet. /proc/self/mountinfo says what statmount does.
    Group(
        "new calls with older equivalents",
        "cachestat memfd_secret statmount listmount file_getattr file_setattr",
        ALLOW,
        ENOSYS,
    ),
    # sync waits for every disk of the host; vmsplice lends pages to pipes (CVE-2020-29374);
    # adjtimex only reads without CAP_SYS_TIME, and nobody judged needs the clock's drift.
    Group("host-wide or rarely needed", "sync vmsplice adjtimex clock_adjtime", ALLOW, EPERM),
    # -- Opened by a capability, or for nested sandboxes --------------------------------------------
    Group("chroot", "chroot", EPERM, EPERM, nested=ALLOW, capability=CAP_SYS_CHROOT),
    # Needs no capability in the kernel; tied to CAP_SYS_NICE as in docker, because pinning memory
    # to nodes disturbs neighbours and the code has a history of bugs.
    Group(
        "memory placement on NUMA nodes",
        "get_mempolicy set_mempolicy mbind set_mempolicy_home_node",
        EPERM,
        EPERM,
        capability=CAP_SYS_NICE,
    ),
    # A user namespace of its own would give the payload every capability over fresh mount and
    # network namespaces: the way into most local privilege escalations of the last ten years.
    # The rules for clone and unshare below belong to this group.
    Group(
        "mounts and namespaces",
        "mount umount2 pivot_root setns open_tree open_tree_attr move_mount fsopen fsconfig fsmount "
        "fspick mount_setattr sethostname setdomainname",
        EPERM,
        EPERM,
        nested=ALLOW,
    ),
    # A filter can't see its flags, which are in memory. C libraries and Go fall back to clone, but
    # only when told that the call does not exist.
    Group("clone3", "clone3", ENOSYS, ENOSYS, nested=ALLOW),
    # -- Never ------------------------------------------------------------------------------------
    # Keyrings are not namespaced by session: keys of the launching user would be in reach. Container
    # runtimes (nested) go on without when the kernel has none.
    Group("kernel keyrings", "add_key request_key keyctl", EPERM, EPERM, nested=ENOSYS),
    # An interpreter of system calls that this filter can't look into, with the most privilege
    # escalations of any part of the kernel. libuv, Java and databases fall back.
    Group("io_uring", "io_uring_setup io_uring_enter io_uring_register", ENOSYS, ENOSYS),
    Group(
        "kernel programming and tracing",
        "bpf perf_event_open userfaultfd fanotify_init fanotify_mark",
        EPERM,
        EPERM,
    ),
    # Handles reach any file of a file system, whatever the mount shows of it.
    Group("files by handle", "name_to_handle_at open_by_handle_at", EPERM, EPERM),
    Group("moving memory between NUMA nodes", "migrate_pages move_pages", EPERM, EPERM),
    Group("kernel log", "syslog", EPERM, EPERM),
    Group(
        "administration of the machine",
        "init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct "
        "quotactl quotactl_fd settimeofday clock_settime iopl ioperm vhangup",
        EPERM,
        EPERM,
    ),
    # Changing the label that the next program runs under is not the payload's; reading it is done
    # through /proc. listns (6.19) enumerates namespaces.
    Group(
        "security modules, list of namespaces",
        "lsm_get_self_attr lsm_set_self_attr lsm_list_modules listns",
        ENOSYS,
        ENOSYS,
    ),
    # Removed from kernels, or left out by many; 64-bit programs never needed an own LDT.
    Group(
        "obsolete",
        "modify_ldt uselib ustat sysfs _sysctl lookup_dcookie create_module get_kernel_syms "
        "query_module nfsservctl getpmsg putpmsg afs_syscall tuxcall security vserver set_thread_area "
        "get_thread_area epoll_ctl_old epoll_wait_old",
        ENOSYS,
        ENOSYS,
    ),
)


# -- Calls judged by their arguments ---------------------------------------------------------------
# Constants are those of linux/sched.h, linux/socket.h, linux/net.h, linux/in.h, linux/netlink.h,
# linux/personality.h, asm-generic/ioctls.h, linux/fcntl.h, linux/mman.h, linux/memfd.h, linux/shm.h: equal
# on all our machines.

# NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET. clone takes 32 bits of flags and has no
# NEWTIME (its bit belongs to the exit signal there); unshare has.
_CLONE_NEW = 0x7E02_0000
_CLONE_NEWTIME = 0x80


def _no_namespaces(call: str, flags: int) -> Rule:
    """Refuse *call* when its first argument has any of *flags*."""
    return Rule(
        (Clause((Compare(0, (0,), flags, negate=True),), EPERM),), ALLOW, f"{call}: no new namespaces"
    )


_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_RAW, _SOCK_PACKET, _SOCK_TYPE_MASK = 1, 2, 3, 10, 0xF
# An unknown type or protocol makes the kernel load the module that claims it, as root, into the
# host: so only streams and datagrams of IP (0), ICMP, TCP, UDP, ICMPV6, UDPLITE and MPTCP, and not
# SCTP, DCCP (which owns a type, too), L2TP, SMC and the like.
_PROTOCOLS = (0, 1, 6, 17, 58, 136, 262)
_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12


def _socket(netlink: tuple[int, ...], names: str) -> Rule:
    """Families and protocols that socket and socketpair may use; errors are the kernel's own."""
    return Rule(
        (
            # AF_INET with this type is AF_PACKET by another name (net/socket.c, __sock_create).
            Clause((Compare(1, (_SOCK_PACKET,), _SOCK_TYPE_MASK),), EAFNOSUPPORT),
            Clause((Compare(0, (_AF_UNIX,)),), ALLOW),
            # Raw sockets need CAP_NET_RAW, take any protocol, and load nothing.
            Clause((Compare(0, (_AF_INET, _AF_INET6)), Compare(1, (_SOCK_RAW,), _SOCK_TYPE_MASK)), ALLOW),
            Clause(
                (
                    Compare(0, (_AF_INET, _AF_INET6)),
                    Compare(1, (_SOCK_STREAM, _SOCK_DGRAM), _SOCK_TYPE_MASK),
                    Compare(2, _PROTOCOLS),
                ),
                ALLOW,
            ),
            Clause((Compare(0, (_AF_NETLINK,)), Compare(2, netlink)), ALLOW),
            Clause((Compare(0, (_AF_INET, _AF_INET6, _AF_NETLINK)),), EPROTONOSUPPORT),
        ),
        EAFNOSUPPORT,
        f"socket, socketpair: only UNIX, INET and INET6 (TCP, UDP, ICMP) and NETLINK ({names})",
    )


# TIOCSTI types into the terminal, TIOCLINUX pastes on a console; TIOCSETD loads modules of line
# disciplines, a frequent source of holes.
_IOCTL = Rule(
    (Clause((Compare(1, (0x5412, 0x541C, 0x5423)),), EPERM),),
    ALLOW,
    "ioctl: no TIOCSTI, TIOCLINUX, TIOCSETD",
)

# Allowed: asking (0xffffffff), and any mix of PER_LINUX32 (8), UNAME26 (0x20000) and, for debuggers
# and sanitizers, ADDR_NO_RANDOMIZE (0x40000). Not READ_IMPLIES_EXEC or MMAP_PAGE_ZERO.
_PERSONALITY = Rule(
    (
        Clause((Compare(0, (0xFFFF_FFFF,)),), ALLOW),
        Clause((Compare(0, (0,), ~(0x8 | 0x2_0000 | 0x4_0000) & 0xFFFF_FFFF),), ALLOW),
    ),
    EPERM,
    "personality: only PER_LINUX32, UNAME26, ADDR_NO_RANDOMIZE",
)


def _no_huge_pages(call: str, argument: int, flag: int) -> Rule:
    """Memory cgroups don't count the huge pages that an administrator set aside, and no process's share of
    memory has them in it: so there are none, as on a machine where nobody did. All who ask do without."""
    return Rule(
        (Clause((Compare(argument, (0,), flag, negate=True),), ENOMEM),), ALLOW, f"{call}: no huge pages"
    )


# MAP_HUGETLB, MFD_HUGETLB, SHM_HUGETLB. Transparent huge pages are counted, and allowed.
_HUGE_PAGES = {
    "mmap": _no_huge_pages("mmap", 3, 0x4_0000),
    "memfd_create": _no_huge_pages("memfd_create", 1, 0x4),
    "shmget": _no_huge_pages("shmget", 2, 0x800),
}

_SOCKET = _socket((_NETLINK_ROUTE,), "ROUTE")
# Container engines set up their networks with nftables.
_NESTED_SOCKET = _socket((_NETLINK_ROUTE, _NETLINK_NETFILTER), "ROUTE, NETFILTER")

#: Rules by call, in both modes. They replace "allowed" and nothing else.
#: init is of the payload's own user, so that the kernel would let it change init's limits and scheduling
#: (no file descriptors: no measuring; idle priority: no answers). Its number is 1 in every sandbox.
_IS_INIT = Clause((Compare(0, (1,)),), EPERM)
_INIT_BY_WHO = (  # which: 0 a process, 1 a group, 2 a user, who is init too
    Clause((Compare(0, (0, 1)), Compare(1, (1,))), EPERM),
    Clause((Compare(0, (2,)),), EPERM),
)
_INIT_BY_WHO_IOPRIO = (  # the same, counted from 1
    Clause((Compare(0, (1, 2)), Compare(1, (1,))), EPERM),
    Clause((Compare(0, (3,)),), EPERM),
)
_NOT_INIT = {
    **{
        name: Rule((_IS_INIT,), ALLOW, f"{name}: not of init")
        for name in (
            "prlimit64",
            "sched_setaffinity",
            "sched_setattr",
            "sched_setparam",
            "sched_setscheduler",
        )
    },
    "setpriority": Rule(_INIT_BY_WHO, ALLOW, "setpriority: not of init, nor of a user"),
    "ioprio_set": Rule(_INIT_BY_WHO_IOPRIO, ALLOW, "ioprio_set: not of init, nor of a user"),
}

RULES = {
    **_NOT_INIT,
    **_HUGE_PAGES,
    "socket": _SOCKET,
    "socketpair": _SOCKET,
    "ioctl": _IOCTL,
    "personality": _PERSONALITY,
    "clone": _no_namespaces("clone", _CLONE_NEW),
    "unshare": _no_namespaces("unshare", _CLONE_NEW | _CLONE_NEWTIME),
}
_NESTED_RULES = {
    **_NOT_INIT,
    **_HUGE_PAGES,
    "socket": _NESTED_SOCKET,
    "socketpair": _NESTED_SOCKET,
    "ioctl": _IOCTL,
    "personality": _PERSONALITY,
}
#: In strict mode also these. F_SETLEASE stops others who open the file for up to
#: fs.lease-break-time; F_NOTIFY and leases tell what other sandboxes do with shared files. So do
#: record locks and flock, which work on read-only files too, but git, pip and sqlite need them and
#: a filter can't tell a shared file from an own one: sandboxes that share files can talk that way.
#: SECCOMP_FILTER_FLAG_NEW_LISTENER (8): a payload may confine itself, not serve its children's calls.
STRICT_RULES = {
    "fcntl": Rule(
        (Clause((Compare(1, (1024, 1026)),), EPERM),), ALLOW, "fcntl: no leases, no directory notification"
    ),
    "seccomp": Rule(
        (Clause((Compare(0, (1,)), Compare(1, (0,), 8, negate=True)), EPERM),),
        ALLOW,
        "seccomp: filters, but no listener",
    ),
}

_RLIMIT_CORE = 4


def core_rules() -> dict[str, Rule]:
    """Keep RLIMIT_CORE at what the launcher set, for `core = 0`, which means a limit of 1.

    With 1 the kernel starts no core handler on the host, with 0 it does (fs/coredump.c), so the
    payload must not lower it. A change is skipped and called a success: gpg and ssh-agent refuse to
    run when they can't set 0, and what they ask for, no core file, is what they get. Only where the old
    limit was also asked for, which would stay unfilled, the answer is EPERM.
    """
    change = "setrlimit, prlimit64: RLIMIT_CORE stays as it is, a change is skipped"
    null_new = (Compare(2, (0,)), Compare(2, (0,), high=True))
    null_old = (Compare(3, (0,)), Compare(3, (0,), high=True))
    return {
        "setrlimit": Rule((Clause((Compare(0, (_RLIMIT_CORE,)),), PRETEND),), ALLOW, change),
        "prlimit64": Rule(
            (
                _IS_INIT,
                Clause((Compare(1, (_RLIMIT_CORE,), negate=True),), ALLOW),
                Clause(null_new, ALLOW),
                Clause(null_old, PRETEND),
            ),
            EPERM,
            change,
        ),
    }


def rules(mode: str, nested: bool, hold_core: bool) -> dict[str, Rule]:
    """The rules that apply to a program of these choices, by call."""
    chosen = dict(_NESTED_RULES if nested else RULES)
    if mode == "strict":
        chosen.update(STRICT_RULES)
    if hold_core:
        chosen.update(core_rules())
    return chosen
