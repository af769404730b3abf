/* Overlays of the root: their lower directories are opened as sources, their upper ones made, and they are
 * mounted by the kernel in one of two ways, or by a program (fuse.h). Which, and of what, is the plan's.
 */

#include "overlay.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "detached.h"
#include "fuse.h"
#include "sys.h"
#include "targets.h"

#define BYTES_PER_INODE 4096 /* as the plan gives its own tmpfs */

/* --- sources -------------------------------------------------------------------------------- */

/* The lower directories of an overlay, in an array of its own, with room for one more. */
static int *open_lowers(const struct record *record, unsigned count)
{
    int *lowers = malloc(sizeof(*lowers) * (count + 1));

    for (unsigned i = 0; lowers && i < count; i++) {
        lowers[i] = sys_openat2(AT_FDCWD, record_text(record, 4 + i), O_PATH | O_DIRECTORY, 0,
                                K_RESOLVE_NO_SYMLINKS);
        if (lowers[i] >= 0)
            continue;
        int error = errno;
        while (i > 0)
            close(lowers[--i]);
        free(lowers);
        errno = error;
        return NULL;
    }
    return lowers;
}

int open_overlay_sources(struct root *root, const struct record *record, int **lowers, struct failure *failure)
{
    const char *upper = record_text(record, 2);

    if (*upper == '/') {
        if (root->kept >= 0)
            return fail(failure, EINVAL, record, "cannot %s: a second layer that stays", record_description(record));
        root->kept = sys_openat2(AT_FDCWD, upper, O_DIRECTORY, 0, K_RESOLVE_NO_SYMLINKS);
        if (root->kept < 0)
            return fail(failure, errno, record, "cannot open %s: %s", upper, strerror(errno));
    }
    if (record_extra(record) < 5)
        return fail(failure, EINVAL, record, "cannot %s: it has no lower directory", record_description(record));
    unsigned count = record_extra(record) - 4;
    *lowers = open_lowers(record, count);
    if (!*lowers)
        return fail_step(failure, errno, record);
    if (!(record_int(record, 1) & M_FUSE))
        return 0;
    (*lowers)[count] = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    return (*lowers)[count] < 0 ? fail(failure, errno, record, "cannot open /dev/fuse: %s", strerror(errno)) : 0;
}

/* --- upper directories ---------------------------------------------------------------------- */

