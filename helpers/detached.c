/* Detached mounts: new file systems, copies of mounts, and their attributes. Not where they are attached, and
 * no overlay (overlay.h).
 */

#include "detached.h"

#include <stddef.h>
#include <stdio.h>

#include "helper.h"
#include "sys.h"

static uint64_t attributes(int64_t flags)
{
    return (flags & M_READONLY ? K_MOUNT_ATTR_RDONLY : 0u) | (flags & M_NOSUID ? K_MOUNT_ATTR_NOSUID : 0u) |
           (flags & M_NODEV ? K_MOUNT_ATTR_NODEV : 0u) | (flags & M_NOEXEC ? K_MOUNT_ATTR_NOEXEC : 0u);
}

int set_attributes(int mount, int64_t flags)
{
    struct k_mount_attr attr = {.attr_set = attributes(flags)};

    if (!attr.attr_set)
        return 0;
    return sys_mount_setattr(mount, AT_EMPTY_PATH | (flags & M_RECURSIVE ? K_AT_RECURSIVE : 0u), &attr);
}

int clone_tree(int fd, const char *path, int64_t flags)
{
    return sys_open_tree(fd, path,
                         K_OPEN_TREE_CLONE | AT_EMPTY_PATH | (flags & M_RECURSIVE ? K_AT_RECURSIVE : 0u));
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
int new_tmpfs(int64_t bytes, int64_t inodes, int64_t mode, int64_t flags)
{
    int fs cleanup_fd = sys_fsopen("tmpfs");

    if (fs < 0 || set_number(fs, "size", bytes, "%lld") < 0 || set_number(fs, "nr_inodes", inodes, "%lld") < 0 ||
        set_number(fs, "mode", mode, "%llo") < 0 || sys_fsconfig(fs, K_FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -1;
    return sys_fsmount(fs, (unsigned)attributes(flags));
}

/* A file system of a new namespace: proc, devpts, mqueue. */
int new_instance(const char *type, const char *const options[][2], int64_t flags)
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
