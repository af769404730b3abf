/* Jobs: the table of commands, the limits that a clock or polling holds, and results. Not the talk with init:
 * messages.c, orders.c.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "report.h"
#include "supervisor.h"

/* How long what a killed command had written may take to be read. */
#define PATIENCE_READER (2 * SECOND)
/* How long a service may take that is to say what it has denied. */
#define PATIENCE_SERVICE (SECOND / 4)

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
    supervisor_log(s, text);
    if (report_write(s->report, text) < 0) {
        report_say(2, "cannot write the report: %s", strerror(errno));
        s->status = EXIT_OURS;
    }
    report_message(line, sizeof(line), &s->limits, &job->outcome);
    if (*line && s->verbosity >= 1)
        report_say(2, "%s", line);
    if (s->report < 0 && s->verbosity >= 1)
        denials_say(&s->network.denials);
    if (lost && s->verbosity >= 1)
        report_say(2, "cannot write the command's output: %s", strerror(lost));
    if (lost && s->status == 0)
        s->status = EXIT_OURS;
}

static void deliver(struct supervisor *s, struct job *job)
{
    struct text text cleanup_text = {0}, network cleanup_text = {0};

    network_report(s, &network);
    if (job->streams.budget.limited)
        job->outcome.output = job->streams.budget.passed;
    report_result(&text, s->plan, job->id, &job->outcome, &s->limits, network.data);
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
    report_result(&text, s->plan, id, &outcome, &s->limits, NULL);
    control_send(s, text.data, text.size, -1);
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

/* What was denied belongs into the result. Services are asked once nothing of the command can try any more; one that
 * does not answer is not waited for long, and nothing else waits meanwhile. */
static bool is_told(struct supervisor *s, struct job *job, int64_t time)
{
    if (!job->round) {
        job->round = network_ask(s);
        job->told_by = time + PATIENCE_SERVICE;
    }
    return time >= job->told_by || network_has_told(s, job->round);
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
        if (is_over(s, job, time) && is_told(s, job, time))
            deliver(s, job); /* what takes its place in the table was looked at already */
    }
    polling_check(s, time);
}

int64_t jobs_next(const struct supervisor *s)
{
    int64_t next = polling_next(s);

    for (unsigned i = 0; i < s->count; i++) {
        const struct job *job = s->jobs[i];
        int64_t wanted[] = {job->round ? job->told_by : job->drain_by, 0, 0};
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
