/* Confining a service: a program that speaks with the payload, runs as the user, outside of the sandbox, and may be
 * taken over through what it reads.
 *
 * A network backend needs CAP_SYS_ADMIN in A, to enter the network namespace and to shut itself in; with it, it
 * could also make what it is shown writable, or go into the sandbox's mount namespace and do that there. And the
 * network that it is in is the host's, with the host's abstract sockets. So calls are taken away by a filter, which
 * no right gives back: of mounting what changes mounts that are there, of namespaces any but the network's, of
 * sockets those that lead to other programs of this machine. What remains to it is the network, which it is for.
 */

#include "confine.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "sys.h"

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#define OTHER_NUMBERS 0x40000000u /* x32's */
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#define OTHER_NUMBERS 0x80000000u /* none */
#else
#error "a machine without a table of system calls: see sandbox/seccomp/machines.py"
#endif

/* Connections are what a payload can have a service hold; each takes memory of the kernel's, and of its own. */
#define MAX_FILES 4096
#define MAX_DATA (512ull << 20)

#define MAX_STEPS 256

/* --- files ---------------------------------------------------------------------------------- */

/* Show it a few directories of the host and nothing else, all read-only: a program that speaks with the
 * payload needs no files of the user's. */
static int show(int root, const char *path)
{
    struct k_mount_attr attr = {.attr_set = K_MOUNT_ATTR_RDONLY | K_MOUNT_ATTR_NOSUID};
    char part[256];
    struct stat status;

    if (lstat(path, &status) < 0)
        return errno == ENOENT ? 0 : -1;
    /* what leads to it */
    for (const char *at = path + 1; (at = strchr(at, '/')); at++) {
        snprintf(part, sizeof(part), "%.*s", (int)(at - path - 1), path + 1);
        if (mkdirat(root, part, 0755) < 0 && errno != EEXIST)
            return -1;
    }
    if (S_ISLNK(status.st_mode)) {
        ssize_t size = readlink(path, part, sizeof(part) - 1);
        if (size < 0)
            return -1;
        part[size] = 0;
        return symlinkat(part, root, path + 1) < 0 && errno != EEXIST ? -1 : 0;
    }
    int tree cleanup_fd = sys_open_tree(AT_FDCWD, path, K_OPEN_TREE_CLONE | K_AT_RECURSIVE);
    int made = -1;
    if (S_ISDIR(status.st_mode))
        made = mkdirat(root, path + 1, 0755);
    else
        made = mknodat(root, path + 1, S_IFREG | 0644, 0);
    if (tree < 0 || (made < 0 && errno != EEXIST))
        return -1;
    if (sys_mount_setattr(tree, AT_EMPTY_PATH | K_AT_RECURSIVE, &attr) < 0)
        return -1;
    int place cleanup_fd = openat(root, path + 1, O_PATH | O_CLOEXEC);
    return place < 0 ? -1 : sys_move_mount(tree, place);
}

