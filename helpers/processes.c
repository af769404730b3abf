/* The processes inside, seen by init through a proc of its own: which there are, whose each is, and
 * killing what is left of a command. Not what they use: that is measure.c.
 *
 * A payload of the same user may lower init's limit on open files (prlimit(2)), so that a file of /proc
 * can't be opened. What could not be looked at is never taken for what is not there.
 */

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "commands.h"
#include "sys.h"

#define NS_GET_PARENT _IO(0xb7, 0x2) /* ioctl_ns(2) */

void look_begin(struct init *init)
{
    for (int i = 0; i < SPARE_FDS; i++)
        close_fd(&init->spare[i]);
}

void look_end(struct init *init)
{
    for (int i = 0; i < SPARE_FDS; i++)
        init->spare[i] = fcntl(init->null, F_DUPFD_CLOEXEC, 3);
}

int each_process(const struct init *init, void (*visit)(const struct init *, pid_t, void *), void *data)
{
    int fd = openat(init->root.proc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;

    if (!dir) {
        close_fd(&fd);
        return -1;
    }
    while ((entry = readdir(dir))) {
        char *end;
        long pid = strtol(entry->d_name, &end, 10);
        if (*end == 0 && pid > 1)
            visit(init, (pid_t)pid, data);
    }
    closedir(dir);
    return 0;
}

ssize_t read_process(const struct init *init, pid_t pid, const char *file, char *text, size_t size)
{
    char path[48];

    snprintf(path, sizeof(path), "%d/%s", pid, file);
    int fd cleanup_fd = openat(init->root.proc, path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
    text[n > 0 ? n : 0] = 0;
    return n;
}

bool is_gone(int error)
{
    return error == ENOENT || error == ESRCH;
}

static bool is_zombie(const struct init *init, pid_t pid)
{
    char text[512];

    if (read_process(init, pid, "stat", text, sizeof(text)) < 0)
        return is_gone(errno);
    const char *state = strrchr(text, ')');
    return !state || !state[1] || state[2] == 'Z' || state[2] == 'X';
}

/* The command that a process descends from, or whose session it is in; NULL when that can't be told. */
static const struct command *family_of(const struct init *init, pid_t pid)
{
    char text[512];
    int parent, session;

    for (int depth = 0; depth < 256 && pid > 1; depth++, pid = parent) {
        const struct command *command = command_by_pid(init, pid);
        if (command)
            return command;
        read_process(init, pid, "stat", text, sizeof(text));
        const char *rest = strrchr(text, ')');
        if (!rest || sscanf(rest + 1, " %*c %d %*d %d", &parent, &session) != 2)
            return NULL;
        if (session > 1 && (command = command_by_pid(init, session)))
            return command;
    }
    return NULL;
}

/* Of a program that may be executed and not read, init is not told the namespace (would_dump, exec.c): it
 * counts as in unless it is of another command's family. */
static bool is_family(const struct init *init, pid_t pid, uint64_t userns)
{
    const struct command *command = family_of(init, pid);

    for (unsigned i = 0; i < MAX_OPENERS; i++)
        if (init->openers[i].pid == pid)
            return false; /* a child of ours, undumpable too */
    return !command || command->userns == userns;
}

int in_namespace(const struct init *init, pid_t pid, uint64_t userns)
{
    char path[32];
    struct stat status;

    snprintf(path, sizeof(path), "%d/ns/user", pid);
    int fd cleanup_fd = openat(init->root.proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && (errno == EACCES || errno == EPERM))
        return is_family(init, pid, userns);
    if (fd < 0)
        return is_gone(errno) ? 0 : -1;
    for (int depth = 0; depth < 33; depth++) { /* user_namespaces(7): they nest 32 deep */
        if (fstat(fd, &status) < 0)
            return -1;
        if (status.st_ino == userns)
            return 1;
        int parent = ioctl(fd, NS_GET_PARENT);
        if (parent < 0)
            return errno == EPERM ? 0 : -1; /* EPERM: above A there is nothing for us to see */
        close_fd(&fd);
        fd = parent;
    }
    return 0;
}

struct hunt {
    uint64_t userns;
    int found;
    bool blind;
};

/* A process that may not fork any more can't outrun the scan: first the limit, then the signal. */
static void kill_if_inside(const struct init *init, pid_t pid, void *data)
{
    struct hunt *hunt = data;
    struct rlimit none = {0, 0};
    int inside = in_namespace(init, pid, hunt->userns);

    hunt->blind |= inside < 0;
    if (inside <= 0 || is_zombie(init, pid))
        return;
    hunt->found++;
    syscall(SYS_prlimit64, pid, RLIMIT_NPROC, &none, NULL);
    kill(pid, SIGKILL);
}

int kill_inside(struct init *init, uint64_t userns)
{
    struct hunt hunt = {.userns = userns};

    look_begin(init);
    int result = each_process(init, kill_if_inside, &hunt);
    look_end(init);
    return result < 0 || hunt.blind ? -1 : hunt.found;
}
