/* The supervisor's beginning: its descriptors, the cgroup it is in, the terminal and the pipes of a single
 * command, and init, which begins. How init itself is made is in start.c.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "supervisor.h"

/* --- descriptors ---------------------------------------------------------------------------- */

static int slot_fd(const struct plan *plan, enum kind kind)
{
    const struct record *record = plan_find(plan, kind);

    return record ? (int)record_int(record, 0) : -1;
}

/* A descriptor of our own for each slot: several may name the same one. */
static int own(int *fd, struct failure *failure)
{
    int given = *fd;

    if (given < 0)
        return 0;
    *fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
    return *fd < 0 ? fail(failure, errno, NULL, "cannot use descriptor %d: %s", given, strerror(errno)) : 0;
}

/* What the caller had open besides is none of our business, and must not get any further. */
static int close_others(struct supervisor *s)
{
    const struct made_ahead *ahead = s->ahead;
    int kept[] = {s->stdio[0], s->stdio[1], s->stdio[2], s->control, s->lifeline, s->report,
                  ahead->plan_fd, ahead->init.socket, ahead->init.pidfd, ahead->init.userns, ahead->init.netns,
                  ahead->scope.base, ahead->box.dir, ahead->box.run, s->leases[0], s->leases[1], s->leases[2],
                  s->leases[3], s->leases[4], s->leases[5], s->network.pcap, s->log, s->door.listening};

    return close_all_but(kept, sizeof(kept) / sizeof(kept[0]));
}

static int open_null(int number)
{
    int null = open("/dev/null", O_RDWR);

    if (null >= 0 && null != number) {
        dup2(null, number);
        close(null);
    }
    return null < 0 ? -1 : 0;
}

static int take_descriptors(struct supervisor *s, struct failure *failure)
{
    const struct record *stdio = plan_find(s->plan, KIND_STDIO);
    int *slots[9 + MAX_LEASES] = {&s->control, &s->lifeline, &s->report, &s->stdio[0], &s->stdio[1], &s->stdio[2],
                                  &s->network.pcap, &s->log, &s->door.listening};
    const struct record *lease = NULL;

    for (int i = 0; i < MAX_LEASES; i++) {
        lease = i == 0 || lease ? plan_next(s->plan, KIND_LEASE, lease) : NULL;
        s->leases[i] = lease ? (int)record_int(lease, 0) : -1;
        slots[9 + i] = &s->leases[i];
    }
    if (lease && plan_next(s->plan, KIND_LEASE, lease))
        return fail(failure, E2BIG, lease, "cannot keep more than %d leases", MAX_LEASES);

    for (int i = 0; i < 3; i++) {
        s->stdio[i] = !s->one_shot ? -1 : stdio ? (int)record_int(stdio, (unsigned)i) : i;
        /* closed standard descriptors: nothing else of ours may get their numbers */
        if (fcntl(i, F_GETFD) < 0 && open_null(i) < 0)
            return fail(failure, errno, NULL, "cannot open /dev/null: %s", strerror(errno));
    }
    s->control = slot_fd(s->plan, KIND_CONTROL);
    s->lifeline = slot_fd(s->plan, KIND_LIFELINE);
    s->report = slot_fd(s->plan, KIND_REPORT);
    s->network.pcap = slot_fd(s->plan, KIND_PCAP);
    s->log = slot_fd(s->plan, KIND_LOG);
    s->door.listening = slot_fd(s->plan, KIND_DOOR);
    int result = 0;
    for (unsigned i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
        if (result < 0)
            *slots[i] = -1;
        else if ((result = own(slots[i], failure)) < 0)
            *slots[i] = -1;
    }
    if (close_others(s) < 0)
        return fail(failure, errno, NULL, "cannot close descriptors: %s", strerror(errno));
    return result;
}

/* Once a command runs, its pipes are its own: their ends here would hide an end of file or a SIGPIPE
 * from whoever is at the other end. Our messages still need stderr. */
void supervisor_let_go(const struct supervisor *s)
{
    open_null(0);
    open_null(1);
    if (s->verbosity < 1)
        open_null(2);
}

/* --- the terminal --------------------------------------------------------------------------- */

static bool can_write(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY;
}

static int copy_or_null(int fd)
{
    return fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : open("/dev/null", O_RDWR | O_CLOEXEC);
}

/* Where the bytes of the pty go: the terminal that took its place, or stdout when there is none. */
static int pty_output(const struct supervisor *s)
{
    static const int order[] = {1, 2, 0};

    if (s->terminal.fd < 0)
        return s->stdio[1];
    for (int i = 0; i < 3; i++)
        if (isatty(s->stdio[order[i]]) && can_write(s->stdio[order[i]]))
            return s->stdio[order[i]];
    return -1;
}

