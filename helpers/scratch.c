/* Removing a directory that a payload filled. See scratch.h.
 *
 * Depth is the payload's choice, so there is no recursion and no descriptor per level: a directory
 * below the top one that is not empty has its own directories moved up to the top, and is empty then.
 */

#include "scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "helper.h"

#define DIRECTORY (O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

static bool is_dot(const char *name)
{
    return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0));
}

/* overlayfs makes its work directory with mode 000, and a payload may do so anywhere. */
static int open_directory(int parent, const char *name)
{
    char path[32];
    int handle cleanup_fd = openat(parent, name, DIRECTORY | O_PATH);

    if (handle < 0)
        return -1;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", handle);
    chmod(path, 0700); /* when it isn't ours, what follows fails or the child does it */
    return openat(handle, ".", DIRECTORY | O_RDONLY);
}

/* The stream owns fd; what is read next is the first entry again. */
static DIR *entries(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    DIR *stream = copy < 0 ? NULL : fdopendir(copy);

    if (stream)
        rewinddir(stream);
    else
        close_fd(&copy);
    return stream;
}

/* Empty a directory that is an entry of top: unlink what is no directory, move up what is one and
 * not empty. How many of its entries are gone: what can't be removed nor moved is no progress. */
static unsigned long empty_into(int top, int fd, unsigned long *number)
{
    char name[32];
    unsigned long gone = 0;
    struct dirent *entry;
    DIR *stream = entries(fd);

    if (!stream)
        return 0;
    while ((entry = readdir(stream))) {
        if (is_dot(entry->d_name))
            continue;
        if (unlinkat(fd, entry->d_name, 0) == 0 || unlinkat(fd, entry->d_name, AT_REMOVEDIR) == 0) {
            gone++;
            continue;
        }
        int inner cleanup_fd = open_directory(fd, entry->d_name); /* moving needs write permission on it */
        do
            snprintf(name, sizeof(name), "removing-%lu", (*number)++);
        while (faccessat(top, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0);
        gone += renameat(fd, entry->d_name, top, name) == 0;
    }
    closedir(stream);
    return gone;
}

/* One pass over the top directory. How much of it, or of what is in its entries, is gone. */
static unsigned long pass(int top, unsigned long *number)
{
    unsigned long gone = 0;
    struct dirent *entry;
    DIR *stream = entries(top);

    if (!stream)
        return 0;
    while ((entry = readdir(stream))) {
        if (is_dot(entry->d_name))
            continue;
        if (unlinkat(top, entry->d_name, 0) < 0 && unlinkat(top, entry->d_name, AT_REMOVEDIR) < 0) {
            int fd cleanup_fd = open_directory(top, entry->d_name);
            if (fd < 0)
                continue;
            gone += empty_into(top, fd, number);
            if (unlinkat(top, entry->d_name, AT_REMOVEDIR) < 0)
                continue;
        }
        gone++;
    }
    closedir(stream);
    return gone;
}

static void empty(int top)
{
    unsigned long number = 0;

    while (pass(top, &number) > 0)
        ;
}

static void empty_as_owner(int top, int userns)
{
    pid_t pid = fork();

    if (pid == 0) {
        if (setns(userns, CLONE_NEWUSER) == 0)
            empty(top);
        _exit(0);
    }
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

int scratch_remove(const char *path, int userns)
{
    int top cleanup_fd = open_directory(AT_FDCWD, path);

    if (top < 0)
        return errno == ENOENT ? 0 : -1;
    /* Each can remove what the other can't, and so make room for it. */
    for (int round = 0; round < 3; round++) {
        empty(top);
        if (rmdir(path) == 0)
            return 0;
        if (userns < 0 || (errno != ENOTEMPTY && errno != EEXIST))
            break;
        empty_as_owner(top, userns);
    }
    return rmdir(path);
}