/* Make PARENT/NAME/upper like the lower directory, and PARENT/NAME/work; open both. */
static int make_upper(int parent, const char *name, int lower, int fds[2])
{
    struct stat status;

    if (fstat(lower, &status) < 0 || (mkdirat(parent, name, 0755) < 0 && errno != EEXIST))
        return -1;
    int base cleanup_fd = openat(parent, name, O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (base < 0 || (mkdirat(base, "upper", 0755) < 0 && errno != EEXIST) ||
        (mkdirat(base, "work", 0755) < 0 && errno != EEXIST))
        return -1;
    fds[0] = openat(base, "upper", O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    fds[1] = openat(base, "work", O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fds[0] < 0 || fds[1] < 0 || fchmod(fds[0], status.st_mode & 07777) < 0)
        return -1;
    /* Owners that A doesn't map show as the overflow id, and can't be given; the upper is then init's. */
    if (status.st_uid != OVERFLOW_ID && status.st_gid != OVERFLOW_ID &&
        fchown(fds[0], status.st_uid, status.st_gid) < 0 && errno != EINVAL && errno != EPERM)
        return -1;
    return 0;
}

static int open_uppers(struct root *root, const struct record *record, int lower, int upper[2])
{
    const char *name = record_text(record, 2);
    int64_t bytes = record_int(record, 3);
    char own_name[24];

    if (*name == '/') /* a directory that stays, with "upper" and "work" in it */
        return make_upper(root->kept, ".", lower, upper);
    if (*name)
        return make_upper(root->scratch, name, lower, upper);
    snprintf(own_name, sizeof(own_name), "o%u", root->names++);
    if (!bytes)
        return make_upper(root->pool, own_name, lower, upper);
    /* A tmpfs of its own, attached in the pool: an upper in a detached tree is refused before 6.15. */
    if (mkdirat(root->pool, own_name, 0755) < 0)
        return -1;
    int place cleanup_fd = openat(root->pool, own_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int64_t inodes = bytes / BYTES_PER_INODE > 1024 ? bytes / BYTES_PER_INODE : 1024;
    int mount cleanup_fd = new_tmpfs(bytes, inodes, 0755, M_NOSUID | M_NODEV);
    if (place < 0 || mount < 0 || sys_move_mount(mount, place) < 0 || remember_writable(root, mount) < 0)
        return -1;
    return make_upper(mount, "o", lower, upper);
}

/* --- mounting ------------------------------------------------------------------------------- */

/* By descriptor, Linux 6.13. On an older kernel the first one is EINVAL, or before 6.5 EOPNOTSUPP: -2. userxattr always, or
 * opaque directories are silently ignored and deleted files show. */
static int overlay_by_fd(const int *lowers, unsigned count, const int upper[2])
{
    int fs cleanup_fd = sys_fsopen("overlay");

    if (fs < 0 || sys_fsconfig(fs, K_FSCONFIG_SET_FLAG, "userxattr", NULL, 0) < 0)
        return -1;
    for (unsigned i = 0; i < count; i++)
        if (sys_fsconfig(fs, K_FSCONFIG_SET_FD, "lowerdir+", NULL, lowers[i]) < 0)
            return i == 0 && (errno == EINVAL || errno == EOPNOTSUPP) ? -2 : -1;
    if (sys_fsconfig(fs, K_FSCONFIG_SET_FD, "upperdir", NULL, upper[0]) < 0 ||
        sys_fsconfig(fs, K_FSCONFIG_SET_FD, "workdir", NULL, upper[1]) < 0 ||
        sys_fsconfig(fs, K_FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -1;
    return sys_fsmount(fs, 0);
}

/* Names of at most three characters for descriptors: mount(2) takes one page of options, and the kernel's 500
 * layers don't fit in there as /proc/self/fd/N. They are looked up from the working directory. */
static int link_descriptor(int dir, const char *name, int fd)
{
    char target[48];

    snprintf(target, sizeof(target), "/proc/self/fd/%d", fd);
    return symlinkat(target, dir, name);
}

static int name_layers(int dir, const int *lowers, unsigned count, const int upper[2], char *options, size_t size)
{
    size_t used = (size_t)snprintf(options, size, "userxattr,upperdir=u,workdir=w");
    char name[16];

    if (link_descriptor(dir, "u", upper[0]) < 0 || link_descriptor(dir, "w", upper[1]) < 0)
        return -1;
    for (unsigned i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "%x", i);
        int n = snprintf(options + used, size - used, "%s%s", i ? ":" : ",lowerdir=", name);
        if (n < 0 || (size_t)n >= size - used) {
            errno = E2BIG;
            return -1;
        }
        used += (size_t)n;
        if (link_descriptor(dir, name, lowers[i]) < 0)
            return -1;
    }
    return 0;
}

/* Before 6.13: mount(2) with options that name descriptors through the host's /proc, on a directory of the
 * pool, from where it is taken off again as a detached copy. */
static int overlay_by_name(struct root *root, const int *lowers, unsigned count, const int upper[2])
{
    char options[4096], name[24], target[48];

    snprintf(name, sizeof(name), "m%u", root->names++);
    if (mkdirat(root->pool, name, 0755) < 0)
        return -1;
    int place cleanup_fd = openat(root->pool, name, O_DIRECTORY | O_CLOEXEC);
    snprintf(target, sizeof(target), "/proc/self/fd/%d", place);
    if (place < 0 || name_layers(place, lowers, count, upper, options, sizeof(options)) < 0 || fchdir(place) < 0 ||
        mount("overlay", target, "overlay", 0, options) < 0)
        return -1;
    return clone_tree(root->pool, name, 0);
}

static int explain_overlay(int error, const struct record *record, struct failure *failure)
{
    if (error == EINVAL)
        return fail(failure, error, record,
                    "cannot %s: the kernel refuses it as a lower directory (something is mounted below it, or its "
                    "file system can't be one)",
                    record_description(record));
    return fail_step(failure, error, record);
}

/* The first question to a program waits for it to be there, and fails when it ended. */
static bool answers(int mount)
{
    struct stat status;

    return fstat(mount, &status) == 0;
}

int mount_overlay(struct root *root, const struct plan *plan, const struct record *record, int *sources,
                  struct failure *failure)
{
    int64_t flags = record_int(record, 1);
    unsigned count = record_extra(record) - 4;
    int upper[2] = {-1, -1}, mount = -1, error;

    if (open_uppers(root, record, sources[0], upper) < 0) {
        mount = -1;
    } else if (flags & M_FUSE) {
        const struct record *program = plan_find(plan, KIND_FUSE);
        struct fuse fuse = {.program = program ? record_text(program, 0) : "", .device = sources[count],
                            .pool = root->pool, .number = root->names++, .lowers = sources, .count = count,
                            .upper = upper, .uid = program ? record_int(program, 1) : -1,
                            .gid = program ? record_int(program, 2) : -1};
        mount = fuse_overlay(&fuse, &root->server);
    } else {
        mount = overlay_by_fd(sources, count, upper);
        if (mount == -2)
            mount = overlay_by_name(root, sources, count, upper);
    }
    error = errno;
    close_fd(&upper[0]);
    close_fd(&upper[1]);
    if (mount < 0)
        return explain_overlay(error, record, failure);
    int attached cleanup_fd = mount;
    if (flags & M_FUSE && !answers(attached))
        return fail(failure, ENOTCONN, record, "cannot %s: fuse-overlayfs ended at once", record_description(record));
    if (remember_device(root, attached) < 0 || set_attributes(attached, flags) < 0)
        return fail_step(failure, errno, record);
    return attach(root, record, attached, true, failure);
}
