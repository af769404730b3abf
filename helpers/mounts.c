/* Building the root: the plan's operations, one by one, and what they begin with: the sources that are opened
 * before, and the pool. Everything is done by descriptor: the root is held open, destinations are resolved
 * inside it by openat2 (so that its links can't lead out, runc's CVE-2021-30465 and its many successors; see
 * targets.h), and mounts are attached to what was opened. No policy: that is the plan's. Overlays: overlay.h.
 */

#include "mounts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "detached.h"
#include "overlay.h"
#include "sys.h"
#include "targets.h"

/* --- the pool ------------------------------------------------------------------------------- */

/* The pool: one tmpfs for everything small or without a size of its own, so that a single limit
 * holds for all of it, and because each further superblock costs. It has to be attached somewhere
 * (open_tree from a detached mount is EINVAL before 6.15): on the old root's /dev, which every
 * machine has and, with all sources open by now, nobody looks at any more. */
static int make_pool(struct root *root, const struct plan *plan, struct failure *failure)
{
    const struct record *record = plan_find(plan, KIND_POOL);
    int mount cleanup_fd = new_tmpfs(record ? record_int(record, 0) : 0, record ? record_int(record, 1) : 0, 0755,
                                     M_NOSUID | M_NODEV);
    int place cleanup_fd = open("/dev", O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (mount < 0 || place < 0 || sys_move_mount(mount, place) < 0)
        return fail(failure, errno, record, "cannot mount a tmpfs: %s", strerror(errno));
    root->pool = mount;
    mount = -1;
    if (remember_writable(root, root->pool) < 0)
        return fail(failure, errno, record, "cannot prepare the tmpfs: %s", strerror(errno));
    int file cleanup_fd = openat(root->pool, "file", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0);
    if (mkdirat(root->pool, "root", 0755) < 0 || mkdirat(root->pool, "directory", 0) < 0 || file < 0)
        return fail(failure, errno, record, "cannot prepare the tmpfs: %s", strerror(errno));
    return 0;
}

/* --- operations ----------------------------------------------------------------------------- */

/* mkdir ignores nothing but the umask, which init has cleared; the owner is whoever init is. */
static int own(const struct root *root, int dir, const char *name, int64_t flags)
{
    return flags & M_OWNED ? fchownat(dir, name, root->uid, root->gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) : 0;
}

static int do_tmpfs(struct root *root, const struct record *record, struct failure *failure)
{
    int64_t flags = record_int(record, 1), mode = record_int(record, 2), bytes = record_int(record, 3);
    char name[24];
    int mount cleanup_fd = -1;

    if (bytes) {
        mount = new_tmpfs(bytes, record_int(record, 4), mode, 0);
        if (mount < 0 || own(root, mount, "", flags) < 0 || remember_writable(root, mount) < 0)
            return fail_step(failure, errno, record);
    } else {
        snprintf(name, sizeof(name), "t%u", root->names++);
        if (mkdirat(root->pool, name, (mode_t)mode) < 0 || fchmodat(root->pool, name, (mode_t)mode, 0) < 0 ||
            own(root, root->pool, name, flags) < 0)
            return fail_step(failure, errno, record);
        mount = clone_tree(root->pool, name, 0);
    }
    if (mount < 0 || set_attributes(mount, flags) < 0)
        return fail_step(failure, errno, record);
    return attach(root, record, mount, true, failure);
}

static int do_bind(struct root *root, const struct record *record, int *source, struct failure *failure)
{
    struct stat status;

    if (*source < 0)
        return 0; /* optional, and not there */
    if (fstat(*source, &status) < 0 || set_attributes(*source, record_int(record, 1)) < 0)
        return fail_step(failure, errno, record);
    int result = attach(root, record, *source, S_ISDIR(status.st_mode), failure);
    close_fd(source);
    return result;
}

static int do_proc(struct root *root, const struct record *record, struct failure *failure)
{
    int mount cleanup_fd = new_instance("proc", NULL, record_int(record, 1));

    if (mount < 0 && errno == EPERM)
        return fail(failure, EPERM, record,
                    "cannot %s: the kernel refuses a fresh proc because this machine's own /proc is covered in "
                    "parts, as containers do",
                    record_description(record));
    if (mount < 0)
        return fail_step(failure, errno, record);
    return attach(root, record, mount, true, failure);
}

static int do_devpts(struct root *root, const struct record *record, struct failure *failure)
{
    static const char *const options[][2] = {{"ptmxmode", "0666"}, {"mode", "0620"}, {NULL, NULL}};
    int mount = new_instance("devpts", options, record_int(record, 1));

    if (mount < 0)
        return fail_step(failure, errno, record);
    root->devpts = mount;
    return attach(root, record, mount, true, failure);
}

static int do_new(struct root *root, const struct record *record, const char *type, struct failure *failure)
{
    int mount cleanup_fd = new_instance(type, NULL, record_int(record, 1));

    if (mount < 0)
        return fail_step(failure, errno, record);
    return attach(root, record, mount, true, failure);
}

/* A file of the pool, mounted: a root of layers does not change by it, but for a mount point where there
 * is none. A link in its place is replaced, wherever it leads. */
static int mount_file(struct root *root, const struct record *record, struct failure *failure)
{
    const struct field *content = record_field(record, 2);
    const char *last;
    char name[24];
    struct stat status;

    snprintf(name, sizeof(name), "f%u", root->names++);
    int file cleanup_fd = openat(root->pool, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, (mode_t)record_int(record, 1));
    int mount cleanup_fd = file < 0 || write_all(file, content->data, content->size) < 0
                               ? -1 : clone_tree(root->pool, name, 0);
    int parent = mount < 0 ? -1 : open_own_parent(root, record_text(record, 0), M_CREATE, &last, EROFS);
    if (parent < 0)
        return fail_step(failure, errno, record);
    if (fstatat(parent, last, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(status.st_mode) &&
        unlinkat(parent, last, 0) < 0)
        return fail_step(failure, errno, record);
    int target cleanup_fd = openat(parent, last, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (target < 0 && errno == ENOENT)
        target = openat(parent, last, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (target >= 0 && is_needed(root, record_text(record, 0), target))
        return fail_needed(failure, record);
    if (target < 0 || set_attributes(mount, M_NOSUID | M_NODEV | M_NOEXEC) < 0 || sys_move_mount(mount, target) < 0)
        return fail_step(failure, errno, record);
    return 0;
}

/* Make a file or a link with this name; what a root may have there already is removed. */
static int do_file(struct root *root, const struct record *record, struct failure *failure)
{
    const struct field *content = record_field(record, 2);
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    mode_t mode = (mode_t)record_int(record, 1);
    const char *name;

    if (record_int(record, 3))
        return mount_file(root, record, failure);
    int parent = open_own_parent(root, record_text(record, 0), M_CREATE, &name, EROFS);
    if (parent < 0)
        return fail_step(failure, errno, record);
    int fd cleanup_fd = openat(parent, name, flags, mode);
    if (fd < 0 && errno == EEXIST && unlinkat(parent, name, 0) == 0)
        fd = openat(parent, name, flags, mode);
    if (fd < 0 || write_all(fd, content->data, content->size) < 0)
        return fail_step(failure, errno, record);
    return 0;
}

static int do_symlink(struct root *root, const struct record *record, struct failure *failure)
{
    const char *name, *target = record_text(record, 1);
    int parent = open_own_parent(root, record_text(record, 0), M_CREATE, &name, EROFS);

    if (parent < 0)
        return fail_step(failure, errno, record);
    if (symlinkat(target, parent, name) < 0 &&
        (errno != EEXIST || unlinkat(parent, name, 0) < 0 || symlinkat(target, parent, name) < 0))
        return fail_step(failure, errno, record);
    return 0;
}

static int do_directory(struct root *root, const struct record *record, struct failure *failure)
{
    const char *dst = record_text(record, 0);
    mode_t mode = (mode_t)record_int(record, 1);
    bool optional = record_int(record, 2) & M_OPTIONAL;
    struct stat status;
    int fd cleanup_fd = open_inside(root, dst, 0);

    if (fd >= 0) {
        if (optional || (fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)))
            return 0;
        return fail_step(failure, ENOTDIR, record);
    }
    if (errno == ENOENT)
        fd = make_directory(root, dst, mode, M_CREATE);
    if (fd >= 0 || (optional && (errno == ENOTDIR || errno == ELOOP)))
        return 0;
    return fail_step(failure, errno, record);
}

static int do_mask(struct root *root, const struct record *record, struct failure *failure)
{
    int64_t flags = record_int(record, 1);
    struct stat status;

    forget_parent(root);
    int target cleanup_fd = open_inside(root, record_text(record, 0), flags);

    if (target < 0 && (errno == EACCES || (errno == ENOENT && (flags & M_OPTIONAL))))
        return 0; /* EACCES: see do_pin */
    if (target < 0 || fstat(target, &status) < 0)
        return fail_step(failure, errno, record);
    int mount cleanup_fd = clone_tree(root->pool, S_ISDIR(status.st_mode) ? "directory" : "file", 0);
    if (mount < 0 || set_attributes(mount, M_READONLY | M_NOSUID | M_NODEV | M_NOEXEC) < 0 ||
        sys_move_mount(mount, target) < 0)
        return fail_step(failure, errno, record);
    return 0;
}

static int do_pin(struct root *root, const struct record *record, struct failure *failure)
{
    int64_t flags = record_int(record, 1);

    forget_parent(root);
    int target cleanup_fd = open_inside(root, record_text(record, 0), flags);

    /* Where init can't go (uid 0's private directories, as its payload is another user) the payload
     * can't either: it is the same user, with fewer rights. */
    if (target < 0 && (errno == EACCES || (errno == ENOENT && (flags & M_OPTIONAL))))
        return 0;
    if (target < 0)
        return fail_step(failure, errno, record);
    int mount cleanup_fd = clone_tree(target, "", flags);
    if (mount < 0 || set_attributes(mount, flags) < 0 || sys_move_mount(mount, target) < 0)
        return fail_step(failure, errno, record);
    return 0;
}

static int do_readonly(struct root *root, const struct record *record, struct failure *failure)
{
    int64_t flags = record_int(record, 1);
    int target cleanup_fd = open_inside(root, record_text(record, 0), flags);

    if (target < 0 || set_attributes(target, M_READONLY | (flags & M_RECURSIVE)) < 0)
        return fail_step(failure, errno, record);
    return 0;
}

static int execute(struct root *root, const struct plan *plan, const struct record *record, int *source,
                   struct failure *failure)
{
    switch (record->kind) {
    case KIND_TMPFS:
        return do_tmpfs(root, record, failure);
    case KIND_BIND:
        return do_bind(root, record, source, failure);
    case KIND_OVERLAY:
        return mount_overlay(root, plan, record, source, failure);
    case KIND_PROC:
        return do_proc(root, record, failure);
    case KIND_DEVPTS:
        return do_devpts(root, record, failure);
    case KIND_MQUEUE:
        return do_new(root, record, "mqueue", failure);
    case KIND_CGROUP2:
        return do_new(root, record, "cgroup2", failure);
    case KIND_FILE:
        return do_file(root, record, failure);
    case KIND_DIRECTORY:
        return do_directory(root, record, failure);
    case KIND_SYMLINK:
        return do_symlink(root, record, failure);
    case KIND_MASK:
        return do_mask(root, record, failure);
    case KIND_READONLY:
        return do_readonly(root, record, failure);
    case KIND_PIN:
        return do_pin(root, record, failure);
    default:
        return fail(failure, EINVAL, record, "cannot %s: unknown operation %d", record_description(record),
                    record->kind);
    }
}

static bool is_operation(const struct record *record)
{
    return record->kind >= KIND_TMPFS && record->kind < KIND_ARGV;
}

/* --- sources -------------------------------------------------------------------------------- */

static int open_bind_source(const struct record *record, int *source, struct failure *failure)
{
    int64_t flags = record_int(record, 1);
    const char *path = record_text(record, 2), *beneath = record_text(record, 3);
    int base cleanup_fd = -1;
    int fd cleanup_fd = -1;

    if (*beneath) {
        base = sys_openat2(AT_FDCWD, beneath, O_PATH | O_DIRECTORY, 0, K_RESOLVE_NO_SYMLINKS);
        fd = base < 0 ? -1 : sys_openat2(base, path, O_PATH, 0, K_RESOLVE_BENEATH | K_RESOLVE_NO_SYMLINKS);
    } else {
        fd = sys_openat2(AT_FDCWD, path, O_PATH, 0, K_RESOLVE_NO_SYMLINKS);
    }
    if (fd < 0 && errno == ENOENT && (flags & M_OPTIONAL))
        return 0;
    if (fd < 0 && (errno == ELOOP || errno == EXDEV))
        return fail(failure, errno, record, "cannot %s: %s leads through a symbolic link or out of its directory",
                    record_description(record), path);
    if (fd < 0)
        return fail_step(failure, errno, record);
    *source = clone_tree(fd, "", flags);
    return *source < 0 ? fail_step(failure, errno, record) : 0;
}

/* Sources live in one array; an overlay's lowers are kept beside it, by record. */
static int *overlay_lowers[256];
static unsigned overlay_count;

int root_open_sources(struct root *root, const struct plan *plan, struct failure *failure)
{
    const struct record *scratch = plan_find(plan, KIND_SCRATCH);

    root->sources = malloc(sizeof(int) * (plan->count + 1));
    if (!root->sources)
        return fail(failure, ENOMEM, NULL, "cannot open the mount sources: %s", strerror(ENOMEM));
    if (scratch) {
        root->scratch = sys_openat2(AT_FDCWD, record_text(scratch, 0), O_DIRECTORY, 0, K_RESOLVE_NO_SYMLINKS);
        if (root->scratch < 0)
            return fail(failure, errno, scratch, "cannot open %s: %s", record_text(scratch, 0), strerror(errno));
    }
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct record *record = &plan->records[i];
        root->sources[i] = -1;
        if (record->kind == KIND_BIND && open_bind_source(record, &root->sources[i], failure) < 0)
            return -1;
        if (record->kind != KIND_OVERLAY)
            continue;
        if (overlay_count == 256)
            return fail(failure, E2BIG, record, "cannot %s: too many overlays", record_description(record));
        root->sources[i] = (int)overlay_count;
        if (open_overlay_sources(root, record, &overlay_lowers[overlay_count++], failure) < 0)
            return -1;
    }
    return 0;
}

int root_build(struct root *root, const struct plan *plan, struct failure *failure)
{
    if (make_pool(root, plan, failure) < 0)
        return -1;
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct record *record = &plan->records[i];
        int *source = &root->sources[i];
        if (!is_operation(record))
            continue;
        if (root->fd < 0 && strcmp(record_text(record, 0), "/") != 0)
            return fail(failure, EINVAL, record, "cannot %s: the plan does not begin with a root",
                        record_description(record));
        if (record->kind == KIND_OVERLAY)
            source = overlay_lowers[*source];
        if (execute(root, plan, record, source, failure) < 0)
            return -1;
        if (record->kind == KIND_OVERLAY) /* what is mounted keeps them; the payload's limit on files counts them */
            for (unsigned k = 0; k < record_extra(record) - 4; k++)
                close_fd(&source[k]);
    }
    forget_parent(root);
    return root->fd < 0 ? fail(failure, EINVAL, NULL, "cannot make the root: the plan has none") : 0;
}

int root_enter(struct root *root, struct failure *failure)
{
    /* Both "." : the old root is stacked on the new one and can be detached there (pivot_root(2)),
     * and the pool with it. */
    if (fchdir(root->fd) < 0 || sys_pivot_root(".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        return fail(failure, errno, NULL, "cannot enter the root: %s", strerror(errno));
    return 0;
}
