/* The join: what is done inside of the network namespace of a sandbox from outside, as root in A. A process of its
 * own, since a namespace can be entered and never left.
 *
 * The sockets that it makes and passes on are the sandbox's network namespace's for life, whoever has them; those
 * of netlink also carry the rights of who opened them, and whoever sends must have them as well: the owner of
 * A has, from outside (netlink_net_capable(), net/netlink/af_netlink.c).
 */

#include "join.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "bridge.h"
#include "netlink.h"
#include "rate.h"
#include "sys.h"

#define BACKLOG 128
#define PATIENCE_S 10 /* for the kernel to answer on netlink */

static _Noreturn void report(int socket, const struct plan *plan, const struct failure *failure)
{
    struct message message = {.type = MSG_FAILED, .a = failure->error, .b = -1};

    if (failure->record)
        message.b = failure->record - plan->records;
    message.size = (uint32_t)strlen(failure->text) + 1;
    message_send(socket, &message, failure->text, NULL, 0);
    _exit(EXIT_OURS);
}

/* --- sockets -------------------------------------------------------------------------------- */

static int netlink_socket(int family)
{
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, family);

    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    return fd;
}

/* Freely: an address that a device is yet to get is as good. */
static int bound_socket(const struct record *record, int type)
{
    const int one = 1;
    struct address address;

    if (address_read(&address, record_text(record, 2), (uint16_t)record_int(record, 3)) < 0)
        return -1;
    int fd = socket(address.storage.ss_family, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &one, sizeof(one)) < 0 ||
        (address.storage.ss_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0) ||
        bind(fd, (struct sockaddr *)&address.storage, address.size) < 0 ||
        (type == SOCK_STREAM && listen(fd, BACKLOG) < 0))
        close_fd(&fd);
    return fd;
}

static int make_socket(const struct record *record, int64_t type)
{
    switch (type) {
    case SOCKET_STREAM:
        return bound_socket(record, SOCK_STREAM);
    case SOCKET_DATAGRAM:
        return bound_socket(record, SOCK_DGRAM);
    case SOCKET_ROUTE:
        return netlink_socket(NETLINK_ROUTE);
    case SOCKET_NETFILTER:
        return netlink_socket(NETLINK_NETFILTER);
    default:
        errno = EINVAL;
        return -1;
    }
}

static int pass(int socket, int64_t index, int64_t type, int fd)
{
    struct message message = {.type = MSG_SOCKET, .a = index, .b = type};

    return message_send(socket, &message, NULL, &fd, 1);
}

static int pass_sockets(const struct plan *plan, int socket, struct failure *failure)
{
    const struct record *record = NULL;

    while ((record = plan_next(plan, KIND_SOCKET, record))) {
        int64_t type = record_int(record, 1);
        if (type == SOCKET_GIVEN)
            continue;
        int fd cleanup_fd = make_socket(record, type);
        if (fd < 0 || pass(socket, record - plan->records, type, fd) < 0)
            return fail(failure, errno, record, "cannot %s: %s", record_description(record), strerror(errno));
    }
    for (int type = SOCKET_ROUTE; type <= SOCKET_NETFILTER; type++) {
        int fd cleanup_fd = make_socket(NULL, type);
        if (type == SOCKET_NETFILTER && !plan_find(plan, KIND_NFT))
            continue;
        if (fd < 0 || pass(socket, -1, type, fd) < 0)
            return fail(failure, errno, NULL, "cannot open a netlink socket in the network namespace: %s",
                        strerror(errno));
    }
    return 0;
}

/* --- devices, addresses of lo ---------------------------------------------------------------- */

static int set_devices(const struct plan *plan, struct failure *failure)
{
    const struct record *record = NULL;
    int fd cleanup_fd = netlink_socket(NETLINK_ROUTE);

    while ((record = plan_next(plan, KIND_BRIDGE, record)))
        if (bridge_add(fd, record) < 0)
            return fail(failure, errno, record, "cannot %s: %s", record_description(record), strerror(errno));
    while ((record = plan_next(plan, KIND_ADDRESS, record)))
        if (strcmp(record_text(record, 0), "lo") == 0 && address_add(fd, record) < 0)
            return fail(failure, errno, record, "cannot %s: %s", record_description(record), strerror(errno));
    return 0;
}

/* While we are in the network namespace, and may write to its part of /proc. */
static void set_windows(const struct plan *plan)
{
    const struct record *own = plan_find(plan, KIND_RATE), *veth = plan_find(plan, KIND_VETH);
    int64_t rate = own ? record_int(own, 1) : veth ? record_int(veth, 7) : 0;

    if (rate > 0)
        rate_windows(rate);
}

