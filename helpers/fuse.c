/* Starting fuse-overlayfs(1). The mount is made by init, with the connection open here, so that the program needs
 * no rights but those over files: it gets the connection as /dev/fd/N (libfuse 3.3).
 *
 * It is a process of the sandbox's pid namespace, in A: its memory and time count, the kernel ends it with init,
 * and nothing in B can trace it or look into it. With a range of ids it has one of its own, which B has not, so that
 * nobody there can signal it either (kill(2)), root and kill(-1) included. With one id whoever runs inside can end
 * it, and has no root then.
 */

#include "fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys.h"

#define NAME 40 /* bytes of "/dev/lN.N" and what is around it */

static int set_number(int fs, const char *key, unsigned value, const char *format)
{
    char text[16];

    snprintf(text, sizeof(text), format, value);
    return sys_fsconfig(fs, K_FSCONFIG_SET_STRING, key, text, 0);
}

static int new_mount(int device)
{
    int fs cleanup_fd = sys_fsopen("fuse");

    /* allow_other: for the payload, whose user namespace is another one; default_permissions: the kernel checks them */
    if (fs < 0 || sys_fsconfig(fs, K_FSCONFIG_SET_STRING, "source", "fuse-overlayfs", 0) < 0 ||
        set_number(fs, "fd", (unsigned)device, "%u") < 0 || set_number(fs, "rootmode", 040000, "%o") < 0 ||
        set_number(fs, "user_id", getuid(), "%u") < 0 || set_number(fs, "group_id", getgid(), "%u") < 0 ||
        sys_fsconfig(fs, K_FSCONFIG_SET_FLAG, "allow_other", NULL, 0) < 0 ||
        sys_fsconfig(fs, K_FSCONFIG_SET_FLAG, "default_permissions", NULL, 0) < 0 ||
        sys_fsconfig(fs, K_FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -1;
    return sys_fsmount(fs, 0);
}

/* Bind what `fd` is on a new directory of the pool: the program looks its layers up by path, and may not be able to
 * go where they are (called by root, it is another user). */
static int show(int pool, const char *name, int fd)
{
    int tree cleanup_fd = sys_open_tree(fd, "", K_OPEN_TREE_CLONE | AT_EMPTY_PATH);

    if (tree < 0 || mkdirat(pool, name, 0755) < 0)
        return -1;
    int place cleanup_fd = openat(pool, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return place < 0 ? -1 : sys_move_mount(tree, place);
}

/* "lowerdir=/dev/l0.0:/dev/l0.1,upperdir=...", to be freed. The pool is on /dev. */
static char *options_of(const struct fuse *fuse)
{
    size_t size = (size_t)(fuse->count + 3) * NAME, used = 0;
    char *options = malloc(size), name[NAME];
    int above cleanup_fd = openat(fuse->upper[0], "..", O_PATH | O_DIRECTORY | O_CLOEXEC);

    for (unsigned i = 0; options && i < fuse->count; i++) {
        snprintf(name, sizeof(name), "l%u.%u", fuse->number, i);
        if (show(fuse->pool, name, fuse->lowers[i]) < 0)
            goto bad;
        used += (size_t)snprintf(options + used, size - used, "%s/dev/%s", i ? ":" : "lowerdir=", name);
    }
    snprintf(name, sizeof(name), "a%u", fuse->number);
    if (!options || above < 0 || show(fuse->pool, name, above) < 0)
        goto bad;
    snprintf(options + used, size - used, ",upperdir=/dev/%s/upper,workdir=/dev/%s/work", name, name);
    return options;
bad:
    free(options);
    return NULL;
}

/* Rights over files in A stay over the exec also where init is not called root there (capabilities(7)). */
static int keep_rights(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    if (syscall(SYS_capget, &header, data) < 0)
        return -1;
    data[0].inheritable = data[0].permitted;
    data[1].inheritable = data[1].permitted;
    if (syscall(SYS_capset, &header, data) < 0)
        return -1;
    for (unsigned i = 0; i < 64; i++)
        if (data[i / 32].permitted & 1u << i % 32 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0) < 0)
            return -1;
    return 0;
}

/* Who it becomes has the rights of init, by what `keep_rights` does next. */
static int become_another(const struct fuse *fuse)
{
    uid_t uid = (uid_t)fuse->uid;
    gid_t gid = (gid_t)fuse->gid;

    if (fuse->uid < 0)
        return 0;
    return prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0
               ? -1
               : 0;
}

/* In the child. The root that init enters must not become its own: it would wait for itself. */
static _Noreturn void become_program(const struct fuse *fuse, const char *options)
{
    char mountpoint[NAME];
    int device = fuse->device;
    char *arguments[] = {(char *)(uintptr_t)fuse->program, (char *)(uintptr_t)"-f", (char *)(uintptr_t)"-o",
                         (char *)(uintptr_t)options, mountpoint, NULL};
    char *environment[] = {NULL};
    sigset_t none;

    snprintf(mountpoint, sizeof(mountpoint), "/dev/fd/%d", device);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (setsid() < 0 || unshare(CLONE_NEWNS) < 0 || become_another(fuse) < 0 || keep_rights() < 0 ||
        fcntl(device, F_SETFD, 0) < 0)
        _exit(EXIT_OURS);
    execve(fuse->program, arguments, environment);
    _exit(EXIT_OURS);
}

int fuse_overlay(const struct fuse *fuse, pid_t *server)
{
    int device = fuse->device;
    char *options = options_of(fuse);
    int mount = options ? new_mount(device) : -1, error = errno;
    pid_t child = mount < 0 ? -1 : fork();

    if (child == 0)
        become_program(fuse, options);
    if (mount >= 0)
        error = errno;
    free(options);
    close_fd(&device); /* so that its end is the connection's */
    if (child < 0) {
        close_fd(&mount);
        errno = error;
    }
    *server = child;
    return mount;
}
