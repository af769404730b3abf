/* The supervisor's end, when nothing of the sandbox is alive any more: a failed set-up is reported and
 * diagnosed, what was made is removed, and the caller told that this was all. A command's own result is in jobs.c.
 */

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "report.h"
#include "scratch.h"
#include "supervisor.h"

void supervisor_log(const struct supervisor *s, const struct text *text)
{
    if (s->log >= 0 && text->data && write_all(s->log, text->data, text->size) == 0)
        write_all(s->log, "\n", 1);
}

static void report_failure(struct supervisor *s)
{
    struct text text cleanup_text = {0};

    s->status = EXIT_OURS;
    report_error(&text, &s->failure);
    control_send(s, text.data, text.size, -1);
    supervisor_log(s, &text);
    if (report_write(s->report, &text) < 0)
        report_say(2, "cannot write the report: %s", strerror(errno));
    if (s->verbosity >= 1)
        report_say_failure(2, &s->failure);
}

static void clean_up(struct supervisor *s)
{
    const struct record *record = plan_find(s->plan, KIND_SCRATCH);

    door_end(&s->door);
    network_end(s);
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
        struct pollfd polled[] = {{.fd = s->control, .events = control_wanted(s)},
                                  {.fd = s->lifeline, .events = POLLIN}};
        int ready = poll(polled, 2, s->events_next ? 1 : 1000);
        if ((ready < 0 && errno != EINTR) || polled[1].revents)
            return;
        if (polled[0].revents)
            control_ready(s, polled[0].revents);
        control_retry(s, now());
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
    signals_give_back();
    execve(arguments[0], arguments, environment);
    free((void *)(uintptr_t)arguments);
}

int supervisor_finish(struct supervisor *s)
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
