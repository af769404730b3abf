/* The guard of a service: a program outside of the sandbox, as pasta or slirp4netns, that must live no longer
 * than the sandbox, however that ends.
 *
 * A process that supervisor and guard are children of can't be killed together with both, and whatever a
 * program is given to notice their death by (PR_SET_PDEATHSIG, a pipe), it may lose. So the guard is PID 1 of a
 * pid namespace that the service is in: the kernel ends the one with the other. Whoever may make one is root
 * in some user namespace, and A is there. This is also where a network backend needs its rights, and all that it can
 * have: over no other network namespace than the sandbox's does it have any. The payload, in a pid namespace
 * beside it, neither sees it nor can signal it.
 *
 * It is not what parses anything: what the service writes is passed on.
 */

#include "guard.h"

#include <errno.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "confine.h"
#include "sys.h"

#define CAP(name) (1ull << CAP_##name)
/* What pasta(1) and slirp4netns(1) need to enter the network namespace, to make a device there, and to give up
 * what they had; and services of ours to listen at any port there. */
#define RIGHTS (CAP(SETPCAP) | CAP(NET_BIND_SERVICE) | CAP(NET_ADMIN) | CAP(SYS_ADMIN))

#define MAX_ARGUMENTS 256
#define MAX_TAIL 400
#define MAX_LINE 2048

struct tail {
    char text[MAX_TAIL + 1];
    size_t size;
};

struct guarding {
    const struct guard_order *order;
    int socket, netns, children, errors, said, go;
    pid_t program;
    bool ready, forked; /* forked: the first process ended well, and others go on */
    int status;         /* of the first process */
    struct tail tail;
    char line[MAX_LINE];
    size_t length;
};

/* --- saying so ------------------------------------------------------------------------------ */

static void say(int socket, enum message_type type, int64_t value, const char *text)
{
    struct message message = {.type = type, .a = value, .size = text ? (uint32_t)strlen(text) + 1 : 0};

    message_send(socket, &message, text, NULL, 0);
}

static _Noreturn void give_up(int socket, const char *what)
{
    char text[300];
    int error = errno;

    snprintf(text, sizeof(text), "%s: %s", what, strerror(error));
    say(socket, MSG_FAILED, error, text);
    _exit(EXIT_OURS);
}

/* --- the service's process ------------------------------------------------------------------ */

/* Above whatever the service gets, then down to where it gets it. */
static int place_descriptors(const struct guard_order *order, int ready)
{
    int above = 64, all[1 + 16];
    unsigned count = order->count + (ready >= 0);

    if (count > 16)
        return -1;
    for (unsigned i = 0; i < count; i++) {
        all[i] = fcntl(i < order->count ? order->fds[i] : ready, F_DUPFD_CLOEXEC, above);
        if (all[i] < 0)
            return -1;
    }
    for (unsigned i = 0; i < count; i++)
        if (dup2(all[i], 3 + (int)i) < 0)
            return -1;
    return sys_close_range(3 + count, ~0u);
}

static void fill_arguments(const struct guarding *g, unsigned first, char **arguments)
{
    static char netns[64], ready[16];
    unsigned count = record_extra(g->order->service);
    char self[32] = "";

    /* The number that the host's proc has for us, not that of our pid namespace. */
    ssize_t size = readlink("/proc/self", self, sizeof(self) - 1);
    self[size > 0 ? size : 0] = 0;
    snprintf(ready, sizeof(ready), "%u", 3 + g->order->count);
    if (count > first + MAX_ARGUMENTS) {
        errno = E2BIG;
        give_up(g->socket, "cannot pass its arguments");
    }
    for (unsigned i = first; i < count; i++) {
        const char *word = record_text(g->order->service, i);
        if (strcmp(word, "{ready}") == 0)
            word = ready;
        else if (strcmp(word, "{netns}") == 0)
            word = netns;
        arguments[i - first] = (char *)(uintptr_t)word;
        arguments[i - first + 1] = NULL;
    }
    snprintf(netns, sizeof(netns), "/proc/%s/ns/net", self);
}

