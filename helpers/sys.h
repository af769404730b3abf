/* Thin wrappers for system calls that libc may not have, and the kernel's constants for them,
 * copied by hand so that the C library's age and its clashes with kernel headers don't matter.
 */
#ifndef SYS_H
#define SYS_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#define SYS_fsopen 430
#define SYS_fsconfig 431
#define SYS_fsmount 432
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

/* The same numbers everywhere. */
#define K_SYS_io_uring_setup 425
#define K_SYS_fspick 433
#define K_SYS_pidfd_getfd 438
#define K_SYS_open_tree_attr 467

/* clone(2), clone3 since 5.3, CLONE_CLEAR_SIGHAND 5.5 */
#define K_CLONE_NEWNS 0x00020000u
#define K_CLONE_NEWCGROUP 0x02000000u
#define K_CLONE_NEWUTS 0x04000000u
#define K_CLONE_NEWIPC 0x08000000u
#define K_CLONE_NEWUSER 0x10000000u
#define K_CLONE_NEWPID 0x20000000u
#define K_CLONE_NEWNET 0x40000000u
#define K_CLONE_PIDFD 0x00001000u
#define K_CLONE_PARENT 0x00008000u
#define K_CLONE_CLEAR_SIGHAND 0x100000000ull
#define K_CLONE_INTO_CGROUP 0x200000000ull /* 5.7 */

struct k_clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size,
        cgroup;
};

/* openat2(2), 5.6 */
#define OPENAT2_TRIES 1000
#define K_RESOLVE_NO_MAGICLINKS 0x02u
#define K_RESOLVE_NO_SYMLINKS 0x04u
#define K_RESOLVE_BENEATH 0x08u
#define K_RESOLVE_IN_ROOT 0x10u

struct k_open_how {
    uint64_t flags, mode, resolve;
};

/* The mount API, 5.2; mount_setattr, 5.12 */
#define K_OPEN_TREE_CLONE 1u
#define K_AT_RECURSIVE 0x8000u
#define K_MOVE_MOUNT_F_EMPTY_PATH 0x00000004u
#define K_MOVE_MOUNT_T_EMPTY_PATH 0x00000040u
#define K_FSOPEN_CLOEXEC 1u
#define K_FSMOUNT_CLOEXEC 1u
#define K_FSCONFIG_SET_FLAG 0u
#define K_FSCONFIG_SET_STRING 1u
#define K_FSCONFIG_SET_FD 5u
#define K_FSCONFIG_CMD_CREATE 6u
#define K_MOUNT_ATTR_RDONLY 0x01u
#define K_MOUNT_ATTR_NOSUID 0x02u
#define K_MOUNT_ATTR_NODEV 0x04u
#define K_MOUNT_ATTR_NOEXEC 0x08u

struct k_mount_attr {
    uint64_t attr_set, attr_clr, propagation, userns_fd;
};

static inline pid_t sys_clone3(struct k_clone_args *args)
{
    return (pid_t)syscall(SYS_clone3, args, sizeof(*args));
}

static inline int sys_close_range(unsigned first, unsigned last)
{
    return (int)syscall(SYS_close_range, first, last, 0);
}

/* EAGAIN: a ".." while somebody on the machine renamed or mounted something, so that the kernel could not
 * be sure of it; whoever renames without end does not keep us for ever (openat2(2)). */
static inline int sys_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
    struct k_open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve};
    int fd, tries = 0;

    do
        fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));
    while (fd < 0 && errno == EAGAIN && ++tries < OPENAT2_TRIES);
    return fd;
}

static inline int sys_open_tree(int dir, const char *path, unsigned flags)
{
    return (int)syscall(SYS_open_tree, dir, path, flags | O_CLOEXEC);
}

static inline int sys_move_mount(int from, int to)
{
    return (int)syscall(SYS_move_mount, from, "", to, "", K_MOVE_MOUNT_F_EMPTY_PATH | K_MOVE_MOUNT_T_EMPTY_PATH);
}

static inline int sys_fsopen(const char *type)
{
    return (int)syscall(SYS_fsopen, type, K_FSOPEN_CLOEXEC);
}

static inline int sys_fsconfig(int fd, unsigned command, const char *key, const void *value, int aux)
{
    return (int)syscall(SYS_fsconfig, fd, command, key, value, aux);
}

static inline int sys_fsmount(int fd, unsigned attributes)
{
    return (int)syscall(SYS_fsmount, fd, K_FSMOUNT_CLOEXEC, attributes);
}

static inline int sys_mount_setattr(int fd, unsigned flags, struct k_mount_attr *attr)
{
    return (int)syscall(SYS_mount_setattr, fd, "", flags, attr, sizeof(*attr));
}

static inline int sys_pivot_root(const char *new_root, const char *put_old)
{
    return (int)syscall(SYS_pivot_root, new_root, put_old);
}

#endif
