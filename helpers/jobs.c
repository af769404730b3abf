/* Jobs: what init says about commands, the limits that a clock or polling holds, and results. */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "report.h"
#include "supervisor.h"

/* How long init gets to kill a command before it is killed itself, with everything. */
#define PATIENCE_ALONE SECOND
#define PATIENCE_SHARED (10 * SECOND)
/* How long what a killed command had written may take to be read. */
#define PATIENCE_READER (2 * SECOND)

/* --- the table ------------------------------------------------------------------------------ */

struct job *job_find(const struct supervisor *s, int32_t id)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->jobs[i]->id == id)
            return s->jobs[i];
    return NULL;
}

struct job *job_new(struct supervisor *s, int32_t id)
{
    struct job *job = s->count < MAX_JOBS ? calloc(1, sizeof(*job)) : NULL;

    if (!job)
        return NULL;
    job->id = id;
    job->peak = -1;
    job->timeout = s->limits.value[LIMIT_TIMEOUT];
    outcome_clear(&job->outcome);
    job->outcome.disk_was_full = s->disk_full;
    s->jobs[s->count++] = job;
    polling_start(s, 0);
    return job;
}

void job_drop(struct supervisor *s, struct job *job)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->jobs[i] == job)
            s->jobs[i] = s->jobs[--s->count];
    streams_close(&job->streams);
    close_fd(&job->peak);
    free(job);
}

/* --- results -------------------------------------------------------------------------------- */

/* The commands of a sandbox that stays are the caller's to talk about; a single one is ours. */
static void conclude(struct supervisor *s, struct job *job, struct text *text)
{
    struct judgement judgement = judge(&s->limits, &job->outcome);
    int lost = streams_error(&job->streams);
    char line[1200];

    s->status = exit_status(&judgement, &job->outcome);
    terminal_restore(&s->terminal);
    if (report_write(s->report, text) < 0) {
        report_say(2, "cannot write the report: %s", strerror(errno));
        s->status = EXIT_OURS;
    }
    report_message(line, sizeof(line), &s->limits, &job->outcome);
    if (*line && s->verbosity >= 1)
        report_say(2, "%s", line);
    if (lost && s->verbosity >= 1)
        report_say(2, "cannot write the command's output: %s", strerror(lost));
    if (lost && s->status == 0)
        s->status = EXIT_OURS;
}

static void deliver(struct supervisor *s, struct job *job)
{
    struct text text cleanup_text = {0};

    if (job->streams.budget.limited)
        job->outcome.output = job->streams.budget.passed;
    report_result(&text, s->plan, job->id, &job->outcome, &s->limits);
    control_send(s, text.data, text.size, -1);
    if (s->one_shot)
        conclude(s, job, &text);
    job_drop(s, job);
}

void job_refuse(struct supervisor *s, int32_t id, const char *why)
{
    struct text text cleanup_text = {0};
    struct outcome outcome;

    outcome_clear(&outcome);
    outcome.exec_status = EXIT_OURS;
    outcome.status = EXIT_OURS << 8;
    snprintf(outcome.text, sizeof(outcome.text), "%.*s", (int)sizeof(outcome.text) - 1, why);
    report_result(&text, s->plan, id, &outcome, &s->limits);
    control_send(s, text.data, text.size, -1);
}

/* --- killing and signals -------------------------------------------------------------------- */

static uint64_t bit(int number)
{
    return (uint64_t)1 << number;
}

#define STOPS (bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU))

int init_send(struct supervisor *s, enum message_type type, int32_t id, int64_t value)
{
    struct message message = {.type = type, .id = id, .a = value};

    if (s->init_dead) {
        errno = EPIPE;
        return -1;
    }
    if (message_send(s->init.socket, &message, NULL, NULL, 0) == 0)
        return 0;
    s->init_full |= errno == EAGAIN;
    return -1;
}

static bool can_wait(int error)
{
    return error == EAGAIN || error == ENOBUFS || error == ENOMEM;
}

static bool must_wait(struct supervisor *s, enum message_type type, int32_t id, int64_t value)
{
    return init_send(s, type, id, value) < 0 && can_wait(errno);
}

/* Everything that a command's init is told goes out through here. */
static void send_owed(struct supervisor *s, struct job *job)
{
    struct owed *owed = &job->owed;

    owed->kill = owed->kill && must_wait(s, MSG_KILL, s->one_shot ? -1 : job->id, 0);
    owed->resume = owed->resume && must_wait(s, MSG_CONTINUE, job->id, 0);
    for (int number = 1; number < 64; number++)
        if ((owed->signals & bit(number)) && !must_wait(s, MSG_SIGNAL, job->id, number))
            owed->signals &= ~bit(number);
}

