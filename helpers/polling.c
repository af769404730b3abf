/* Limits that nobody but us holds: what the sandbox uses is asked for again and again, of init, and what is
 * too much ends it. The whole sandbox is measured, and every command in it has the same verdict.
 */

#include "supervisor.h"

#define MILLISECOND ((int64_t)1000000)
#define POLL_LEAST MILLISECOND
#define POLL_FIRST (5 * MILLISECOND)
#define POLL_LAST (50 * MILLISECOND)
#define POLL_SLOWEST (100 * MILLISECOND) /* when looking itself takes long */

static int64_t poll_bits(const struct supervisor *s)
{
    int64_t bits = 0;

    if (s->limits.value[LIMIT_MEMORY] >= 0 && !s->limits.by_cgroup[LIMIT_MEMORY])
        bits |= POLL_MEMORY;
    if (s->limits.value[LIMIT_CPU_TIME] >= 0 && !s->limits.by_cgroup[LIMIT_CPU_TIME])
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

static void note_usage(struct outcome *outcome, const struct message *usage, int64_t bits)
{
    if (bits & POLL_MEMORY)
        raise_to(&outcome->memory, usage->a);
    if (bits & POLL_TASKS && usage->c > 0) /* none: it came too early or too late, and saw nothing */
        raise_to(&outcome->tasks, usage->c);
    if (usage->e & POLL_DISK)
        raise_to(&outcome->disk, usage->d);
    outcome->disk_full |= (usage->e & USAGE_FULL) && !outcome->disk_was_full;
}

static void check_memory(struct supervisor *s, int64_t used)
{
    int64_t limit = s->limits.value[LIMIT_MEMORY];

    for (unsigned i = 0; used > limit && i < s->count; i++)
        if (s->jobs[i]->state != JOB_EXITED)
            job_fire(s, s->jobs[i], LIMIT_MEMORY);
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

static void schedule(struct supervisor *s)
{
    int64_t time = now(), took = s->poll_sent ? time - s->poll_sent : 0, wait = 4 * took;

    wait = wait > POLL_SLOWEST ? POLL_SLOWEST : wait;
    s->poll_next = time + (s->poll_every > wait ? s->poll_every : wait);
    s->poll_every = s->poll_every * 5 / 4 > POLL_LAST ? POLL_LAST : s->poll_every * 5 / 4;
    s->poll_sent = 0;
}

void polling_usage(struct supervisor *s, const struct message *usage)
{
    int64_t bits = poll_bits(s) & usage->e; /* a cgroup may hold by now what was asked for */

    for (unsigned i = 0; i < s->count; i++)
        if (s->jobs[i]->state != JOB_EXITED)
            note_usage(&s->jobs[i]->outcome, usage, bits);
    if (usage->e & POLL_DISK)
        s->disk_full = (usage->e & USAGE_FULL) != 0;
    if (usage->e & USAGE_UNASKED)
        return;
    if (s->poll_asked & ~usage->e) { /* what can't be measured can't be held */
        supervisor_give_up(s, "killed: what the sandbox uses can't be measured, so that its limits hold no longer");
        return;
    }
    if (bits & POLL_MEMORY)
        check_memory(s, usage->a);
    if (bits & POLL_CPU)
        check_cpu(s, usage->b);
    schedule(s);
}

static bool polls(const struct supervisor *s)
{
    return !s->poll_sent && !s->init_dead && !s->frozen_at && poll_bits(s) && running(s) > 0;
}

/* --- in the cgroup -------------------------------------------------------------------------- */

/* Its time is exact, and asking is cheap; but nobody tells when it is used up. */
static bool looks(const struct supervisor *s)
{
    bool wanted = !s->peaks_noted || s->limits.by_cgroup[LIMIT_CPU_TIME];

    return s->box.dir >= 0 && wanted && !s->init_dead && !s->frozen_at && running(s) > 0;
}

static void look(struct supervisor *s, int64_t time)
{
    int64_t limit = s->limits.by_cgroup[LIMIT_CPU_TIME] ? s->limits.value[LIMIT_CPU_TIME] : -1;
    int64_t wait = POLL_LAST;
    struct counters counters;

    account_poll(s, &counters);
    if (limit >= 0 && counters.cpu >= 0) {
        check_cpu(s, counters.cpu);
        /* not before all CPUs together could have used the rest */
        int64_t rest = limit * (running(s) ? (int64_t)running(s) : 1) - (counters.cpu - s->cpu_finished) * 1000;
        int64_t soonest = rest / s->cpus;
        wait = soonest < wait ? soonest : wait;
    }
    s->box_next = time + (wait < POLL_LEAST ? POLL_LEAST : wait);
}

void polling_check(struct supervisor *s, int64_t time)
{
    if (looks(s) && time >= s->box_next)
        look(s, time);
    if (!polls(s) || time < s->poll_next)
        return;
    s->poll_asked = poll_bits(s);
    if (init_send(s, MSG_POLL, -1, s->poll_asked) == 0)
        s->poll_sent = time;
    else
        s->poll_next = time + s->poll_every; /* no room in its socket: it has enough to do */
}

int64_t polling_next(const struct supervisor *s)
{
    int64_t next = polls(s) ? s->poll_next : INT64_MAX;

    return looks(s) && s->box_next < next ? s->box_next : next;
}

void polling_start(struct supervisor *s, int64_t time)
{
    s->poll_every = POLL_FIRST;
    s->poll_next = time ? time + POLL_FIRST : 0;
    s->box_next = s->poll_next;
}
