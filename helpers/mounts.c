/* Building the root. Everything is done by descriptor: the root is held open, destinations are
 * resolved inside it by openat2 (so that its links can't lead out, runc's CVE-2021-30465 and its
 * many successors), and mounts are attached to what was opened. No policy: that is the plan's.
 */

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "mounts.h"
#include "sys.h"

#define MAX_DEPTH 200 /* components of a mount point that has to be made: each takes a page of stack */
#define BYTES_PER_INODE 4096 /* as the plan gives its own tmpfs */
#define OVERFLOW_ID 65534 /* /proc/sys/kernel/overflowuid, which nobody changes */
#define RESOLVE_INSIDE (K_RESOLVE_IN_ROOT | K_RESOLVE_NO_MAGICLINKS)

static int fail_step(struct failure *failure, int error, const struct record *record)
{
    return fail(failure, error, record, "cannot %s: %s", record_description(record),
                error == ELOOP ? "a symbolic link is in the way, or leads nowhere inside the root" : strerror(error));
}

/* --- resolving ------------------------------------------------------------------------------ */

static uint64_t resolve_flags(int64_t flags)
{
    return flags & M_STRICT ? RESOLVE_INSIDE | K_RESOLVE_NO_SYMLINKS : RESOLVE_INSIDE;
}

static bool made_by_us(const struct root *root, int fd)
{
    struct stat status;

    if (fstat(fd, &status) < 0)
        return false;
    for (unsigned i = 0; i < root->devices; i++)
        if (root->ours[i] == status.st_dev)
            return true;
    return false;
}

static int remember_device(struct root *root, int fd)
{
    struct stat status;

    if (root->devices == MAX_WRITABLE) {
        errno = E2BIG;
        return -1;
    }
    if (fstat(fd, &status) < 0)
        return -1;
    root->ours[root->devices++] = status.st_dev;
    return 0;
}

static unsigned depth(const char *path)
{
    unsigned count = 0;

    for (; *path; path++)
        count += *path == '/';
    return count;
}

/* Split dst in its parent ("" for the root) and its last name. -1 when there is no name. */
static int split(const char *dst, char *parent, const char **name)
{
    size_t length = strlen(dst);
    const char *slash = strrchr(dst, '/');

    if (length == 0 || length >= PATH_MAX || depth(dst) > MAX_DEPTH || !slash || !slash[1] || strcmp(slash + 1, ".") == 0 ||
        strcmp(slash + 1, "..") == 0) {
        errno = EINVAL;
        return -1;
    }
    memcpy(parent, dst, (size_t)(slash - dst));
    parent[slash - dst] = 0;
    *name = slash + 1;
    return 0;
}

static int open_inside(const struct root *root, const char *dst, int64_t flags)
{
    return sys_openat2(root->fd, *dst ? dst : "/", O_PATH, 0, resolve_flags(flags));
}

static int make_directory(struct root *root, const char *dst, mode_t mode, int64_t flags);

static void forget_parent(struct root *root)
{
    close_fd(&root->parent.fd);
}

static void remember_parent(struct root *root, int fd, const char *path, int64_t flags)
{
    struct parent *parent = &root->parent;

    parent->fd = fd;
    parent->ours = made_by_us(root, fd);
    parent->strict = flags & M_STRICT;
    strcpy(parent->path, path); /* both have room for PATH_MAX */
}

static bool is_remembered(const struct root *root, const char *path, int64_t flags)
{
    const struct parent *parent = &root->parent;

    return parent->fd >= 0 && parent->strict == !!(flags & M_STRICT) && strcmp(path, parent->path) == 0;
}

/* The directory that holds dst's last name, made where it is missing. It is remembered, and not the
 * caller's to close: whatever is mounted on other than a name just made in it has it forgotten. */
static int open_parent(struct root *root, const char *dst, int64_t flags, const char **name)
{
    char path[PATH_MAX];

    if (split(dst, path, name) < 0)
        return -1;
    if (is_remembered(root, path, flags))
        return root->parent.fd;
    int fd = open_inside(root, path, flags);
    if (fd < 0 && errno == ENOENT && (flags & M_CREATE))
        fd = make_directory(root, path, 0755, flags);
    forget_parent(root);
    if (fd >= 0)
        remember_parent(root, fd, path, flags);
    return fd;
}

/* Open dst's parent to make something in it. Only ever in a file system of ours: else it is `refusal`. */
static int open_own_parent(struct root *root, const char *dst, int64_t flags, const char **name, int refusal)
{
    int parent = open_parent(root, dst, flags, name);

    if (parent < 0 || root->parent.ours)
        return parent;
    errno = refusal;
    return -1;
}

/* Make a directory and return it opened. Recursion is as deep as dst has components, and dst is shorter
 * than PATH_MAX. */