/* As in the kernel, what stops and what continues undo each other as long as neither has arrived. */
void job_pass_on(struct supervisor *s, struct job *job, int number)
{
    if (bit(number) & STOPS) {
        job->owed.signals &= ~bit(SIGCONT);
        job->owed.resume = false;
    } else if (number == SIGCONT) {
        job->owed.signals &= ~STOPS;
    }
    job->owed.signals |= bit(number);
    send_owed(s, job);
}

void job_resume(struct supervisor *s, struct job *job)
{
    job->stopped = false;
    job->owed.signals &= ~STOPS;
    job->owed.resume = true;
    send_owed(s, job);
}

static void send_kill(struct supervisor *s, struct job *job)
{
    job->owed = (struct owed){.kill = true};
    send_owed(s, job);
}

/* Init kills, so that it can still tell what was used: whoever dies with init is not accounted for. */
static void kill_job(struct supervisor *s, struct job *job)
{
    if (job->state == JOB_EXITED || job->kill_by)
        return;
    if (control_withdraw(s, job->id)) { /* init never heard of it */
        job->state = JOB_EXITED;
        job->outcome.status = SIGKILL;
        job->outcome.wall = now() - job->began;
        streams_close(&job->streams);
        return;
    }
    send_kill(s, job);
    job->kill_by = now() + (s->one_shot ? PATIENCE_ALONE : PATIENCE_SHARED);
}

void kill_init(struct supervisor *s)
{
    syscall(SYS_pidfd_send_signal, s->init.pidfd, SIGKILL, NULL, 0);
    box_kill(&s->box);
}

void supervisor_close(struct supervisor *s)
{
    s->closing = true;
    for (unsigned i = 0; i < s->count; i++)
        if (s->jobs[i]->state != JOB_EXITED && s->jobs[i]->outcome.fired < 0)
            s->jobs[i]->outcome.killed = true;
    if (!s->init_dead)
        kill_init(s);
}

void supervisor_give_up(struct supervisor *s, const char *why)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->jobs[i]->state != JOB_EXITED && !*s->jobs[i]->outcome.text)
            snprintf(s->jobs[i]->outcome.text, sizeof(s->jobs[i]->outcome.text), "%s", why);
    supervisor_close(s);
}

void job_fire(struct supervisor *s, struct job *job, enum limit_kind kind)
{
    if (job->outcome.fired < 0)
        job->outcome.fired = (int)kind;
    kill_job(s, job);
}

void job_signal(struct supervisor *s, struct job *job, int number)
{
    if (number <= 0 || number >= 64 || job->state == JOB_EXITED)
        return;
    job->outcome.sent |= bit(number);
    if (number == SIGKILL) {
        kill_job(s, job);
    } else if (number == SIGCONT && job->stopped) {
        job_resume(s, job);
    } else if (job->state == JOB_WAITING) {
        job->early |= bit(number);
    } else {
        job_pass_on(s, job, number);
    }
}

static void deliver_early(struct supervisor *s, struct job *job)
{
    for (int number = 1; number < 64; number++)
        if (job->early & bit(number))
            job_pass_on(s, job, number);
    job->early = 0;
}

/* --- what init says ------------------------------------------------------------------------- */

static void tell(struct supervisor *s, const char *event, const char *name, int64_t value)
{
    char json[96];
    int size = snprintf(json, sizeof(json), "{\"event\":\"%s\",\"%s\":%lld}", event, name, (long long)value);

    control_send(s, json, (size_t)size, -1);
}

static const struct record *record_of(const struct supervisor *s, int64_t index)
{
    return index >= 0 && index < (int64_t)s->plan->count ? &s->plan->records[index] : NULL;
}

static void begin(struct job *job)
{
    job->began = now();
    job->deadline = job->timeout >= 0 ? later(job->began, job->timeout) : 0;
}

/* The set-up is over: its time is nobody's limit. What the command was given is its alone now. */
static void on_ready(struct supervisor *s)
{
    s->ready = true;
    if (s->one_shot && s->count) {
        begin(s->jobs[0]);
        account_begin(s, s->jobs[0]);
    }
    if (!s->one_shot)
        supervisor_let_go(s);
    tell(s, "ready", "init_pid", s->init.pid);
}