static void reset_signals(void)
{
    sigset_t none;

    for (int i = 1; i <= 64; i++)
        signal(i, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static uint64_t rights_of(const struct record *service)
{
    int64_t flags = record_int(service, 1);

    if (flags & SERVICE_RIGHTS)
        return RIGHTS;
    return flags & SERVICE_FILTERS ? CAP(NET_ADMIN) : 0;
}

static _Noreturn void become_service(const struct guarding *g, char **arguments, int go, int ready)
{
    static char path[] = "PATH=/usr/bin:/bin:/usr/sbin:/sbin";
    char *environment[] = {path, NULL};
    unsigned views = (unsigned)record_int(g->order->service, 3);
    char word;

    if (read(go, &word, 1) != 1)
        _exit(EXIT_OURS); /* the guard is gone */
    reset_signals();
    umask(077);
    if (confine_files(g->order->service, 4, views) < 0) {
        dprintf(2, "cannot confine it: %s", strerror(errno));
        _exit(EXIT_OURS);
    }
    if (place_descriptors(g->order, ready) < 0 || chdir("/") < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        keep_capabilities(rights_of(g->order->service)) < 0 || confine_calls() < 0) {
        dprintf(2, "cannot prepare it: %s", strerror(errno));
        _exit(EXIT_OURS);
    }
    execve(arguments[0], arguments, environment);
    dprintf(2, "%s: %s", arguments[0], strerror(errno));
    _exit(EXIT_NOT_FOUND);
}

/* --- the guard ------------------------------------------------------------------------------ */

/* Called by root, the ids of A are others than ours: a program that has no name there can do little, and makes
 * no files. An id that is not mapped reads as the overflow id, which a whole range maps as well. */
int take_ids(const struct plan *plan)
{
    const struct record *identity = plan_find(plan, KIND_IDENTITY), *map = NULL;
    int64_t own = (int64_t)geteuid();
    bool mapped = false;

    while (own != OVERFLOW_ID && (map = plan_next(plan, KIND_IDMAP, map)))
        mapped |= record_int(map, 0) == 0 && record_int(map, 1) <= own &&
                  own < record_int(map, 1) + record_int(map, 3);
    if (mapped || !identity)
        return 0;
    gid_t gid = (gid_t)record_int(identity, 1);
    uid_t uid = (uid_t)record_int(identity, 0);
    return setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0 ? -1 : 0;
}

static void start_program(struct guarding *g)
{
    int go[2], errors[2], said[2] = {-1, -1};
    char *arguments[MAX_ARGUMENTS + 1] = {NULL};
    unsigned first = 4 + (unsigned)record_int(g->order->service, 3);

    if (pipe2(go, O_CLOEXEC) < 0 || pipe2(errors, O_CLOEXEC | O_NONBLOCK) < 0)
        give_up(g->socket, "cannot make a pipe");
    if (record_int(g->order->service, 2) == READY_WRITES && pipe2(said, O_CLOEXEC) < 0)
        give_up(g->socket, "cannot make a pipe");
    fcntl(errors[1], F_SETFL, O_WRONLY);
    dup2(errors[1], 2);
    fill_arguments(g, first, arguments);
    if (!arguments[0])
        _exit(EXIT_OURS);
    g->program = fork();
    if (g->program == 0)
        become_service(g, arguments, go[0], said[1]);
    if (g->program < 0)
        give_up(g->socket, "cannot make a process");
    close(go[0]);
    close(errors[1]);
    if (said[1] >= 0)
        close(said[1]);
    dup2(0, 2);
    for (unsigned i = 0; i < g->order->count; i++)
        close(g->order->fds[i]);
    g->go = go[1];
    g->errors = errors[0];
    g->said = said[0];
    if (g->said >= 0)
        fcntl(g->said, F_SETFL, O_RDONLY | O_NONBLOCK);
}

/* The network namespace that the service finds as the guard's own, by its /proc: whoever looks there must have no
 * fewer rights than it, and the guard needs none any more. It is found until the service is ready. */
static void hold_namespace(struct guarding *g)
{
    if (g->netns >= 0 && setns(g->netns, CLONE_NEWNET) < 0)
        give_up(g->socket, "cannot enter the network namespace");
    close_fd(&g->netns);
    if (keep_capabilities(0) < 0 || prctl(PR_SET_DUMPABLE, 1) < 0)
        give_up(g->socket, "cannot give up capabilities");
    if (write(g->go, "g", 1) != 1)
        _exit(EXIT_OURS);
    close_fd(&g->go);
}

/* From now on the service may be taken over, and it is as much in A as we are: nothing of ours, as the files that
 * we see, is to be looked into any more. */
static void tell_ready(struct guarding *g)
{
    if (!g->ready && prctl(PR_SET_DUMPABLE, 0) < 0)
        _exit(EXIT_OURS);
    if (!g->ready)
        say(g->socket, MSG_SERVICE_READY, 0, NULL);
    g->ready = true;
}

static void read_errors(struct guarding *g)
{
    char part[MAX_TAIL];
    ssize_t size;

    while ((size = read(g->errors, part, sizeof(part))) > 0) {
        size_t keep = MAX_TAIL - (size_t)size;
        if (g->tail.size > keep) {
            memmove(g->tail.text, g->tail.text + g->tail.size - keep, keep);
            g->tail.size = keep;
        }
        memcpy(g->tail.text + g->tail.size, part, (size_t)size);
        g->tail.size += (size_t)size;
    }
    if (size == 0)
        close_fd(&g->errors);
}

/* Its first byte says that it is ready; whole lines behind that are passed on. */
static void read_said(struct guarding *g)
{
    char part[1024];
    ssize_t size;

    while ((size = read(g->said, part, sizeof(part))) > 0) {
        ssize_t from = g->ready ? 0 : 1;
        tell_ready(g);
        for (ssize_t i = from; i < size; i++) {
            if (part[i] == '\n' && g->length > 0) {
                g->line[g->length] = 0;
                say(g->socket, MSG_SERVICE_SAID, 0, g->line);
                g->length = 0;
            } else if (part[i] != '\n' && part[i] != 0 && g->length < MAX_LINE - 1) {
                g->line[g->length++] = part[i];
            }
        }
    }
    if (size == 0)
        close_fd(&g->said);
}

static _Noreturn void end(struct guarding *g)
{
    if (g->errors >= 0)
        read_errors(g);
    while (g->tail.size > 0 && g->tail.text[g->tail.size - 1] == '\n')
        g->tail.size--;
    g->tail.text[g->tail.size] = 0;
    say(g->socket, MSG_SERVICE_ENDED, g->status, g->tail.text);
    _exit(0);
}

/* As PID 1 we are the parent of whatever goes on in the background. */
static void reap(struct guarding *g)
{
    struct signalfd_siginfo ignored;
    int status;
    pid_t pid;

    while (read(g->children, &ignored, sizeof(ignored)) > 0)
        ;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid != g->program && !g->forked)
            continue;
        g->status = status;
        g->forked |= pid == g->program && status == 0 && record_int(g->order->service, 2) == READY_FORKS;
        if (pid == g->program && !g->forked)
            end(g);
    }
    if (pid < 0 && errno == ECHILD)
        end(g);
    if (g->forked)
        tell_ready(g);
}

