/* The supervisor: the one process outside, from the plan to the exit status. It starts init (begin.c), holds
 * the clock, the pipes and the terminal in the loop that is here, and says how it ended (jobs.c, finish.c).
 * Nothing of the payload is trusted: what arrives from inside are init's messages, and bytes to be passed on.
 */

#include "supervisor.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "report.h"

#define BACKGROUND_NS (200 * (int64_t)1000000) /* how often to look whether we are in the foreground again */

/* --- the loop ------------------------------------------------------------------------------- */

enum { POLL_INIT, POLL_END, POLL_SIGNALS, POLL_CONTROL, POLL_LIFELINE, POLL_EVENTS, POLL_DOOR,
       POLL_NETWORK = POLL_DOOR + DOOR_POLLS };

/* Descriptors to poll, and whose relay each is from the first relay's on. */
struct polled {
    struct pollfd *fds;
    struct relay **relays;
    unsigned count, room, first;
};

static int make_room(struct polled *polled, unsigned room)
{
    if (polled->fds && polled->relays && room <= polled->room)
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
    if (make_room(polled, POLL_NETWORK + NETWORK_POLLS + s->count * RELAYS) < 0)
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
    door_poll(&s->door, polled->fds + POLL_DOOR);
    polled->first = polled->count = POLL_NETWORK + network_poll(s, polled->fds + POLL_NETWORK);
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

/* 0, or -1: nothing can be waited for any more. poll(2) fails at once, again and again, where RLIMIT_NOFILE
 * is below the number of what is polled, open or not. */
static int wait_for_events(struct supervisor *s, struct polled *polled)
{
    int64_t next = jobs_next(s), time = now();
    struct timespec wait = {0};

    if (control_next(s) < next)
        next = control_next(s);
    if (network_next(s) < next)
        next = network_next(s);
    if (in_background(s) && next > time + BACKGROUND_NS)
        next = time + BACKGROUND_NS;
    if (next > time) {
        wait.tv_sec = (next - time) / SECOND;
        wait.tv_nsec = (next - time) % SECOND;
    }
    int ready = ppoll(polled->fds, polled->count, next == INT64_MAX ? NULL : &wait, NULL);
    if (ready <= 0)
        for (unsigned i = 0; i < polled->count; i++)
            polled->fds[i].revents = 0;
    return ready < 0 && errno != EINTR ? -1 : 0;
}

/* Bytes typed for somebody else while we are in the background are not ours to read (it would be EIO). */
static void step(struct supervisor *s, struct relay *relay, short revents)
{
    if (revents && relay == pty_input(s) && s->terminal.fd >= 0 && !terminal_foreground(&s->terminal))
        relay->paused = true;
    else
        relay_step(relay, revents);
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
    for (unsigned i = polled->first; i < polled->count; i++)
        step(s, polled->relays[i], fds[i].revents);
    if (fds[POLL_INIT].revents & POLLOUT)
        s->init_full = false;
    if (fds[POLL_EVENTS].revents)
        account_events(s);
    network_serve(s, fds + POLL_NETWORK);
    door_serve(s, fds + POLL_DOOR);
    if (fds[POLL_INIT].revents & (POLLIN | POLLHUP | POLLERR))
        read_init(s);
    if (fds[POLL_LIFELINE].revents)
        supervisor_close(s);
    if (fds[POLL_SIGNALS].revents) {
        read_init(s); /* first what came before them: whoever saw the command run may expect that we know */
        signals_read(s);
    }
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
        if (collect(s, &polled) < 0 || wait_for_events(s, &polled) < 0) {
            int error = errno == EINVAL ? EMFILE : errno;
            if (!s->failed) /* what failed before tells more */
                fail(&s->failure, error, NULL, "cannot wait for events: %s", strerror(error));
            s->failed = true;
            supervisor_close(s);
            break;
        }
        serve(s, &polled);
        control_retry(s, now());
        jobs_check(s, now());
        network_check_time(s, now());
    }
    free(polled.fds);
    free(polled.relays);
}

/* --- its life ------------------------------------------------------------------------------- */

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
        .log = -1,
        .leases = {-1, -1, -1, -1, -1, -1},
        .verbosity = verbosity ? (int)record_int(verbosity, 0) : 1,
        .scope = {.base = -1},
        .box = {.base = -1, .dir = -1, .run = -1},
        .memory_events = -1,
        .door = {-1, -1},
        .one_shot = plan_find(plan, KIND_ARGV) != NULL,
        .ahead = ahead,
        .last_event = &s.events,
        .terminal = {.fd = -1, .master = -1},
        .pty_in = -1,
        .pty_out = -1,
        .signals = -1,
    };
    init_clear(&s.init);
    network_clear(&s.network);
    limits_read(&s.limits, plan);
    if (s.verbosity >= 2)
        list_operations(plan);
    if (supervisor_begin(&s) < 0)
        s.failed = true;
    else
        loop(&s);
    return supervisor_finish(&s);
}