static void on_started(struct supervisor *s, struct job *job)
{
    if (s->one_shot)
        supervisor_let_go(s);
    else
        begin(job);
    job->state = JOB_STARTED;
    polling_start(s, now());
    deliver_early(s, job);
    if (job->kill_by) /* before its exec it may not be seen by who looks for what to kill */
        send_kill(s, job);
    tell(s, "started", "id", job->id);
}

static void on_exec_failed(struct supervisor *s, struct job *job, const struct message *message, const char *text)
{
    struct text line cleanup_text = {0};
    struct failure failure = {.error = (int)message->a, .record = record_of(s, message->c)};

    if (job->kill_by && message->b == EXIT_OURS)
        return; /* we were quicker than its exec: it was killed, and did not fail */
    job->outcome.exec_status = (int)message->b;
    text_add_visible(&line, text); /* the payload's argv[0] is in it */
    if (message->b == EXIT_OURS && *report_mend(&failure))
        text_add(&line, "; %s", report_mend(&failure));
    snprintf(job->outcome.text, sizeof(job->outcome.text), "%s", line.data ? line.data : "");
}

static void take_usage(struct outcome *outcome, const struct message *message)
{
    outcome->status = (int)message->a;
    outcome->user = message->b;
    outcome->system = message->c;
    outcome->max_rss = message->d;
}

/* A single command's output may still be in the pty's buffers until init has closed its side. */
static void on_exited(struct supervisor *s, struct job *job, const struct message *message)
{
    take_usage(&job->outcome, message);
    job->outcome.wall = job->began ? now() - job->began : 0;
    job->state = JOB_EXITED;
    s->cpu_finished += message->b + message->c;
    if (!s->one_shot) {
        account_end(s, job);
        streams_finish(&job->streams);
    }
}

static void on_stopped(struct supervisor *s, struct job *job)
{
    job->stopped = true;
    tell(s, "stopped", "id", job->id);
    if (s->control < 0)
        supervisor_suspend(s, job, true);
}

static void on_tty(struct supervisor *s, struct job *job, int *master)
{
    if (*master < 0 || s->pty_out < 0 ||
        streams_attach(&job->streams, *master, &s->pty_in, &s->pty_out) < 0) {
        int error = *master == FDS_LOST ? EMFILE : errno;
        fail(&s->failure, error, NULL, "cannot take over the terminal: %s", strerror(error));
        s->failed = true;
        kill_init(s);
        return;
    }
    s->terminal.master = *master;
    *master = -1;
    supervisor_resume(s); /* raw mode, if we are in the foreground */
}

static void on_file(struct supervisor *s, const struct message *message, const char *why, int *file)
{
    struct text text cleanup_text = {0};

    bool lost = *file == FDS_LOST;

    text_add(&text, "{\"event\":\"file\",\"id\":%d,\"errno\":%lld,\"message\":", message->id,
             lost ? EMFILE : (long long)message->a);
    text_add_string(&text, lost ? strerror(EMFILE) : why);
    text_add(&text, "}");
    control_send(s, text.data, text.size, *file);
    *file = -1;
}

static void on_failed(struct supervisor *s, const struct message *message, const char *text)
{
    fail(&s->failure, (int)message->a, record_of(s, message->b), "%s", text);
    s->failed = true;
}

/* --- messages ------------------------------------------------------------------------------- */

static void dispatch_job(struct supervisor *s, const struct message *message, const char *text, int *fds)
{
    struct job *job = job_find(s, message->id);

    if (!job)
        return;
    switch (message->type) {
    case MSG_STARTED:
        on_started(s, job);
        break;
    case MSG_EXEC_FAILED:
        on_exec_failed(s, job, message, text);
        break;
    case MSG_EXITED:
        on_exited(s, job, message);
        break;
    case MSG_STOPPED:
        on_stopped(s, job);
        break;
    case MSG_TTY:
        on_tty(s, job, &fds[0]);
        break;
    default:
        break;
    }
}

static void dispatch(struct supervisor *s, const struct message *message, const char *text, int *fds)
{
    switch (message->type) {
    case MSG_READY:
        on_ready(s);
        break;
    case MSG_FAILED:
        on_failed(s, message, text);
        break;
    case MSG_USAGE:
        if (message->id < 0)
            polling_usage(s, message);
        else
            account_answer(s, message);
        break;
    case MSG_FILE:
        on_file(s, message, text, &fds[0]);
        break;
    default:
        dispatch_job(s, message, text, fds);
    }
}