/* --- rules ---------------------------------------------------------------------------------- */

static int in_memory(const struct field *text)
{
    int fd = memfd_create("rules", MFD_CLOEXEC);

    if (fd >= 0 && (write_all(fd, text->data, text->size) < 0 || lseek(fd, 0, SEEK_SET) < 0))
        close_fd(&fd);
    return fd;
}

/* As a program that begins anew it can be looked into, and it sees the machine's files: by whoever is in A and has all
 * its capabilities, which a service has but for one that is of no use to anybody. */
static _Noreturn void become_nft(const char *path, int rules, int errors)
{
    static char name[] = "nft", option[] = "-f", input[] = "-";
    char *arguments[] = {name, option, input, NULL}, *environment[] = {NULL};
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == 1)
        _exit(EXIT_OURS); /* too late: the join is gone already */
    if (dup2(rules, 0) >= 0 && dup2(errors, 1) >= 0 && dup2(errors, 2) >= 0 && chdir("/") == 0 &&
        keep_capabilities(1ull << CAP_NET_ADMIN | 1ull << CAP_WAKE_ALARM) == 0)
        execve(path, arguments, environment);
    dprintf(errors, "%s: %s", path, strerror(errno));
    _exit(EXIT_NOT_FOUND);
}

/* Its last words, in one line. */
static void read_words(int fd, char *text, size_t size)
{
    size_t used = 0;
    ssize_t n;

    while (used < size - 1 && ((n = read(fd, text + used, size - 1 - used)) > 0 || (n < 0 && errno == EINTR)))
        used += n > 0 ? (size_t)n : 0;
    while (used > 0 && text[used - 1] == '\n')
        used--;
    text[used] = 0;
    for (size_t i = 0; i < used; i++)
        if (text[i] == '\n')
            text[i] = ' ';
}

static int load_rules(const struct record *record, struct failure *failure)
{
    int pipes[2], rules cleanup_fd = in_memory(record_field(record, 1));
    char words[600];

    if (rules < 0 || pipe2(pipes, O_CLOEXEC) < 0)
        return fail(failure, errno, record, "cannot %s: %s", record_description(record), strerror(errno));
    pid_t pid = fork();
    if (pid == 0)
        become_nft(record_text(record, 0), rules, pipes[1]);
    close(pipes[1]);
    read_words(pipes[0], words, sizeof(words));
    close(pipes[0]);
    if (pid < 0)
        return fail(failure, errno, record, "cannot %s: %s", record_description(record), strerror(errno));
    int status = child_wait(pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return fail(failure, EPERM, record, "cannot %s: %s", record_description(record),
                *words ? words : "nft was killed");
}

/* --- life ----------------------------------------------------------------------------------- */

static _Noreturn void join_main(const struct plan *plan, int userns, int netns, int socket)
{
    struct failure failure;
    struct message joined = {.type = MSG_JOINED};
    const struct record *rules = NULL;
    int null = open("/dev/null", O_RDWR), kept[] = {userns, netns, socket};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid();
    for (int i = 0; i < 3; i++)
        dup2(null, i);
    if (null < 0 || close_all_but(kept, 3) < 0 || setns(userns, CLONE_NEWUSER) < 0 || setns(netns, CLONE_NEWNET) < 0) {
        fail(&failure, errno, NULL, "cannot enter the network namespace: %s", strerror(errno));
        report(socket, plan, &failure);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* whoever changes namespaces loses it */
    if (set_devices(plan, &failure) < 0 || pass_sockets(plan, socket, &failure) < 0)
        report(socket, plan, &failure);
    set_windows(plan);
    while ((rules = plan_next(plan, KIND_NFT, rules)))
        if (load_rules(rules, &failure) < 0)
            report(socket, plan, &failure);
    message_send(socket, &joined, NULL, NULL, 0);
    _exit(0);
}

int join_start(const struct plan *plan, int userns, int netns, struct join *join, struct failure *failure)
{
    int pair[2];

    *join = (struct join){.pid = -1, .socket = -1};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return fail(failure, errno, NULL, "cannot enter the network namespace: %s", strerror(errno));
    join->pid = fork();
    if (join->pid == 0)
        join_main(plan, userns, netns, pair[1]);
    int error = errno;
    close(pair[1]);
    if (join->pid < 0) {
        close(pair[0]);
        return fail(failure, error, NULL, "cannot enter the network namespace: %s", strerror(error));
    }
    join->socket = pair[0];
    return 0;
}

void join_end(struct join *join)
{
    close_fd(&join->socket);
    child_end(&join->pid);
}
