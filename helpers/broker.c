/* The broker: one for each process that uses the API, so that its launches find supervisors that are there
 * already, each with an init in namespaces made ahead. It takes part in nothing that happens in a sandbox:
 * requests are read by the spare supervisors themselves, who share its socket; it makes new ones.
 *
 * A request is the numbers that descriptors shall have, as int32_t, with the descriptors: the plan and the
 * ticket, whose numbers are no matter, the control socket, and others. The ticket is an eventfd(2) of 1: who
 * takes it decides. A spare does so before anything happens; a caller that has waited too long, for a broker
 * that is stopped, to start its sandbox otherwise.
 *
 * It is not the child of its caller, who may be waiting for all it has, and has nothing of it but the socket:
 * not its session, its directory, or any other descriptor.
 */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "helper.h"
#include "sys.h"

/* Where a spare has what it shares with the broker; what it does not share lies above. */
enum { REQUESTS = 3, TAKEN = 4, FIRST_OWN = 5 };

/* The descriptors of a request. */
enum { PLAN, TICKET, CONTROL };

#define MAX_SPARES 2
#define MAX_FDS 16
/* Nobody asked for anything for so long: what is made ahead costs memory. */
#define IDLE_MS 30000
/* And a spare that is told to go needs at most so long. */
#define CLOSED_MS 10000

struct spare {
    pid_t pid;
    int pidfd;
};

/* What a spare says when a request is its: who it is, and what the next ones should be like. */
struct taken {
    pid_t pid;
    uint64_t namespaces;
    struct place place; /* of the cgroup */
};

struct broker {
    int lifeline, taken, children;
    struct spare spares[MAX_SPARES];
    unsigned count;
    bool closed; /* no request can come any more */
    uint64_t namespaces; /* of the last request, or as we were told for the first */
    struct place place; /* where the last one wanted its cgroup, */
    struct scope scope; /* and we are now */
};

/* --- a spare -------------------------------------------------------------------------------- */

struct request {
    int32_t numbers[MAX_FDS];
    int fds[MAX_FDS];
    int count;
};