int jobs_message(struct supervisor *s)
{
    static char buffer[MESSAGE_MAX];
    struct message message;
    int fds[MESSAGE_FDS];

    int result = message_receive(s->init.socket, buffer, fds);
    if (result <= 0)
        return result < 0 && errno == EAGAIN ? 0 : -1;
    memcpy(&message, buffer, sizeof(message));
    if (message.size)
        buffer[sizeof(message) + message.size - 1] = 0;
    dispatch(s, &message, message.size ? buffer + sizeof(message) : "", fds);
    for (int i = 0; i < MESSAGE_FDS; i++)
        close_fd(&fds[i]);
    return 1;
}

/* --- time ----------------------------------------------------------------------------------- */

static void check_limits(struct supervisor *s, struct job *job, int64_t time)
{
    if (job->streams.budget.exceeded) {
        job->streams.budget.exceeded = false;
        job_fire(s, job, LIMIT_OUTPUT);
    }
    if (job->state == JOB_EXITED)
        return;
    if (s->frozen_at)
        return; /* its clock stands still, and init could not kill */
    if (job->deadline && time >= job->deadline && job->outcome.fired < 0 && !job->outcome.killed)
        job_fire(s, job, LIMIT_TIMEOUT);
    if (job->kill_by && time >= job->kill_by && !s->init_dead)
        kill_init(s);
}

static bool is_over(const struct supervisor *s, struct job *job, int64_t time)
{
    if (job->state != JOB_EXITED || (s->one_shot && !s->init_dead))
        return false;
    if (job->outcome.fired >= 0 && !job->drain_by)
        job->drain_by = time + PATIENCE_READER;
    if (s->closing || (job->drain_by && time >= job->drain_by))
        streams_close(&job->streams);
    return !streams_busy(&job->streams);
}

/* The pty's input has ended: a terminal that went away hangs up, a file that was read ends the input. */
static void check_pty(struct supervisor *s)
{
    struct termios termios;

    if (s->terminal.master < 0 || s->hung_up || !s->count || s->jobs[0]->streams.relay[0].state != RELAY_OFF)
        return;
    s->hung_up = true;
    if (s->terminal.fd >= 0) {
        job_signal(s, s->jobs[0], SIGHUP);
        job_pass_on(s, s->jobs[0], SIGCONT);
    } else if (tcgetattr(s->terminal.master, &termios) == 0) {
        /* the first completes a line without its newline, or ends the input; the second ends it then */
        char end[2] = {(char)termios.c_cc[VEOF], (char)termios.c_cc[VEOF]};
        if (write(s->terminal.master, end, sizeof(end)) < 0)
            return;
    }
}

void jobs_check(struct supervisor *s, int64_t time)
{
    check_pty(s);
    for (unsigned i = s->count; i-- > 0;) {
        struct job *job = s->jobs[i];
        if (!s->init_full)
            send_owed(s, job);
        check_limits(s, job, time);
        if (is_over(s, job, time))
            deliver(s, job); /* what takes its place in the table was looked at already */
    }
    polling_check(s, time);
}

int64_t jobs_next(const struct supervisor *s)
{
    int64_t next = polling_next(s);

    for (unsigned i = 0; i < s->count; i++) {
        const struct job *job = s->jobs[i];
        int64_t wanted[] = {job->drain_by, 0, 0};
        if (job->state != JOB_EXITED && !s->frozen_at) {
            wanted[1] = job->outcome.fired < 0 && !job->outcome.killed ? job->deadline : 0;
            wanted[2] = s->init_dead ? 0 : job->kill_by;
        }
        for (int k = 0; k < 3; k++)
            if (wanted[k] && wanted[k] < next)
                next = wanted[k];
    }
    return next;
}

void jobs_end(struct supervisor *s, int64_t user, int64_t system)
{
    for (unsigned i = 0; i < s->count; i++) {
        struct job *job = s->jobs[i];
        if (job->state != JOB_EXITED) {
            /* it was killed together with init, which could say nothing any more: by the kernel, when
             * all of it is one command that took more memory than its limit */
            job->state = JOB_EXITED;
            job->outcome.status = s->ended_by ? s->ended_by : SIGKILL;
            job->outcome.killed = job->outcome.fired < 0;
            job->outcome.wall = job->began ? (s->frozen_at ? s->frozen_at : now()) - job->began : 0;
            job->outcome.user = s->one_shot ? user : 0;
            job->outcome.system = s->one_shot ? system : 0;
            account_end(s, job);
            if (job->outcome.oom && job->outcome.fired < 0)
                job->outcome.fired = LIMIT_MEMORY;
            else if (!s->closing && job->outcome.fired < 0 && !job->kill_by)
                strcpy(job->outcome.text, "killed: the sandbox was killed from outside");
        }
        account_end(s, job);
        streams_finish(&job->streams);
    }
}
