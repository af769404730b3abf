/* Where things of the root go: mount points are resolved inside it, made where they are missing, and detached
 * mounts attached to what was opened. Links can't lead out (openat2), and nothing is made in a file system
 * that is not ours. Not what is mounted there: that is made elsewhere (detached.h, overlay.h).
 */

#include "targets.h"

#include <errno.h>
#include <limits.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "sys.h"

#define MQUEUE_SUPER_MAGIC 0x19800202 /* ipc/mqueue.c has it for itself */
#define MAX_DEPTH 200 /* components of a mount point that has to be made: each takes a page of stack */
#define RESOLVE_INSIDE (K_RESOLVE_IN_ROOT | K_RESOLVE_NO_MAGICLINKS)

int fail_step(struct failure *failure, int error, const struct record *record)
{
    return fail(failure, error, record, "cannot %s: %s", record_description(record),
                error == ELOOP ? "a symbolic link is in the way, or leads nowhere inside the root" : strerror(error));
}

/* --- file systems of ours ------------------------------------------------------------------- */

static bool same_file(const struct stat *one, const struct stat *other)
{
    return one->st_dev == other->st_dev && one->st_ino == other->st_ino;
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

int remember_device(struct root *root, int fd)
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

/* One that is not counted would be memory that nobody sees. */
int remember_writable(struct root *root, int mount)
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

/* --- resolving ------------------------------------------------------------------------------ */

static uint64_t resolve_flags(int64_t flags)
{
    return flags & M_STRICT ? RESOLVE_INSIDE | K_RESOLVE_NO_SYMLINKS : RESOLVE_INSIDE;
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

int open_inside(const struct root *root, const char *dst, int64_t flags)
{
    return sys_openat2(root->fd, *dst ? dst : "/", O_PATH, 0, resolve_flags(flags));
}

void forget_parent(struct root *root)
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
int open_own_parent(struct root *root, const char *dst, int64_t flags, const char **name, int refusal)
{
    int parent = open_parent(root, dst, flags, name);

    if (parent < 0 || root->parent.ours)
        return parent;
    errno = refusal;
    return -1;
}

/* Make a directory and return it opened. Recursion is as deep as dst has components, and dst is shorter
 * than PATH_MAX. */
int make_directory(struct root *root, const char *dst, mode_t mode, int64_t flags)
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

/* Whether this is what every sandbox has for itself. The plan mounts nothing there by name; but a link of the
 * image's, or one that a payload left in what is kept, may lead there. */
bool is_needed(const struct root *root, const char *dst, int target)
{
    struct stat status, other;
    struct statfs system;

    if (fstat(target, &status) < 0 || fstatfs(target, &system) < 0)
        return true;
    if (S_ISCHR(status.st_mode) || system.f_type == PROC_SUPER_MAGIC || system.f_type == DEVPTS_SUPER_MAGIC ||
        system.f_type == MQUEUE_SUPER_MAGIC)
        return true;
    if (fstat(root->fd, &other) == 0 && same_file(&status, &other))
        return true;
    if (strcmp(dst, "/dev") == 0) /* that is where it is mounted */
        return false;
    int devices cleanup_fd = sys_openat2(root->fd, "dev", O_PATH, 0, RESOLVE_INSIDE | K_RESOLVE_NO_SYMLINKS);
    return devices >= 0 && fstat(devices, &other) == 0 && same_file(&status, &other);
}

int fail_needed(struct failure *failure, const struct record *record)
{
    return fail(failure, EBUSY, record, "cannot %s: a link leads from there to what every sandbox has for itself",
                record_description(record));
}

/* --- attaching ------------------------------------------------------------------------------ */

/* Attach a detached mount. The first one becomes the root: it goes onto a directory of the pool,
 * because mounting below a tree that is itself detached is EINVAL before Linux 6.15. */
int attach(struct root *root, const struct record *record, int mount, bool directory,
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
        return fail(failure, ENOTDIR, record, "cannot %s: what is mounted is %s directory, and what is there is %s",
                    record_description(record), directory ? "a" : "no", directory ? "none" : "one");
    if (is_needed(root, record_text(record, 0), target))
        return fail_needed(failure, record);
    return sys_move_mount(mount, target) < 0 ? fail_step(failure, errno, record) : 0;
}
