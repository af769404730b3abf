/* What init says of commands and of itself, and what becomes of it in the table of jobs. What it is told is in
 * orders.c; the form of messages in helper.h.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "report.h"
#include "supervisor.h"

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
    struct text text cleanup_text = {0};

    s->ready = true;
    if (s->one_shot && s->count) {
        begin(s->jobs[0]);
        account_begin(s, s->jobs[0]);
    }
    if (!s->one_shot)
        supervisor_let_go(s);
    text_add(&text, "{\"event\":\"ready\",\"init_pid\":%d,\"ports\":", s->init.pid);
    network_ports(&s->network, &text);
    text_add(&text, "}");
    supervisor_log(s, &text);
    control_send(s, text.data, text.size, -1);
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

/* It is killed with all the rest, too. */
static void on_lost(struct supervisor *s)
{
    bool meant = s->closing || (s->one_shot && s->count && s->jobs[0]->kill_by);

    if (!meant)
        supervisor_give_up(s, "fuse-overlayfs, which makes its overlays, ended");
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
    case MSG_LOST:
        on_lost(s);
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