static int receive(struct request *request)
{
    union {
        char buffer[CMSG_SPACE(sizeof(int) * MAX_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = request->numbers, .iov_len = sizeof(request->numbers)};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = control.buffer,
                            .msg_controllen = sizeof(control.buffer)};
    ssize_t n;

    do
        n = recvmsg(REQUESTS, &header, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    struct cmsghdr *item = n > 0 ? CMSG_FIRSTHDR(&header) : NULL;
    if (!item || item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS)
        return -1;
    size_t size = item->cmsg_len - CMSG_LEN(0);
    memcpy(request->fds, CMSG_DATA(item), size);
    request->count = (int)(size / sizeof(int));
    return header.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || n != request->count * (ssize_t)sizeof(int32_t) ? -1 : 0;
}

/* Tell the caller why its sandbox will not come. */
static void refuse(const struct request *request, const char *why, int error, const char *mend)
{
    char json[400];
    int size = snprintf(json, sizeof(json),
                        "{\"event\":\"error\",\"operation\":\"start a supervisor\",\"origin\":\"\",\"errno\":%d,"
                        "\"errno_name\":\"%s\",\"message\":\"cannot start a sandbox: %s: %s\",\"mend\":\"%s\"}",
                        error, error_name(error), why, strerror(error), mend);

    if (request->count > CONTROL)
        send(request->fds[CONTROL], json, (size_t)size, MSG_NOSIGNAL);
    for (int i = 0; i < request->count; i++)
        close(request->fds[i]);
}

static _Noreturn void give_up(const struct request *request, const char *why, int error, const char *mend)
{
    refuse(request, why, error, mend);
    _exit(EXIT_OURS);
}

/* Move a descriptor out of the way of numbers below `above`. */
static int move(int *fd, int above)
{
    if (*fd < 0 || *fd >= above)
        return 0;
    int moved = fcntl(*fd, F_DUPFD_CLOEXEC, above);
    if (moved < 0)
        return -1;
    close(*fd);
    *fd = moved;
    return 0;
}

/* Give the descriptors from the control socket on their numbers, whatever else has those now. */
static int place(struct request *request, struct made_ahead *ahead, int *taken)
{
    int above = FIRST_OWN;

    for (int i = CONTROL; i < request->count; i++) {
        if (request->numbers[i] < 0)
            return -1;
        above = request->numbers[i] >= above ? request->numbers[i] + 1 : above;
    }
    for (int i = 0; i < request->count; i++)
        if (move(&request->fds[i], above) < 0)
            return -1;
    if (move(&ahead->init.pidfd, above) < 0 || move(&ahead->init.socket, above) < 0 ||
        move(&ahead->init.userns, above) < 0 || move(&ahead->init.netns, above) < 0 || move(&ahead->scope.base, above) < 0 ||
        move(&ahead->box.dir, above) < 0 || move(&ahead->box.run, above) < 0 || move(taken, above) < 0)
        return -1;
    for (int i = CONTROL; i < request->count; i++)
        if (dup2(request->fds[i], request->numbers[i]) < 0)
            return -1;
    ahead->box.base = ahead->scope.base;
    ahead->plan_fd = request->fds[PLAN];
    return 0;
}

/* Say who we are, and then take the ticket: whoever finds it taken has our introduction. -1: the caller has
 * given up, or is gone, and nothing may happen. */
static int accept_request(struct request *request)
{
    uint64_t one;

    /* Who was introduced is waited for: from here on it lives whatever becomes of the broker. */
    prctl(PR_SET_PDEATHSIG, 0);
    if (request->count <= CONTROL || introduce(request->numbers[CONTROL], "supervisor") < 0 ||
        read(request->fds[TICKET], &one, sizeof(one)) != (ssize_t)sizeof(one))
        return -1;
    close_fd(&request->fds[TICKET]);
    return 0;
}

static void tell_taken(int to, const struct plan *plan)
{
    struct taken taken;

    memset(&taken, 0, sizeof(taken));
    taken.pid = getpid();
    taken.namespaces = init_namespaces(plan);
    scope_place(plan, &taken.place);
    if (write(to, &taken, sizeof(taken)) < 0)
        return; /* the broker is gone */
}

static void drop(struct made_ahead *ahead)
{
    int error = errno;

    init_abandon(&ahead->init);
    box_remove(&ahead->box);
    errno = error;
}

static _Noreturn void spare_main(const struct broker *broker, pid_t parent)
{
    struct made_ahead ahead = {.plan_fd = -1,
                               .namespaces = broker->namespaces,
                               .place = broker->place,
                               .scope = broker->scope,
                               .box = {.base = -1, .dir = -1, .run = -1}};
    struct request request = {.count = 0};
    struct failure failure;
    struct plan plan;
    const char *why;
    sigset_t none;
    int taken = TAKEN;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(EXIT_OURS);
    if (ahead.scope.base >= 0 && dup3(ahead.scope.base, FIRST_OWN, O_CLOEXEC) == FIRST_OWN)
        ahead.scope.base = FIRST_OWN;
    else
        ahead.scope.base = -1;
    sys_close_range(ahead.scope.base < 0 ? FIRST_OWN : FIRST_OWN + 1, ~0u);
    setpgid(0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    init_clear(&ahead.init);
    /* What can't be made ahead (a limit on namespaces) is tried again, and explained, for a plan. */
    if (box_make(&ahead.scope, &ahead.box, &failure) == 0)
        init_clone(broker->namespaces, NULL, NULL, ahead.box.run, &ahead.init, &failure);
    if (receive(&request) < 0) {
        drop(&ahead);
        _exit(EXIT_OURS);
    }
    if (place(&request, &ahead, &taken) < 0) {
        drop(&ahead);
        give_up(&request, "cannot arrange descriptors", errno, "raise the limit on open files (ulimit -n)");
    }
    if (plan_read(ahead.plan_fd, &plan, &why) < 0) {
        drop(&ahead);
        give_up(&request, why, EINVAL, "");
    }
    if (accept_request(&request) < 0) {
        drop(&ahead);
        _exit(EXIT_OURS);
    }
    tell_taken(taken, &plan);
    _exit(supervisor_main(&plan, &ahead));
}

/* --- the broker ----------------------------------------------------------------------------- */

static void forget(struct broker *broker, unsigned i)
{
    close_fd(&broker->spares[i].pidfd);
    broker->spares[i] = broker->spares[--broker->count];
}

/* 0, or -1 with errno. */
static int add_spare(struct broker *broker)
{
    struct spare spare = {.pid = 0, .pidfd = -1};
    pid_t parent = getpid();
    struct k_clone_args args = {
        .flags = K_CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&spare.pidfd, .exit_signal = SIGCHLD};

    spare.pid = sys_clone3(&args);
    if (spare.pid == 0)
        spare_main(broker, parent);
    if (spare.pid < 0)
        return -1;
    broker->spares[broker->count++] = spare;
    return 0;
}

/* There is a request and nobody to take it. */
static void add_needed(struct broker *broker)
{
    struct request request = {.count = 0};
    int error = add_spare(broker) < 0 ? errno : 0;

    if (error && receive(&request) == 0)
        refuse(&request, "no process can be made", error,
               "end some processes, or raise the limit on them (ulimit -u)");
}

/* Enter the scope that the last request was for, so that the next ones find a cgroup made ahead, too. Where
 * that does not work each enters one of its own, and explains what is wrong. */
static void enter(struct broker *broker, const struct place *place)
{
    static const struct plan none;
    struct failure failure;

    if (memcmp(place, &broker->place, sizeof(*place)) == 0)
        return;
    broker->place = *place;
    scope_leave(&broker->scope);
    if (*place->way && scope_open(place, NULL, broker->lifeline, &broker->scope, &failure) == 0 &&
        scope_divide(&broker->scope, &none, &failure) < 0)
        scope_leave(&broker->scope);
}

static void read_taken(struct broker *broker)
{
    struct taken taken;

    while (read(broker->taken, &taken, sizeof(taken)) == (ssize_t)sizeof(taken)) {
        broker->namespaces = taken.namespaces;
        enter(broker, &taken.place);
        for (unsigned i = 0; i < broker->count; i++)
            if (broker->spares[i].pid == taken.pid)
                forget(broker, i--);
    }
}

/* Those who lived as long as their sandboxes, too. */
static void reap(const struct broker *broker)
{
    struct signalfd_siginfo ignored;

    while (read(broker->children, &ignored, sizeof(ignored)) > 0)
        ;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

/* Wait for what happens next. Without a spare, for the request that needs one. False: nobody wants anything. */
static bool wait_for_events(struct broker *broker)
{
    struct pollfd polls[4 + MAX_SPARES] = {
        {.fd = broker->lifeline, .events = POLLIN},
        {.fd = broker->taken, .events = POLLIN},
        {.fd = broker->children, .events = POLLIN},
        {.fd = broker->closed && broker->count ? -1 : REQUESTS, .events = broker->count ? 0 : POLLIN},
    };

    for (unsigned i = 0; i < broker->count; i++)
        polls[4 + i] = (struct pollfd){.fd = broker->spares[i].pidfd, .events = POLLIN};
    int ready = poll(polls, 4 + broker->count, broker->closed ? CLOSED_MS : IDLE_MS);
    if (ready < 0 && errno != EINTR)
        return false;
    if (ready == 0 || polls[0].revents || polls[3].revents & (POLLERR | POLLNVAL) ||
        (polls[3].revents & (POLLHUP | POLLIN)) == POLLHUP)
        return false;
    for (unsigned i = broker->count; i-- > 0;)
        if (polls[4 + i].revents)
            forget(broker, i);
    if (polls[2].revents)
        reap(broker);
    if (polls[1].revents)
        read_taken(broker);
    else if (polls[3].revents & POLLIN)
        add_needed(broker);
    return true;
}

/* Spares that nobody will ask for end by themselves, and remove their cgroups; our death would kill them
 * half-way. */
static void await_spares(struct broker *broker)
{
    for (int round = 0; round < 20 && broker->count; round++) {
        struct pollfd spare = {.fd = broker->spares[0].pidfd, .events = POLLIN};
        if (poll(&spare, 1, 100) > 0)
            forget(broker, 0);
        read_taken(broker);
    }
}

/* No request can come any more. Those that came are still read, by spares that end when there is none left. */
static void retire(struct broker *broker)
{
    char byte;

    shutdown(REQUESTS, SHUT_RD);
    broker->closed = true;
    while (broker->count || recv(REQUESTS, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
        if (!wait_for_events(broker))
            break;
    await_spares(broker);
    reap(broker);
}

static int arrange_descriptors(struct broker *broker, int socket, int lifeline)
{
    int pipes[2], above = 64;
    sigset_t children;

    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    sigprocmask(SIG_SETMASK, &children, NULL);
    signal(SIGCHLD, SIG_DFL); /* ignored, there would be nothing to wait for */
    int watched = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fcntl(socket, F_GETFD) < 0 || watched < 0 || pipe2(pipes, O_CLOEXEC) < 0)
        return -1;
    int *all[] = {&socket, &lifeline, &pipes[0], &pipes[1], &watched};
    for (unsigned i = 0; i < 5; i++)
        if ((*all[i] = fcntl(*all[i], F_DUPFD_CLOEXEC, above)) < 0)
            return -1;
    broker->lifeline = FIRST_OWN;
    broker->taken = FIRST_OWN + 1;
    broker->children = FIRST_OWN + 2;
    if (dup2(socket, REQUESTS) < 0 || dup2(pipes[1], TAKEN) < 0 || dup2(lifeline, broker->lifeline) < 0 ||
        dup2(pipes[0], broker->taken) < 0 || dup2(watched, broker->children) < 0)
        return -1;
    sys_close_range(FIRST_OWN + 3, ~0u);
    return fcntl(broker->taken, F_SETFL, O_RDONLY | O_NONBLOCK);
}

int broker_main(int socket, int lifeline, uint64_t namespaces)
{
    struct broker broker = {.namespaces = namespaces, .scope = {.base = -1}};

    clearenv();
    if (arrange_descriptors(&broker, socket, lifeline) < 0 || chdir("/") < 0)
        return EXIT_OURS;
    pid_t pid = fork();
    if (pid != 0)
        return pid < 0 ? EXIT_OURS : 0;
    if (setsid() < 0 || introduce(REQUESTS, "broker") < 0)
        return EXIT_OURS;
    do
        while (broker.count < MAX_SPARES && add_spare(&broker) == 0)
            ;
    while (wait_for_events(&broker));
    retire(&broker);
    return 0;
}
