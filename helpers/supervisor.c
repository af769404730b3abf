/* The supervisor: the one process outside, from the plan to the exit status. It starts init, holds
 * the clock, the pipes and the terminal, and says how it ended. Nothing of the payload is trusted
 * here: what arrives from inside are init's messages, and bytes to be passed on.
 */

#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "report.h"
#include "scratch.h"
#include "sys.h"

#define BACKGROUND_NS (200 * (int64_t)1000000) /* how often to look whether we are in the foreground again */

static sigset_t callers_mask;

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

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* What the caller had open besides is none of our business, and must not get any further. */
static int close_others(struct supervisor *s)
{
    const struct made_ahead *ahead = s->ahead;
    int kept[] = {2, s->stdio[0], s->stdio[1], s->stdio[2], s->control, s->lifeline, s->report,
                  ahead->plan_fd, ahead->init.socket, ahead->init.pidfd, ahead->init.userns,
                  ahead->scope.base, ahead->box.dir, ahead->box.run};
    const unsigned count = sizeof(kept) / sizeof(kept[0]);

    qsort(kept, count, sizeof(kept[0]), by_number);
    for (unsigned i = 0; i < count; i++) {
        unsigned first = kept[i] < 2 ? 3 : (unsigned)kept[i] + 1;
        unsigned last = i + 1 < count ? (unsigned)kept[i + 1] - 1 : ~0u;
        if ((i + 1 < count && kept[i + 1] <= 2) || first > last)
            continue;
        if (sys_close_range(first, last) < 0)
            return -1;
    }
    return 0;
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
    int *slots[] = {&s->control, &s->lifeline, &s->report, &s->stdio[0], &s->stdio[1], &s->stdio[2]};

    for (int i = 0; i < 3; i++) {
        s->stdio[i] = !s->one_shot ? -1 : stdio ? (int)record_int(stdio, (unsigned)i) : i;
        /* closed standard descriptors: nothing else of ours may get their numbers */
        if (fcntl(i, F_GETFD) < 0 && open_null(i) < 0)
            return fail(failure, errno, NULL, "cannot open /dev/null: %s", strerror(errno));
    }
    s->control = slot_fd(s->plan, KIND_CONTROL);
    s->lifeline = slot_fd(s->plan, KIND_LIFELINE);
    s->report = slot_fd(s->plan, KIND_REPORT);
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

/* --- signals -------------------------------------------------------------------------------- */

/* What the caller had us ignore (nohup; a shell's background jobs) stays ignored. */
static void add_unless_ignored(sigset_t *set, int number)
{
    struct sigaction action;

    if (sigaction(number, NULL, &action) == 0 && action.sa_handler != SIG_IGN)
        sigaddset(set, number);
}

static int watch_signals(struct supervisor *s, struct failure *failure)
{
    static const int watched[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
    sigset_t set, blocked;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* ignored, there would be nothing to wait for */
    relay_prepare();
    sigemptyset(&set);
    for (unsigned i = 0; i < sizeof(watched) / sizeof(watched[0]); i++)
        add_unless_ignored(&set, watched[i]);
    if (s->one_shot) {
        add_unless_ignored(&set, SIGTSTP);
        sigaddset(&set, SIGCONT);
        sigaddset(&set, SIGWINCH);
    }
    blocked = set;
    sigaddset(&blocked, SIGTTOU); /* writing and tcsetattr(3) from the background may be needed */
    sigaddset(&blocked, SIGTTIN);
    sigprocmask(SIG_BLOCK, &blocked, &callers_mask);
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return s->signals < 0 ? fail(failure, errno, NULL, "cannot watch signals: %s", strerror(errno)) : 0;
}

static struct relay *pty_input(struct supervisor *s)
{
    return s->terminal.master >= 0 && s->count ? &s->jobs[0]->streams.relay[0] : NULL;
}

void supervisor_resume(struct supervisor *s)
{
    struct relay *input = pty_input(s);

    if (s->terminal.fd >= 0 && input) {
        input->paused = !terminal_foreground(&s->terminal);
        terminal_raw(&s->terminal);
        terminal_resize(&s->terminal);
    }
    for (unsigned i = 0; i < s->count; i++) {
        if (s->jobs[i]->stopped)
            job_resume(s, s->jobs[i]);
    }
}

void supervisor_suspend(struct supervisor *s, struct job *job, bool group)
{
    terminal_restore(&s->terminal);
    terminal_suspend(group, job->outcome.fired < 0 ? job->deadline : job->kill_by, s->lifeline);
    supervisor_resume(s);
}

/* Without a pty of ours the caller's terminal stops us, not the command, whose session is another one.
 * It is stopped by SIGSTOP, since a group that nobody in its session could continue ignores SIGTSTP. */
static void stop_with_command(struct supervisor *s, struct job *job)
{
    if (job->state == JOB_STARTED) {
        job_pass_on(s, job, SIGSTOP);
        job->stopped = true;
    }
    supervisor_suspend(s, job, false);
}

/* A signal that asks for the end: the command's business while it runs, or is about to (it may run
 * already, with init not having said so); the second time it is ours. */
static void on_deadly(struct supervisor *s, int number)
{
    struct job *job = s->one_shot && s->count ? s->jobs[0] : NULL;
    bool about_to = job && job->state == JOB_WAITING && s->ready && !(job->early >> number & 1);

    if (about_to || (job && job->state == JOB_STARTED)) {
        job_signal(s, job, number);
    } else {
        s->ended_by = number;
        supervisor_close(s);
    }
}

static void on_signal(struct supervisor *s, int number)
{
    struct job *job = s->one_shot && s->count ? s->jobs[0] : NULL;

    switch (number) {
    case SIGWINCH:
        terminal_resize(&s->terminal);
        break;
    case SIGCONT:
        if (job && !job->stopped && job->state == JOB_STARTED)
            job_pass_on(s, job, SIGCONT);
        supervisor_resume(s);
        break;
    case SIGTSTP:
        if (job && s->terminal.master < 0)
            stop_with_command(s, job);
        else if (job)
            job_pass_on(s, job, SIGTSTP);
        break;
    case SIGUSR1:
    case SIGUSR2:
        if (job)
            job_signal(s, job, number);
        break;
    default:
        on_deadly(s, number);
    }
}

/* Take in what init has said so far. It closes its socket by dying only; one that says what can't be
 * understood is no init. */
static void read_init(struct supervisor *s)
{
    int result = 1;

    while (result > 0 && !s->init_mute)
        result = jobs_message(s);
    if (result >= 0)
        return;
    s->init_mute = true;
    kill_init(s);
}

/* First what came before them: whoever saw the command run may expect that we know. */
static void read_signals(struct supervisor *s)
{
    struct signalfd_siginfo info;

    read_init(s);
    while (read(s->signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
        on_signal(s, (int)info.ssi_signo);
}

/* --- the loop ------------------------------------------------------------------------------- */

enum { POLL_INIT, POLL_END, POLL_SIGNALS, POLL_CONTROL, POLL_LIFELINE, POLL_EVENTS, POLL_FIXED };

/* Descriptors to poll, and whose relay each is behind the fixed ones. */
struct polled {
    struct pollfd *fds;
    struct relay **relays;
    unsigned count, room;
};

static int make_room(struct polled *polled, unsigned room)
{
    if (room <= polled->room)
        return 0;
    struct pollfd *fds = realloc(polled->fds, room * sizeof(*fds));
    if (!fds)
        return -1;
    polled->fds = fds;
    struct relay **relays = realloc(polled->relays, room * sizeof(struct relay *));
    if (!relays)
        return -1;
    polled->relays = relays;
    polled->room = room;
    return 0;
}

static int collect(struct supervisor *s, struct polled *polled)
{
    if (make_room(polled, POLL_FIXED + s->count * RELAYS) < 0)
        return -1;
    short control = s->control >= 0 ? control_wanted(s) : 0;
    polled->fds[POLL_INIT] = (struct pollfd){.fd = s->init_mute ? -1 : s->init.socket, .events = POLLIN};
    if (s->init_full)
        polled->fds[POLL_INIT].events |= POLLOUT;
    polled->fds[POLL_END] = (struct pollfd){.fd = s->init_dead ? -1 : s->init.pidfd, .events = POLLIN};
    polled->fds[POLL_SIGNALS] = (struct pollfd){.fd = s->signals, .events = POLLIN};
    polled->fds[POLL_CONTROL] = (struct pollfd){.fd = s->control, .events = control};
    polled->fds[POLL_LIFELINE] = (struct pollfd){.fd = s->closing ? -1 : s->lifeline, .events = POLLIN};
    polled->fds[POLL_EVENTS] = (struct pollfd){.fd = s->memory_events, .events = POLLPRI};
    polled->count = POLL_FIXED;
    for (unsigned i = 0; i < s->count; i++)
        for (int k = 0; k < RELAYS; k++) {
            struct pollfd fd = relay_poll(&s->jobs[i]->streams.relay[k]);
            if (fd.fd < 0)
                continue;
            polled->relays[polled->count] = &s->jobs[i]->streams.relay[k];
            polled->fds[polled->count++] = fd;
        }
    return 0;
}

static bool in_background(struct supervisor *s)
{
    struct relay *input = pty_input(s);

    return input && input->paused && input->state != RELAY_OFF;
}

static void wait_for_events(struct supervisor *s, struct polled *polled)
{
    int64_t next = jobs_next(s), time = now();
    struct timespec wait = {0};

    if (control_next(s) < next)
        next = control_next(s);
    if (in_background(s) && next > time + BACKGROUND_NS)
        next = time + BACKGROUND_NS;
    if (next > time) {
        wait.tv_sec = (next - time) / SECOND;
        wait.tv_nsec = (next - time) % SECOND;
    }
    if (ppoll(polled->fds, polled->count, next == INT64_MAX ? NULL : &wait, NULL) <= 0)
        for (unsigned i = 0; i < polled->count; i++)
            polled->fds[i].revents = 0;
}

/* Bytes typed for somebody else while we are in the background are not ours to read (it would be EIO). */
static void step(struct supervisor *s, struct relay *relay, short revents)
{
    if (revents && relay == pty_input(s) && s->terminal.fd >= 0 && !terminal_foreground(&s->terminal))
        relay->paused = true;
    else
        relay_step(relay, revents);
}

/* Init itself did not fit. */
static void explain_end(struct supervisor *s, int status)
{
    struct counters counters = {0};
    const struct record *record = NULL;

    if (s->box.dir >= 0)
        box_events(&s->box, &counters);
    while (counters.oom > 0 && counters.oom_kill > 0 && (record = plan_next(s->plan, KIND_CGROUP_SET, record)))
        if (strcmp(record_text(record, 0), "memory.max") == 0) {
            fail(&s->failure, ENOMEM, record, "cannot set up the sandbox: it does not fit into its memory limit");
            return;
        }
    fail(&s->failure, 0, NULL, "cannot set up the sandbox: init ended, wait status %#x", (unsigned)status);
}

static void on_end(struct supervisor *s)
{
    struct rusage usage = {0};
    int status = 0;

    while (!s->init_mute && jobs_message(s) > 0)
        ;
    while (wait4(s->init.pid, &status, 0, &usage) < 0 && errno == EINTR)
        ;
    s->init_dead = s->init_mute = true;
    if (!s->ready && !s->failed && !s->closing) {
        explain_end(s, status);
        s->failed = true;
    }
    if (s->failed)
        while (s->count)
            job_drop(s, s->jobs[0]);
    jobs_end(s, microseconds(usage.ru_utime), microseconds(usage.ru_stime));
}

static void serve(struct supervisor *s, const struct polled *polled)
{
    const struct pollfd *fds = polled->fds;

    /* Relays first: what follows may free them. */
    for (unsigned i = POLL_FIXED; i < polled->count; i++)
        step(s, polled->relays[i], fds[i].revents);
    if (fds[POLL_INIT].revents & POLLOUT)
        s->init_full = false;
    if (fds[POLL_EVENTS].revents)
        account_events(s);
    if (fds[POLL_INIT].revents & (POLLIN | POLLHUP | POLLERR))
        read_init(s);
    if (fds[POLL_LIFELINE].revents)
        supervisor_close(s);
    if (fds[POLL_SIGNALS].revents)
        read_signals(s);
    if (fds[POLL_CONTROL].revents)
        control_ready(s, fds[POLL_CONTROL].revents);
    if (fds[POLL_END].revents)
        on_end(s);
    if (in_background(s) && terminal_foreground(&s->terminal))
        supervisor_resume(s);
}

static void loop(struct supervisor *s)
{
    struct polled polled = {0};

    while (!s->init_dead || s->count) {
        if (collect(s, &polled) < 0) {
            supervisor_close(s); /* out of memory: not even this works */
            break;
        }
        wait_for_events(s, &polled);
        serve(s, &polled);
        control_retry(s, now());
        jobs_check(s, now());
    }
    free(polled.fds);
    free(polled.relays);
}

/* --- beginning and end ---------------------------------------------------------------------- */

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

    if (have_init(s, io) < 0 ||
        init_begin(s->plan, s->ahead->plan_fd, io, &s->box, &s->init, &s->failure) < 0)
        return -1;
    close_fd(&s->ahead->plan_fd);
    account_watch(s);
    /* Each command has pipes here. Only now: init has the caller's limit to hand on. */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    setsockopt(s->init.socket, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
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

static int start(struct supervisor *s)
{
    struct command_stdio io = {.fd = {-1, -1, -1}};
    struct job *job;
    int result;

    if (take_descriptors(s, &s->failure) < 0)
        return -1;
    if (s->ahead->plan_fd >= 0 && introduce(s->control, "supervisor") < 0)
        return fail(&s->failure, errno, NULL, "cannot start: %s", strerror(errno));
    if (enter_scope(s) < 0 || watch_signals(s, &s->failure) < 0)
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

static void list_operations(const struct plan *plan)
{
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct record *record = &plan->records[i];
        if (!*record_description(record))
            continue;
        if (*record_origin(record))
            report_say(2, "%s (%s)", record_description(record), record_origin(record));
        else
            report_say(2, "%s", record_description(record));
    }
}

static void report_failure(struct supervisor *s)
{
    struct text text cleanup_text = {0};

    s->status = EXIT_OURS;
    report_error(&text, &s->failure);
    control_send(s, text.data, text.size, -1);
    if (report_write(s->report, &text) < 0)
        report_say(2, "cannot write the report: %s", strerror(errno));
    if (s->verbosity >= 1)
        report_say_failure(2, &s->failure);
}

static void clean_up(struct supervisor *s)
{
    const struct record *record = plan_find(s->plan, KIND_SCRATCH);

    box_remove(&s->box);
    scope_leave(&s->scope);
    if (record && scratch_remove(record_text(record, 0), s->init.userns) < 0 && s->verbosity >= 1)
        report_say(2, "cannot remove %s: %s", record_text(record, 0), strerror(errno));
}

/* The last event; a caller that reads gets all of them. */
static void say_goodbye(struct supervisor *s)
{
    static const char end[] = "{\"event\":\"end\"}";
    int64_t patience = now() + 10 * SECOND;

    control_send(s, end, sizeof(end) - 1, -1);
    while (s->events && s->control >= 0 && now() < patience) {
        struct pollfd polled[] = {{.fd = s->control, .events = POLLOUT},
                                  {.fd = s->lifeline, .events = POLLIN}};
        if (poll(polled, 2, 1000) > 0 && polled[1].revents)
            return;
        if (polled[0].revents)
            control_ready(s, polled[0].revents);
    }
}

/* Let the caller's own program say what is wrong with this machine. It exits as we would. */
static void diagnose(struct supervisor *s)
{
    const struct record *record = plan_find(s->plan, KIND_DIAGNOSE);
    unsigned count = record ? record_extra(record) : 0;
    static char path[] = "PATH=/usr/bin:/bin";
    char *environment[] = {path, NULL};
    char operation[sizeof(s->failure.text)];
    char **arguments = count ? calloc(count + 4u, sizeof(*arguments)) : NULL;

    if (!arguments)
        return;
    for (unsigned i = 0; i < count; i++)
        arguments[i] = (char *)(uintptr_t)record_text(record, i);
    arguments[count] = (char *)(uintptr_t)report_operation(&s->failure, operation, sizeof(operation));
    arguments[count + 1] = (char *)(uintptr_t)error_name(s->failure.error);
    arguments[count + 2] = s->failure.text;
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);
    sigprocmask(SIG_SETMASK, &callers_mask, NULL);
    execve(arguments[0], arguments, environment);
    free((void *)(uintptr_t)arguments);
}

static int finish(struct supervisor *s)
{
    terminal_restore(&s->terminal);
    if (s->failed)
        report_failure(s);
    else if (!s->one_shot && !s->closing)
        s->status = EXIT_OURS; /* init went away by itself */
    clean_up(s);
    say_goodbye(s);
    if (s->failed)
        diagnose(s);
    return s->status;
}

int supervisor_main(struct plan *plan, struct made_ahead *ahead)
{
    static struct supervisor s;
    const struct record *verbosity = plan_find(plan, KIND_VERBOSITY);

    clearenv();
    s = (struct supervisor){
        .plan = plan,
        .stdio = {-1, -1, -1},
        .control = -1,
        .lifeline = -1,
        .report = -1,
        .verbosity = verbosity ? (int)record_int(verbosity, 0) : 1,
        .scope = {.base = -1},
        .box = {.base = -1, .dir = -1, .run = -1},
        .memory_events = -1,
        .one_shot = plan_find(plan, KIND_ARGV) != NULL,
        .ahead = ahead,
        .last_event = &s.events,
        .terminal = {.fd = -1, .master = -1},
        .pty_in = -1,
        .pty_out = -1,
        .signals = -1,
    };
    init_clear(&s.init);
    limits_read(&s.limits, plan);
    if (s.verbosity >= 2)
        list_operations(plan);
    if (start(&s) < 0)
        s.failed = true;
    else
        loop(&s);
    return finish(&s);
}
