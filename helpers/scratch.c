/* Removing directories that payloads filled. See scratch.h.
 *
 * Depth is the payload's choice, so there is no recursion and no descriptor per level: a directory
 * below the top one that is not empty has its own directories moved up to the top, and is empty then.
 */

#include "scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "helper.h"
#include "sys.h"

/* How long a command's end may be kept waiting for it, ns; what takes longer is done behind its back. */
#define PATIENCE (100 * (int64_t)1000000)
#define FOREVER INT64_MAX
#define DIRECTORY (O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* --- emptying -------------------------------------------------------------------------------- */

struct removal {
    int top;
    unsigned long number; /* of the next name for what is moved up */
    int64_t until;        /* CLOCK_MONOTONIC, ns */
};

static bool is_late(const struct removal *removal)
{
    return removal->until != FOREVER && now() >= removal->until;
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
static unsigned long empty_into(struct removal *removal, int fd)
{
    char name[32];
    unsigned long gone = 0;
    struct dirent *entry;
    DIR *stream = entries(fd);

    if (!stream)
        return 0;
    while (!is_late(removal) && (entry = readdir(stream))) {
        if (is_dot(entry->d_name))
            continue;
        if (unlinkat(fd, entry->d_name, 0) == 0 || unlinkat(fd, entry->d_name, AT_REMOVEDIR) == 0) {
            gone++;
            continue;
        }
        int inner cleanup_fd = open_directory(fd, entry->d_name); /* moving needs write permission on it */
        do
            snprintf(name, sizeof(name), "removing-%lu", removal->number++);
        while (faccessat(removal->top, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0);
        gone += renameat(fd, entry->d_name, removal->top, name) == 0;
    }
    closedir(stream);
    return gone;
}

/* One pass over the top directory. How much of it, or of what is in its entries, is gone. */
static unsigned long pass(struct removal *removal)
{
    const int top = removal->top;
    unsigned long gone = 0;
    struct dirent *entry;
    DIR *stream = entries(top);

    if (!stream)
        return 0;
    while (!is_late(removal) && (entry = readdir(stream))) {
        if (is_dot(entry->d_name))
            continue;
        if (unlinkat(top, entry->d_name, 0) < 0 && unlinkat(top, entry->d_name, AT_REMOVEDIR) < 0) {
            int fd cleanup_fd = open_directory(top, entry->d_name);
            if (fd < 0)
                continue;
            gone += empty_into(removal, fd);
            if (unlinkat(top, entry->d_name, AT_REMOVEDIR) < 0)
                continue;
        }
        gone++;
    }
    closedir(stream);
    return gone;
}

static void empty(int top, int64_t until)
{
    struct removal removal = {.top = top, .until = until};

    while (pass(&removal) > 0 && !is_late(&removal))
        ;
}

static void empty_as_owner(int top, int userns, int64_t until)
{
    pid_t pid = fork();

    if (pid == 0) {
        if (setns(userns, CLONE_NEWUSER) == 0)
            empty(top, until);
        _exit(0);
    }
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

/* 0, or -1 with errno; ETIME: there was no time for more. */
static int remove_until(const char *path, int userns, int64_t until)
{
    int top cleanup_fd = open_directory(AT_FDCWD, path);

    if (top < 0)
        return errno == ENOENT ? 0 : -1;
    /* Each can remove what the other can't, and so make room for it. */
    for (int round = 0; round < 3; round++) {
        empty(top, until);
        if (rmdir(path) == 0)
            return 0;
        if (errno != ENOTEMPTY && errno != EEXIST)
            return -1;
        if (until != FOREVER && now() >= until) {
            errno = ETIME;
            return -1;
        }
        if (userns < 0)
            return -1;
        empty_as_owner(top, userns, until);
    }
    return rmdir(path);
}

/* --- whose it is ------------------------------------------------------------------------------ */

/* When a process started (proc(5), field 22 of stat); 0: there is none, or nobody has waited for it yet;
 * -1: nobody can tell. */
static long long started(pid_t pid)
{
    char path[32], text[1024];
    long long start, threads;
    char state;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    int fd cleanup_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -1;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    if (n < 0)
        return errno == ESRCH ? 0 : -1;
    text[n] = 0;
    const char *rest = strrchr(text, ')');
    if (!rest || sscanf(rest + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %lld %*d %lld",
                        &state, &threads, &start) != 3)
        return -1;
    return (state == 'Z' || state == 'X') && threads <= 1 ? 0 : start; /* its main thread may end before others */
}

/* Half of the machine's id (machine-id(5)); 0 when it has none. */
static unsigned long long machine(void)
{
    char text[17] = "";
    int fd cleanup_fd = open("/etc/machine-id", O_RDONLY | O_CLOEXEC);

    if (fd < 0 || read(fd, text, 16) != 16 || strspn(text, "0123456789abcdef") != 16)
        return 0;
    return strtoull(text, NULL, 16);
}

/* Where process ids are those that we see: the twin of sandbox/owners.py, which says why. */
static unsigned long long place(void)
{
    struct stat status;

    return stat("/proc/self/ns/pid", &status) == 0 ? status.st_ino ^ machine() : 0;
}

/* The last part of a name that says whose the directory is, and whether that process is gone. */
static const char *parse(const char *name, bool *gone)
{
    unsigned long long where;
    long long start;
    int pid, length = 0;

    *gone = false;
    if (sscanf(name, "%llu-%d-%lld-%n", &where, &pid, &start, &length) != 3 || !length || !name[length])
        return NULL;
    long long now_there = started(pid);
    *gone = where == place() && now_there >= 0 && now_there != start;
    return name + length;
}

/* Give it a name that says it is this process's to remove; `path` is PATH_MAX long. 0, or -1: somebody else
 * was first, or it can't be renamed. */
static int adopt(char *path)
{
    char own[PATH_MAX];
    char *name = strrchr(path, '/');
    bool gone;

    if (!name)
        return -1;
    const char *last = parse(name + 1, &gone);
    int n = snprintf(own, sizeof(own), "%.*s/%llu-%d-%lld-%s", (int)(name - path), path, place(), getpid(),
                     started(getpid()), last ? last : "left");
    if (n < 0 || (size_t)n >= sizeof(own) || rename(path, own) < 0)
        return -1;
    memcpy(path, own, (size_t)n + 1);
    return 0;
}

/* --- behind the command's back ----------------------------------------------------------------- */

/* Remove what processes that are gone left in parent; false: there was no time for all of it, and the last
 * one, whose name is in path (PATH_MAX), is ours now. */
static bool sweep(const char *parent, int userns, int64_t until, char *path);

/* Keep the two, as 3 and 4, and nothing else of whoever started us. */
static void detach(int *userns, int *told)
{
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigset_t none;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (int i = 0; i < 3; i++)
        dup2(null, i);
    *told = fcntl(*told, F_DUPFD, 5);
    if (*userns >= 0)
        *userns = dup2(*userns, 3);
    else
        close(3);
    *told = dup2(*told, 4);
    sys_close_range(5, ~0u);
    for (int number = 1; number < NSIG; number++)
        sigaction(number, &plain, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    if (chdir("/") < 0 || nice(10) < 0)
        return; /* it works all the same */
}

/* Remove it in a process of its own, and what else is left there by processes that are gone. It has its
 * new name when this returns: whoever finds it knows whether somebody is at it. */
static int remove_later(const char *path, int userns)
{
    char own[PATH_MAX], other[PATH_MAX], byte;
    int pipes[2];

    if (strlen(path) >= sizeof(own) || pipe2(pipes, O_CLOEXEC) < 0)
        return remove_until(path, userns, FOREVER);
    pid_t pid = fork();
    if (pid == 0) {
        int told = pipes[1];
        strcpy(own, path);
        adopt(own);
        detach(&userns, &told);
        close_fd(&told);
        remove_until(own, userns, FOREVER);
        *strrchr(own, '/') = 0;
        sweep(own, userns, FOREVER, other);
        _exit(0);
    }
    close(pipes[1]);
    while (read(pipes[0], &byte, 1) < 0 && errno == EINTR)
        ;
    close(pipes[0]);
    return pid < 0 ? remove_until(path, userns, FOREVER) : 0;
}

static bool sweep(const char *parent, int userns, int64_t until, char *path)
{
    struct dirent *entry;
    DIR *stream = opendir(parent);
    bool gone, late = false;

    while (stream && !late && (entry = readdir(stream))) {
        int n = snprintf(path, PATH_MAX, "%s/%s", parent, entry->d_name);
        if (parse(entry->d_name, &gone) && gone && n > 0 && n < PATH_MAX && adopt(path) == 0)
            late = remove_until(path, userns, until) < 0 && errno == ETIME;
    }
    if (stream)
        closedir(stream);
    return !late;
}

int scratch_remove(const char *path, int userns)
{
    char parent[PATH_MAX], other[PATH_MAX];
    int64_t until = now() + PATIENCE;
    int result = remove_until(path, userns, until);

    if (result < 0 && errno == ETIME)
        return remove_later(path, userns);
    const char *name = strrchr(path, '/');
    if (result < 0 || !name || (size_t)(name - path) >= sizeof(parent))
        return result;
    snprintf(parent, sizeof(parent), "%.*s", (int)(name - path), path);
    return sweep(parent, userns, until, other) ? 0 : remove_later(other, userns);
}

void scratch_sweep(const char *parent)
{
    char other[PATH_MAX];

    sweep(parent, -1, now() + PATIENCE, other);
}