int confine_files(const struct record *service, unsigned first, unsigned views)
{
    if (views == 0)
        return 0;
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return -1;
    int fs cleanup_fd = sys_fsopen("tmpfs");
    if (fs < 0 || sys_fsconfig(fs, K_FSCONFIG_SET_STRING, "size", "64k", 0) < 0 ||
        sys_fsconfig(fs, K_FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -1;
    int root cleanup_fd = sys_fsmount(fs, K_MOUNT_ATTR_NOSUID | K_MOUNT_ATTR_NODEV);
    int place cleanup_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || place < 0 || sys_move_mount(root, place) < 0)
        return -1;
    if (mkdirat(root, "tmp", 0755) < 0) /* pasta makes its own root there */
        return -1;
    for (unsigned i = 0; i < views; i++)
        if (show(root, record_text(service, first + i)) < 0)
            return -1;
    if (fchdir(root) < 0 || sys_pivot_root(".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        return -1;
    return mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL);
}

/* --- system calls --------------------------------------------------------------------------- */

struct program {
    struct sock_filter steps[MAX_STEPS];
    unsigned short count;
};

static void add(struct program *program, uint32_t code, uint8_t yes, uint8_t no, uint32_t value)
{
    if (program->count < MAX_STEPS)
        program->steps[program->count++] = (struct sock_filter){(uint16_t)code, yes, no, value};
}

static void load(struct program *program, size_t at)
{
    add(program, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)at);
}

static void end(struct program *program, uint32_t verdict)
{
    add(program, BPF_RET | BPF_K, 0, 0, verdict);
}

static uint32_t refused(int error)
{
    return SECCOMP_RET_ERRNO | (uint32_t)error;
}

static void deny(struct program *program, uint32_t call, int error)
{
    add(program, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, call);
    end(program, refused(error));
}

/* The low half of an argument: the kernel takes no more of those that are asked for here. */
static void load_argument(struct program *program, unsigned number)
{
    load(program, offsetof(struct seccomp_data, args) + 8 * number);
}

/* Only with one of `count` values. */
static void only(struct program *program, uint32_t call, unsigned argument, const uint32_t *values, unsigned count)
{
    add(program, BPF_JMP | BPF_JEQ | BPF_K, 0, (uint8_t)(count + 3), call);
    load_argument(program, argument);
    for (unsigned i = 0; i < count; i++)
        add(program, BPF_JMP | BPF_JEQ | BPF_K, (uint8_t)(count - i), 0, values[i]);
    end(program, refused(EPERM));
    end(program, SECCOMP_RET_ALLOW);
}

/* Only with none of these bits. */
static void without(struct program *program, uint32_t call, unsigned argument, uint32_t bits)
{
    add(program, BPF_JMP | BPF_JEQ | BPF_K, 0, 4, call);
    load_argument(program, argument);
    add(program, BPF_JMP | BPF_JSET | BPF_K, 0, 1, bits);
    end(program, refused(EPERM));
    end(program, SECCOMP_RET_ALLOW);
}

static void fill(struct program *program)
{
    static const uint32_t denied[] = {
        /* mounts that are there */
        SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fsconfig, SYS_fsmount, K_SYS_fspick, SYS_mount_setattr,
        K_SYS_open_tree_attr, SYS_open_by_handle_at,
        /* other processes */
        SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, K_SYS_pidfd_getfd, SYS_kcmp,
        /* what the kernel offers besides; io_uring also makes sockets, which no filter sees */
        K_SYS_io_uring_setup, SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_add_key, SYS_request_key, SYS_keyctl};
    static const uint32_t families[] = {AF_INET, AF_INET6, AF_NETLINK};
    /* A pair of datagram sockets can send elsewhere, by name. */
    static const uint32_t types[] = {SOCK_STREAM, SOCK_STREAM | SOCK_CLOEXEC, SOCK_STREAM | SOCK_NONBLOCK,
                                     SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK};
    static const uint32_t network[] = {CLONE_NEWNET};

    load(program, offsetof(struct seccomp_data, arch));
    add(program, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, ARCHITECTURE);
    end(program, SECCOMP_RET_KILL_PROCESS);
    load(program, offsetof(struct seccomp_data, nr));
    add(program, BPF_JMP | BPF_JGE | BPF_K, 0, 1, OTHER_NUMBERS);
    end(program, SECCOMP_RET_KILL_PROCESS);
    for (size_t i = 0; i < sizeof(denied) / sizeof(*denied); i++)
        deny(program, denied[i], EPERM);
    deny(program, SYS_clone3, ENOSYS); /* its flags can't be looked at; clone(2) does */
    only(program, SYS_socket, 0, families, 3);
    only(program, SYS_socketpair, 1, types, 4);
    only(program, SYS_setns, 1, network, 1);
    without(program, SYS_unshare, 0, CLONE_NEWUSER);
    without(program, SYS_clone, 0, CLONE_NEWUSER);
    without(program, SYS_mount, 3, MS_REMOUNT | MS_BIND | MS_MOVE);
    end(program, SECCOMP_RET_ALLOW);
}

static int bound(int resource, rlim_t most)
{
    struct rlimit limit;

    if (getrlimit(resource, &limit) < 0)
        return -1;
    if (limit.rlim_max > most)
        limit.rlim_max = most;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(resource, &limit);
}

int confine_calls(void)
{
    struct program program = {.count = 0};

    fill(&program);
    if (program.count == MAX_STEPS) {
        errno = E2BIG;
        return -1;
    }
    struct sock_fprog loaded = {.len = program.count, .filter = program.steps};
    if (bound(RLIMIT_NOFILE, MAX_FILES) < 0)
        return -1;
#ifndef __SANITIZE_ADDRESS__ /* whose shadow of the memory is data */
    if (bound(RLIMIT_DATA, MAX_DATA) < 0)
        return -1;
#endif
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &loaded);
}