/* The streams that a pty stands for, as bits. */
static unsigned prepare_pty(struct supervisor *s, struct command_stdio *io)
{
    const struct record *record = plan_find(s->plan, KIND_TTY);
    int64_t mode = record ? record_int(record, 0) : 1;
    bool terminal = isatty(s->stdio[0]);
    unsigned skip = 0;

    if (mode == 0 || (mode == 1 && !terminal))
        return 0;
    io->pty = true;
    if (terminal)
        s->terminal.fd = fcntl(s->stdio[0], F_DUPFD_CLOEXEC, 3);
    terminal_describe(&s->terminal, io);
    s->pty_in = copy_or_null(s->stdio[0]);
    s->pty_out = copy_or_null(pty_output(s));
    for (int i = 0; i < 3; i++)
        if (!terminal || isatty(s->stdio[i]))
            skip |= 1u << i;
    s->terminal.shared = skip != 7;
    return skip;
}

/* --- init ----------------------------------------------------------------------------------- */

/* The init that was made ahead, if its namespaces are those of the plan; else one that is made now. */
static int have_init(struct supervisor *s, const struct command_stdio *io)
{
    uint64_t namespaces = init_namespaces(s->plan);
    bool fits = s->ahead->init.pid > 0 && s->ahead->namespaces == namespaces &&
                (s->scope.base >= 0) == (s->box.dir >= 0);

    s->init = s->ahead->init;
    if (!fits) {
        init_abandon(&s->init);
        close_fd(&s->ahead->plan_fd);
    }
    if (s->box.dir < 0 && box_make(&s->scope, &s->box, &s->failure) < 0)
        return -1;
    if (box_limit(&s->box, s->plan, s->one_shot, &s->failure) < 0)
        return -1;
    return fits ? 0 : init_clone(namespaces, s->plan, io, s->box.run, &s->init, &s->failure);
}

static int start_init(struct supervisor *s, const struct command_stdio *io)
{
    const int size = 1 << 20; /* of which we get what net.core.wmem_max allows */
    struct rlimit files;

    if (have_init(s, io) < 0)
        return -1;
    if (network_check(s) < 0) {
        init_abandon(&s->init);
        return -1;
    }
    if (init_begin(s->plan, s->ahead->plan_fd, io, &s->box, &s->init, &s->failure) < 0)
        return -1;
    close_fd(&s->ahead->plan_fd);
    account_watch(s);
    /* Each command has pipes here. Only now: init has the caller's limit to hand on. */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    setsockopt(s->init.socket, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    if (network_start(s) < 0) {
        init_abandon(&s->init);
        return -1;
    }
    /* Our end alone: init must never make the clock wait. */
    return fcntl(s->init.socket, F_SETFL, O_RDWR | O_NONBLOCK);
}

/* The broker's, if it is where the plan wants to be, with the box that was made ahead; else one of our own. */
static int enter_scope(struct supervisor *s)
{
    struct made_ahead *ahead = s->ahead;

    s->box = ahead->box;
    s->scope = ahead->scope;
    if (ahead->scope.base >= 0 && scope_fits(&ahead->place, s->plan)) {
        s->scope.record = plan_find(s->plan, KIND_CGROUP);
        return scope_divide(&s->scope, s->plan, &s->failure);
    }
    if (s->box.dir >= 0)
        init_abandon(&ahead->init); /* it is in there */
    box_remove(&s->box);
    scope_leave(&s->scope);
    return scope_enter(s->plan, s->lifeline, &s->scope, &s->failure);
}

int supervisor_begin(struct supervisor *s)
{
    struct command_stdio io = {.fd = {-1, -1, -1}};
    struct job *job;
    int result;

    if (take_descriptors(s, &s->failure) < 0)
        return -1;
    if (enter_scope(s) < 0 || signals_watch(s, &s->failure) < 0)
        return -1;
    scope_sweep(&s->scope);
    if (s->one_shot) {
        job = job_new(s, 0);
        if (!job)
            return fail(&s->failure, ENOMEM, NULL, "cannot start: %s", strerror(ENOMEM));
        unsigned skip = prepare_pty(s, &io);
        int64_t limit = s->limits.value[LIMIT_OUTPUT];
        if (streams_prepare(&job->streams, s->stdio, skip, limit, io.fd, &s->failure) < 0)
            return -1;
    }
    result = start_init(s, &io);
    for (int i = 0; i < 3; i++)
        close_fd(&io.fd[i]);
    return result;
}
