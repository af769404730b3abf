/* Limits that nobody but us holds: what the sandbox uses is asked for again and again, of init, and what is
 * too much ends it. The whole sandbox is measured, and every command in it has the same verdict.
 */

#include "supervisor.h"

#define MILLISECOND ((int64_t)1000000)
#define POLL_FIRST (5 * MILLISECOND)
#define POLL_LAST (50 * MILLISECOND)
#define POLL_SLOWEST (100 * MILLISECOND) /* when looking itself takes long */

static int64_t poll_bits(const struct supervisor *s)
{
    int64_t bits = 0;

    if (s->limits.value[LIMIT_MEMORY] >= 0)
        bits |= POLL_MEMORY;
    if (s->limits.value[LIMIT_CPU_TIME] >= 0)
        bits |= POLL_CPU;
    if (s->limits.value[LIMIT_DISK] >= 0)
        bits |= POLL_DISK;
    if (plan_find(s->plan, KIND_PIDS_PEAK))
        bits |= POLL_TASKS;
    return bits;
}

static unsigned running(const struct supervisor *s)
{
    unsigned count = 0;

    for (unsigned i = 0; i < s->count; i++)
        count += s->jobs[i]->state == JOB_STARTED;
    return count;
}

static void raise_to(int64_t *peak, int64_t value)
{
    *peak = value > *peak ? value : *peak;
}

static void note_usage(struct supervisor *s, struct outcome *outcome, const struct message *usage)
{
    int64_t bits = poll_bits(s);

    if (bits & POLL_MEMORY)
        raise_to(&outcome->memory, usage->a);
    if (bits & POLL_TASKS)
        raise_to(&outcome->tasks, usage->c);
    raise_to(&outcome->disk, usage->d);
    outcome->disk_full |= (usage->e & USAGE_FULL) && !outcome->disk_was_full;
}

/* What is measured is the sandbox as a whole. With several commands in it, at least one has used up its
 * time when their mean has; the one that began first is taken for it. */
static void check_cpu(struct supervisor *s, int64_t used)
{
    int64_t limit = s->limits.value[LIMIT_CPU_TIME], live = (used - s->cpu_finished) * 1000;
    struct job *oldest = NULL;

    if (limit < 0 || live / (int64_t)(running(s) ? running(s) : 1) < limit)
        return;
    for (unsigned i = 0; i < s->count; i++)
        if (s->jobs[i]->state == JOB_STARTED && (!oldest || s->jobs[i]->began < oldest->began))
            oldest = s->jobs[i];
    if (oldest)
        job_fire(s, oldest, LIMIT_CPU_TIME);
}

void polling_usage(struct supervisor *s, const struct message *usage)
{
    int64_t time = now(), took = s->poll_sent ? time - s->poll_sent : 0, wait = 4 * took;
    int64_t limit = s->limits.value[LIMIT_MEMORY];

    if (usage->e & USAGE_UNKNOWN) { /* what can't be measured can't be held */
        supervisor_close(s);
        return;
    }
    for (unsigned i = 0; i < s->count; i++) {
        struct job *job = s->jobs[i];
        if (job->state == JOB_EXITED)
            continue;
        note_usage(s, &job->outcome, usage);
        if (limit >= 0 && usage->a > limit)
            job_fire(s, job, LIMIT_MEMORY);
    }
    check_cpu(s, usage->b);
    if (poll_bits(s) & (POLL_DISK | POLL_MEMORY))
        s->disk_full = usage->e & USAGE_FULL;
    wait = wait > POLL_SLOWEST ? POLL_SLOWEST : wait;
    s->poll_next = time + (s->poll_every > wait ? s->poll_every : wait);
    s->poll_every = s->poll_every * 5 / 4 > POLL_LAST ? POLL_LAST : s->poll_every * 5 / 4;
    s->poll_sent = 0;
}

static bool polls(const struct supervisor *s)
{
    return !s->poll_sent && !s->init_dead && poll_bits(s) && running(s) > 0;
}

void polling_check(struct supervisor *s, int64_t time)
{
    if (!polls(s) || time < s->poll_next)
        return;
    if (init_send(s, MSG_POLL, -1, poll_bits(s)) == 0)
        s->poll_sent = time;
    else
        s->poll_next = time + s->poll_every; /* no room in its socket: it has enough to do */
}

int64_t polling_next(const struct supervisor *s)
{
    return polls(s) ? s->poll_next : INT64_MAX;
}

void polling_start(struct supervisor *s, int64_t time)
{
    s->poll_every = POLL_FIRST;
    s->poll_next = time ? time + POLL_FIRST : 0;
}
