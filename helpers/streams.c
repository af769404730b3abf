/* Standard streams of a command. See streams.h. */

#include "streams.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static const char *const names[] = {"stdin", "stdout", "stderr"};

/* A socket stays in the network it was made in: one that is not tied to its other end for good would
 * be a way to everything in the caller's. */
static bool is_tied(int fd)
{
    struct sockaddr_storage peer;
    socklen_t size = sizeof(peer), length = sizeof(int);
    int domain = -1, type = -1;

    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_UNIX &&
           getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM &&
           getpeername(fd, (struct sockaddr *)&peer, &size) == 0;
}

/* Through a pipe, a connected stream or /dev/null nothing can be reached but what was meant. Anything
 * else could be opened anew through /proc/self/fd, for writing or from its beginning. */
static bool is_harmless(int fd, const struct stat *status)
{
    if (S_ISFIFO(status->st_mode))
        return true;
    if (S_ISSOCK(status->st_mode))
        return is_tied(fd);
    return S_ISCHR(status->st_mode) && status->st_rdev == makedev(1, 3);
}

/* Do both lead to the same open file (or terminal)? Then one pipe keeps the order of what is written. */
static bool same_target(int a, int b)
{
    struct stat first, second;

    if (a < 0 || b < 0 || fstat(a, &first) < 0 || fstat(b, &second) < 0)
        return false;
    if (first.st_dev != second.st_dev || first.st_ino != second.st_ino)
        return false;
    return !S_ISREG(first.st_mode) || syscall(SYS_kcmp, getpid(), getpid(), 0 /* KCMP_FILE */, a, b) <= 0;
}

/* A pipe between the command and us: our end is non-blocking, which concerns nobody else. */
static int through_pipe(struct relay *relay, int number, int *given, int *child, struct budget *budget)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    int own = number == 0 ? ends[1] : ends[0];
    *child = number == 0 ? ends[0] : ends[1];
    if (fcntl(own, F_SETFL, O_NONBLOCK) < 0) {
        close(own);
        close_fd(child);
        return -1;
    }
    if (number == 0)
        relay_start(relay, *given, own, NULL);
    else
        relay_start(relay, own, *given, budget);
    *given = -1;
    return 0;
}

static int prepare_one(struct streams *streams, int number, int *given, int *child,
                       struct failure *failure)
{
    struct stat status;
    bool counted = streams->budget.limited;

    if (*given < 0)
        *given = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (*given < 0 || fstat(*given, &status) < 0)
        return fail(failure, errno, NULL, "cannot prepare %s: %s", names[number], strerror(errno));
    if (S_ISDIR(status.st_mode))
        return fail(failure, EISDIR, NULL, "cannot prepare %s: it is a directory", names[number]);
    counted = counted && (number > 0 || S_ISSOCK(status.st_mode)); /* a socket as stdin can be written to */
    if (is_harmless(*given, &status) && !counted) {
        *child = *given;
        *given = -1;
        return 0;
    }
    if (through_pipe(&streams->relay[number], number, given, child, &streams->budget) < 0)
        return fail(failure, errno, NULL, "cannot prepare %s: %s", names[number], strerror(errno));
    return 0;
}

static int prepare_all(struct streams *streams, int *given, unsigned skip, int *child,
                       struct failure *failure)
{
    bool same = !(skip & 6) && same_target(given[1], given[2]);

    for (int i = 0; i < 3; i++) {
        if (skip & 1u << i)
            continue;
        if (i == 2 && same) {
            child[2] = fcntl(child[1], F_DUPFD_CLOEXEC, 3);
            if (child[2] < 0)
                return fail(failure, errno, NULL, "cannot prepare stderr: %s", strerror(errno));
            return 0;
        }
        if (prepare_one(streams, i, &given[i], &child[i], failure) < 0)
            return -1;
    }
    return 0;
}

int streams_prepare(struct streams *streams, int *given, unsigned skip, int64_t limit, int *child,
                    struct failure *failure)
{
    int result;

    memset(streams, 0, sizeof(*streams));
    streams->budget.limited = limit >= 0;
    streams->budget.left = limit;
    child[0] = child[1] = child[2] = -1;
    result = prepare_all(streams, given, skip, child, failure);
    for (int i = 0; i < 3; i++) {
        close_fd(&given[i]);
        if (result < 0)
            close_fd(&child[i]);
    }
    if (result < 0)
        streams_close(streams);
    return result;
}

int streams_attach(struct streams *streams, int master, int *in, int *out)
{
    int reading cleanup_fd = fcntl(master, F_DUPFD_CLOEXEC, 3);
    int writing cleanup_fd = fcntl(master, F_DUPFD_CLOEXEC, 3);

    /* One open file of init's making, which nobody else has. */
    if (reading < 0 || writing < 0 || fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
        return -1;
    relay_start(&streams->relay[0], *in, writing, NULL);
    relay_start(&streams->relay[RELAY_PTY], reading, *out, &streams->budget);
    *in = *out = reading = writing = -1;
    return 0;
}

bool streams_busy(const struct streams *streams)
{
    for (int i = 0; i < RELAYS; i++)
        if (streams->relay[i].state != RELAY_OFF)
            return true;
    return false;
}

void streams_finish(struct streams *streams)
{
    relay_close(&streams->relay[0]);
    for (int i = 1; i < RELAYS; i++)
        relay_finish(&streams->relay[i]);
}

void streams_close(struct streams *streams)
{
    for (int i = 0; i < RELAYS; i++)
        relay_close(&streams->relay[i]);
}

int streams_error(const struct streams *streams)
{
    for (int i = 1; i < RELAYS; i++)
        if (streams->relay[i].error)
            return streams->relay[i].error;
    return 0;
}