/* Nobody there: the supervisor is gone, or has no more use for us. */
static void obey(const struct guarding *g)
{
    char buffer[MESSAGE_MAX];
    const struct message *message = (const struct message *)(const void *)buffer;
    int fds[MESSAGE_FDS];

    if (message_receive(g->socket, buffer, fds) <= 0 || message->type != MSG_ASK)
        _exit(0);
    if (g->ready)
        kill(g->program, SIGUSR1);
}

static _Noreturn void watch(struct guarding *g)
{
    struct pollfd polls[4] = {{.fd = g->socket, .events = POLLIN}, {.fd = g->children, .events = POLLIN}};

    for (;;) {
        polls[2] = (struct pollfd){.fd = g->errors, .events = POLLIN};
        polls[3] = (struct pollfd){.fd = g->said, .events = POLLIN};
        if (poll(polls, 4, -1) < 0 && errno != EINTR)
            _exit(EXIT_OURS);
        if (polls[0].revents)
            obey(g);
        if (polls[2].revents)
            read_errors(g);
        if (polls[3].revents)
            read_said(g);
        if (polls[1].revents)
            reap(g);
    }
}

static _Noreturn void guard_main(const struct guard_order *order, int socket)
{
    struct guarding g = {.order = order, .socket = socket, .netns = order->netns, .said = -1, .errors = -1};
    int null = open("/dev/null", O_RDWR), kept[2 + 16] = {socket, order->netns};
    sigset_t children;

    setsid(); /* what is typed at a terminal is not for it */
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    sigprocmask(SIG_SETMASK, &children, NULL);
    for (unsigned i = 0; i < order->count; i++)
        kept[2 + i] = order->fds[i];
    for (int i = 0; i < 3; i++)
        dup2(null, i);
    if (null < 0 || close_all_but(kept, 2 + order->count) < 0)
        give_up(socket, "cannot arrange descriptors");
    g.children = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
    if (g.children < 0 || take_ids(order->plan) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        give_up(socket, "cannot take its ids"); /* which takes away what we are told the supervisor's death by */
    start_program(&g);
    hold_namespace(&g);
    if (record_int(order->service, 2) == READY_AT_ONCE)
        tell_ready(&g);
    watch(&g);
}

/* Into A, where a pid namespace can be made, whose first process is a child of the supervisor's. */
static _Noreturn void enter(const struct guard_order *order, int socket, int pids)
{
    struct k_clone_args args = {.flags = K_CLONE_NEWPID | K_CLONE_PARENT};

    if (setns(order->userns, CLONE_NEWUSER) < 0)
        give_up(socket, "cannot enter the user namespace");
    pid_t pid = sys_clone3(&args);
    if (pid == 0)
        guard_main(order, socket);
    if (pid < 0)
        give_up(socket, "cannot make a pid namespace");
    _exit(write(pids, &pid, sizeof(pid)) == sizeof(pid) ? 0 : EXIT_OURS);
}

/* --- in the supervisor ---------------------------------------------------------------------- */

/* Without a pid, what it said tells why. */
static int read_pid(int pids, int socket, struct guard *guard, const struct record *service, struct failure *failure)
{
    static char buffer[MESSAGE_MAX];
    const struct message *message = (const struct message *)(const void *)buffer;
    int fds[MESSAGE_FDS];

    if (read(pids, &guard->pid, sizeof(guard->pid)) == sizeof(guard->pid))
        return 0;
    guard->pid = -1;
    if (message_receive(socket, buffer, fds) <= 0 || message->type != MSG_FAILED || !message->size)
        return fail(failure, ECHILD, service, "cannot %s: its guard ended", record_description(service));
    return fail(failure, (int)message->a, service, "cannot %s: %s", record_description(service),
                buffer + sizeof(*message));
}

static int start_guard(const struct guard_order *order, int pair[2], int pids[2], struct guard *guard,
                       struct failure *failure)
{
    const struct record *service = order->service;
    pid_t pid = fork();

    if (pid == 0) {
        close(pair[0]);
        close(pids[0]);
        enter(order, pair[1], pids[1]);
    }
    int error = errno;
    close_fd(&pair[1]);
    close_fd(&pids[1]);
    if (pid < 0)
        return fail(failure, error, service, "cannot %s: %s", record_description(service), strerror(error));
    int result = read_pid(pids[0], pair[0], guard, service, failure);
    child_wait(pid);
    return result;
}

int guard_start(const struct guard_order *order, struct guard *guard, struct failure *failure)
{
    int pair[2] = {-1, -1}, pids[2] = {-1, -1}, result = -1;

    *guard = (struct guard){.pid = -1, .socket = -1};
    if (order->count > 16)
        return fail(failure, E2BIG, order->service, "cannot %s: too many descriptors",
                    record_description(order->service));
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 || pipe2(pids, O_CLOEXEC) < 0)
        fail(failure, errno, order->service, "cannot %s: %s", record_description(order->service), strerror(errno));
    else
        result = start_guard(order, pair, pids, guard, failure);
    close_fd(&pids[0]);
    close_fd(&pids[1]);
    close_fd(&pair[1]);
    if (result == 0)
        guard->socket = pair[0];
    else
        close_fd(&pair[0]);
    return result;
}

void guard_ask(const struct guard *guard)
{
    say(guard->socket, MSG_ASK, 0, NULL);
}

void guard_end(struct guard *guard)
{
    close_fd(&guard->socket);
    child_end(&guard->pid);
}
