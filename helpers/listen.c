/* Socket activation. What a command is handed is made in the sandbox's own network namespace: with a socket of the
 * host's it could do more than wait there. A listener can be disconnected (connect(2), AF_UNSPEC) and then connected
 * to anywhere in the namespace that it was made in, host loopback and all.
 */

#include "listen.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "netlink.h"
#include "sys.h"

#define BACKLOG 4096 /* or net.core.somaxconn */
#define VARIABLES 3
#define MAX_NAMES 8192 /* bytes, of all names */

static int open_one(const struct record *record)
{
    const int one = 1;
    struct address address;
    bool datagrams = strcmp(record_text(record, 0), "udp") == 0;

    if (address_read(&address, record_text(record, 1), (uint16_t)record_int(record, 2)) < 0)
        return -1;
    int fd = socket(address.storage.ss_family, (datagrams ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (fd >= 0 && address.storage.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
                    bind(fd, (struct sockaddr *)&address.storage, address.size) < 0 ||
                    (!datagrams && listen(fd, BACKLOG) < 0))) {
        int error = errno;
        close_fd(&fd);
        errno = error;
    }
    return fd;
}

/* Far from where commands expect them, and (as commands have limits of their own) not in their way. */
static int move_away(int fd)
{
    struct rlimit files;
    int above = -1;

    if (fd < 0 || getrlimit(RLIMIT_NOFILE, &files) < 0)
        return fd;
    rlim_t place = files.rlim_cur < 1024 ? files.rlim_cur / 2 : 512;
    if (place > FIRST_LISTENING + MAX_LISTENING)
        above = fcntl(fd, F_DUPFD_CLOEXEC, (int)place);
    else
        errno = EMFILE;
    int error = errno;
    close_fd(&fd);
    errno = error;
    return above;
}

int listen_open(struct listening *listening, const struct plan *plan, struct failure *failure)
{
    const struct record *record = NULL;

    while ((record = plan_next(plan, KIND_LISTEN, record))) {
        int fd = -1;
        errno = E2BIG;
        if (listening->count < MAX_LISTENING)
            fd = move_away(open_one(record));
        if (fd < 0)
            return fail(failure, errno, record, "cannot %s: %s", record_description(record), strerror(errno));
        listening->fd[listening->count++] = fd;
    }
    return 0;
}

int listen_place(const struct listening *listening, int channel)
{
    int last = FIRST_LISTENING + (int)listening->count;

    if (channel < last && (channel = fcntl(channel, F_DUPFD_CLOEXEC, last)) < 0)
        return -1;
    for (unsigned i = 0; i < listening->count; i++)
        if (dup2(listening->fd[i], FIRST_LISTENING + (int)i) < 0)
            return -1;
    if (channel != last && dup2(channel, last) < 0)
        return -1;
    return fcntl(last, F_SETFD, FD_CLOEXEC) < 0 || sys_close_range((unsigned)last + 1, ~0u) < 0 ? -1 : last;
}

static bool is_ours(const char *variable)
{
    static const char *const names[VARIABLES] = {"LISTEN_PID=", "LISTEN_FDS=", "LISTEN_FDNAMES="};

    for (unsigned i = 0; i < VARIABLES; i++)
        if (strncmp(variable, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

char **listen_environment(const struct listening *listening, const struct plan *plan, char *const *environment)
{
    static char pid[32], count[32], names[sizeof("LISTEN_FDNAMES=") + MAX_NAMES] = "LISTEN_FDNAMES=";
    const struct record *record = NULL;
    size_t given = 0, kept = 0, used = strlen(names);

    while (environment[given])
        given++;
    char **all = calloc(given + VARIABLES + 1, sizeof(*all));
    if (!all)
        return NULL;
    for (size_t i = 0; i < given; i++)
        if (!is_ours(environment[i]))
            all[kept++] = environment[i];
    for (unsigned i = 0; i < listening->count && (record = plan_next(plan, KIND_LISTEN, record)); i++)
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%.255s", i ? ":" : "", record_text(record, 3));
    snprintf(pid, sizeof(pid), "LISTEN_PID=%d", (int)getpid());
    snprintf(count, sizeof(count), "LISTEN_FDS=%u", listening->count);
    all[kept++] = pid;
    all[kept++] = count;
    all[kept] = names;
    return all;
}