static int make_directory(struct root *root, const char *dst, mode_t mode, int64_t flags)
{
    const char *name;
    int parent = open_own_parent(root, dst, flags, &name, ENOENT);

    if (parent < 0)
        return -1;
    if (mkdirat(parent, name, mode) < 0) {
        if (errno == EEXIST) /* and yet it could not be opened: a link that leads nowhere */
            errno = ELOOP;
        return -1;
    }
    return openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static int make_file(struct root *root, const char *dst, mode_t mode, int64_t flags)
{
    const char *name;
    int parent = open_own_parent(root, dst, flags, &name, ENOENT);

    return parent < 0 ? -1 : openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
}

/* Open the mount point of a record; `directory` says what to make when it is missing, which is most
 * often the case and therefore tried first. */
static int open_target(struct root *root, const struct record *record, bool directory, struct failure *failure)
{
    const char *dst = record_text(record, 0);
    int64_t flags = record_int(record, 1);
    int fd = -1, error = ENOENT;

    if (flags & M_CREATE)
        fd = directory ? make_directory(root, dst, 0755, flags) : make_file(root, dst, 0644, flags);
    if (fd >= 0)
        return fd;
    if (flags & M_CREATE)
        error = errno;
    forget_parent(root);
    fd = open_inside(root, dst, flags);
    if (fd >= 0)
        return fd;
    if (errno == ENOENT)
        errno = error;
    if (errno == ENOENT)
        return fail(failure, ENOENT, record, "cannot %s: there is no %s in the sandbox to mount on",
                    record_description(record), dst);
    return fail_step(failure, errno, record);
}

/* --- mounts --------------------------------------------------------------------------------- */

static uint64_t attributes(int64_t flags)
{
    return (flags & M_READONLY ? K_MOUNT_ATTR_RDONLY : 0u) | (flags & M_NOSUID ? K_MOUNT_ATTR_NOSUID : 0u) |
           (flags & M_NODEV ? K_MOUNT_ATTR_NODEV : 0u) | (flags & M_NOEXEC ? K_MOUNT_ATTR_NOEXEC : 0u);
}

static int set_attributes(int mount, int64_t flags)
{
    struct k_mount_attr attr = {.attr_set = attributes(flags)};

    if (!attr.attr_set)
        return 0;
    return sys_mount_setattr(mount, AT_EMPTY_PATH | (flags & M_RECURSIVE ? K_AT_RECURSIVE : 0u), &attr);
}

static int clone_tree(int fd, const char *path, int64_t flags)
{
    return sys_open_tree(fd, path,
                         K_OPEN_TREE_CLONE | AT_EMPTY_PATH | (flags & M_RECURSIVE ? K_AT_RECURSIVE : 0u));
}

/* Attach a detached mount. The first one becomes the root: it goes onto a directory of the pool,
 * because mounting below a tree that is itself detached is EINVAL before Linux 6.15. */
static int attach(struct root *root, const struct record *record, int mount, bool directory,
                  struct failure *failure)
{
    if (root->fd < 0) {
        int place cleanup_fd = openat(root->pool, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (place < 0 || sys_move_mount(mount, place) < 0)
            return fail_step(failure, errno, record);
        root->fd = sys_openat2(root->pool, "root", O_PATH | O_DIRECTORY, 0, K_RESOLVE_BENEATH);
        return root->fd < 0 ? fail_step(failure, errno, record) : 0;
    }
    struct stat status;
    int target cleanup_fd = open_target(root, record, directory, failure);
    if (target < 0)
        return -1;
    if (fstat(target, &status) == 0 && S_ISDIR(status.st_mode) != directory)
        return fail(failure, ENOTDIR, record, "cannot %s: one is a directory, the other is not",
                    record_description(record));
    return sys_move_mount(mount, target) < 0 ? fail_step(failure, errno, record) : 0;
}

/* An integer option of a file system; zero leaves the kernel's default. */
static int set_number(int fs, const char *key, int64_t value, const char *format)
{
    char text[32];

    if (value == 0)
        return 0;
    snprintf(text, sizeof(text), format, (long long)value);
    return sys_fsconfig(fs, K_FSCONFIG_SET_STRING, key, text, 0);
}

/* A tmpfs of its own; bytes and inodes 0: the kernel's defaults. Returns the detached mount. */
static int new_tmpfs(int64_t bytes, int64_t inodes, int64_t mode, int64_t flags)
{
    int fs cleanup_fd = sys_fsopen("tmpfs");

    if (fs < 0 || set_number(fs, "size", bytes, "%lld") < 0 || set_number(fs, "nr_inodes", inodes, "%lld") < 0 ||
        set_number(fs, "mode", mode, "%llo") < 0 || sys_fsconfig(fs, K_FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -1;
    return sys_fsmount(fs, (unsigned)attributes(flags));
}

/* One that is not counted would be memory that nobody sees. */
static int remember_writable(struct root *root, int mount)
{
    int copy;

    if (remember_device(root, mount) < 0)
        return -1;
    copy = fcntl(mount, F_DUPFD_CLOEXEC, 10);
    if (copy < 0)
        return -1;
    root->writable[root->writables++] = copy;
    return 0;
}

/* mkdir ignores nothing but the umask, which init has cleared; the owner is whoever init is. */
static int own(const struct root *root, int dir, const char *name, int64_t flags)
{
    return flags & M_OWNED ? fchownat(dir, name, root->uid, root->gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) : 0;
}

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

/* Before 6.13: mount(2) with one page of options that name descriptors through the host's /proc,
 * on a directory of the pool, from where it is taken off again as a detached copy. */
static int overlay_by_name(struct root *root, const int *lowers, unsigned count, const int upper[2])
{
    char options[4096], name[24], target[48];
    size_t used = (size_t)snprintf(options, sizeof(options), "userxattr,upperdir=/proc/self/fd/%d,workdir=/proc/self/fd/%d",
                                   upper[0], upper[1]);

    for (unsigned i = 0; i < count; i++) {
        int n = snprintf(options + used, sizeof(options) - used, "%s/proc/self/fd/%d", i ? ":" : ",lowerdir=",
                         lowers[i]);
        if (n < 0 || (size_t)n >= sizeof(options) - used) {
            errno = E2BIG;
            return -1;
        }
        used += (size_t)n;
    }
    snprintf(name, sizeof(name), "m%u", root->names++);
    if (mkdirat(root->pool, name, 0755) < 0)
        return -1;
    int place cleanup_fd = openat(root->pool, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    snprintf(target, sizeof(target), "/proc/self/fd/%d", place);
    if (place < 0 || mount("overlay", target, "overlay", 0, options) < 0)
        return -1;
    return clone_tree(root->pool, name, 0);
}

/* The lower directories of an overlay, in an array of its own. */
static int *open_lowers(const struct record *record, unsigned count)
{
    int *lowers = malloc(sizeof(*lowers) * count);

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

static int open_uppers(struct root *root, const struct record *record, int lower, int upper[2])
{
    const char *name = record_text(record, 2);
    int64_t bytes = record_int(record, 3);
    char own_name[24];

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

static int explain_overlay(int error, const struct record *record, struct failure *failure)
{
    if (error == EINVAL)
        return fail(failure, error, record,
                    "cannot %s: the kernel refuses it as a lower directory (something is mounted below it, or its "
                    "file system can't be one)",
                    record_description(record));
    return fail_step(failure, error, record);
}

static int do_overlay(struct root *root, const struct record *record, int *sources, struct failure *failure)
{
    int64_t flags = record_int(record, 1);
    unsigned count = record_extra(record) - 4;
    int upper[2] = {-1, -1}, mount = -1, error;

    if (open_uppers(root, record, sources[0], upper) == 0) {
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
    if (remember_device(root, attached) < 0 || set_attributes(attached, flags) < 0)
        return fail_step(failure, errno, record);
    return attach(root, record, attached, true, failure);
}

/* A file system of a new namespace: proc, devpts, mqueue. */
static int new_instance(const char *type, const char *const options[][2], int64_t flags)
{
    int fs cleanup_fd = sys_fsopen(type);

    if (fs < 0)
        return -1;
    for (; options && (*options)[0]; options++)
        if (sys_fsconfig(fs, K_FSCONFIG_SET_STRING, (*options)[0], (*options)[1], 0) < 0)
            return -1;
    if (sys_fsconfig(fs, K_FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -1;
    return sys_fsmount(fs, (unsigned)attributes(flags));
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

/* Make a file or a link with this name; what a root may have there already is removed. */
static int do_file(struct root *root, const struct record *record, struct failure *failure)
{
    const struct field *content = record_field(record, 2);
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    mode_t mode = (mode_t)record_int(record, 1);
    const char *name;
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
    struct stat status;
    int fd cleanup_fd = open_inside(root, dst, 0);

    if (fd >= 0) {
        if (fstat(fd, &status) == 0 && S_ISDIR(status.st_mode))
            return 0;
        return fail_step(failure, ENOTDIR, record);
    }
    if (errno != ENOENT)
        return fail_step(failure, errno, record);
    fd = make_directory(root, dst, mode, M_CREATE);
    return fd < 0 ? fail_step(failure, errno, record) : 0;
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

static int execute(struct root *root, const struct record *record, int *source, struct failure *failure)
{
    switch (record->kind) {
    case KIND_TMPFS:
        return do_tmpfs(root, record, failure);
    case KIND_BIND:
        return do_bind(root, record, source, failure);
    case KIND_OVERLAY:
        return do_overlay(root, record, source, failure);
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

static int open_overlay_sources(const struct record *record, int **lowers, struct failure *failure)
{
    if (record_extra(record) < 5)
        return fail(failure, EINVAL, record, "cannot %s: it has no lower directory", record_description(record));
    *lowers = open_lowers(record, record_extra(record) - 4);
    return *lowers ? 0 : fail_step(failure, errno, record);
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
        if (open_overlay_sources(record, &overlay_lowers[overlay_count++], failure) < 0)
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
        if (execute(root, record, source, failure) < 0)
            return -1;
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
