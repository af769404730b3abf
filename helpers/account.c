/* What the sandbox's cgroup tells of its commands: usage, which limits were hit, statistics, and what can
 * be changed in it while it runs. Without a cgroup init is asked instead (polling.c).
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "report.h"
#include "supervisor.h"

/* How long what ends for a lower limit on memory may take to give it back. */
#define ROOM_MS 5000
/* How long what is being frozen may take; a process in an uninterruptible sleep can't be. */
#define FREEZE_MS 2000
/* Init is in the cgroup, too. */
#define OUR_TASKS 1

static bool has_box(const struct supervisor *s)
{
    return s->box.dir >= 0;
}

/* --- a command's beginning and end ---------------------------------------------------------- */

/* The peak since now, for this descriptor alone (Linux 6.12); -1: the kernel has one since ever, if any. */
static int open_peak(const struct supervisor *s)
{
    int fd = openat(s->box.dir, "memory.peak", O_RDWR | O_CLOEXEC);

    if (fd >= 0 && write(fd, "r", 1) != 1)
        close_fd(&fd);
    return fd;
}

void account_begin(struct supervisor *s, struct job *job)
{
    job->peak = -1;
    if (!has_box(s))
        return;
    if (!s->cpus)
        s->cpus = sysconf(_SC_NPROCESSORS_ONLN) > 0 ? sysconf(_SC_NPROCESSORS_ONLN) : 1;
    s->peaks_noted = s->one_shot && box_notes_peaks(&s->box);
    box_read(&s->box, &job->before);
    job->peak = open_peak(s);
    if (s->count <= 1)
        s->cpu_finished = job->before.cpu; /* all that ran before it is over */
    for (unsigned i = 0; s->count > 1 && i < s->count; i++)
        s->jobs[i]->shared = true;
}

static int64_t peak_of(const struct supervisor *s, const struct job *job, const struct counters *now)
{
    char text[32] = "";

    if (job->peak >= 0 && pread(job->peak, text, sizeof(text) - 1, 0) > 0)
        return strtoll(text, NULL, 10);
    return s->one_shot || now->memory_peak > job->before.memory_peak ? now->memory_peak : -1;
}

static int64_t since(int64_t now, int64_t before)
{
    return now < 0 || before < 0 ? -1 : now - before;
}

/* Of time and of input and output nobody knows whose they were when several ran at once. */
static void take_alone(struct outcome *outcome, const struct counters *before, const struct counters *now)
{
    if (now->user >= 0 && before->user >= 0) {
        outcome->user = now->user - before->user;
        outcome->system = now->system - before->system;
    }
    outcome->throttled = since(now->throttled, before->throttled);
    outcome->read = since(now->read, before->read);
    outcome->written = since(now->written, before->written);
    outcome->pressure_cpu = since(now->pressure_cpu, before->pressure_cpu);
    outcome->pressure_memory = since(now->pressure_memory, before->pressure_memory);
    outcome->pressure_io = since(now->pressure_io, before->pressure_io);
}

static void raise_to(int64_t *peak, int64_t value)
{
    *peak = value > *peak ? value : *peak;
}

void account_end(struct supervisor *s, struct job *job)
{
    struct outcome *outcome = &job->outcome;
    struct counters now;

    if (!has_box(s) || job->accounted)
        return;
    job->accounted = true;
    box_read(&s->box, &now);
    outcome->oom = now.oom > job->before.oom && now.oom_kill > job->before.oom_kill;
    outcome->tasks_refused = now.tasks_refused > job->before.tasks_refused;
    raise_to(&outcome->memory, peak_of(s, job, &now));
    if (outcome->oom) /* before Linux 5.19 nobody has noted the peak; it was there */
        raise_to(&outcome->memory, s->limits.value[LIMIT_MEMORY]);
    outcome->counted = now.memory >= 0;
    if (s->one_shot || now.tasks_peak > job->before.tasks_peak)
        raise_to(&outcome->tasks, now.tasks_peak - OUR_TASKS);
    if (outcome->tasks_refused)
        raise_to(&outcome->tasks, s->limits.value[LIMIT_PIDS]);
    if (!job->shared)
        take_alone(outcome, &job->before, &now);
    close_fd(&job->peak);
}

/* --- what the kernel says by itself --------------------------------------------------------- */

void account_watch(struct supervisor *s)
{
    char text[512];

    if (has_box(s) && s->limits.by_cgroup[LIMIT_MEMORY] && s->memory_events < 0)
        s->memory_events = openat(s->box.dir, "memory.events", O_RDONLY | O_CLOEXEC);
    /* Only what was read before can change. */
    if (s->memory_events >= 0 && pread(s->memory_events, text, sizeof(text), 0) < 0)
        close_fd(&s->memory_events);
}

/* The kernel has killed some process for want of memory. What is left of the commands is of no use, and
 * which of them took it nobody knows: each ends of it. */
void account_events(struct supervisor *s)
{
    struct counters now = {0};
    char text[512];

    if (pread(s->memory_events, text, sizeof(text), 0) < 0)
        close_fd(&s->memory_events);
    box_events(&s->box, &now);
    for (unsigned i = s->count; i-- > 0;) {
        struct job *job = s->jobs[i];
        if (job->state != JOB_EXITED && now.oom > job->before.oom && now.oom_kill > job->before.oom_kill)
            job_fire(s, job, LIMIT_MEMORY);
    }
}

void account_poll(struct supervisor *s, struct counters *now)
{
    box_look(&s->box, now);
    for (unsigned i = 0; i < s->count; i++) {
        raise_to(&s->jobs[i]->outcome.memory, s->one_shot ? -1 : now->memory);
        if (now->tasks > OUR_TASKS) /* else it came too early or too late, and saw nothing */
            raise_to(&s->jobs[i]->outcome.tasks, now->tasks - OUR_TASKS);
    }
}

/* --- requests ------------------------------------------------------------------------------- */

static void answer(struct supervisor *s, int32_t id, int error)
{
    char json[96];
    int size = snprintf(json, sizeof(json), "{\"event\":\"done\",\"id\":%d,\"errno\":%d}", id, error);

    control_send(s, json, (size_t)size, -1);
}

/* 1 or 0, or -1 when it can't be read. */
static int is_frozen(int events)
{
    char text[128];
    ssize_t n = pread(events, text, sizeof(text) - 1, 0);

    if (n <= 0)
        return -1;
    text[n] = 0;
    return strstr(text, "frozen 1") != NULL;
}

static int wait_frozen(const struct box *box, int wanted)
{
    int events cleanup_fd = openat(box->dir, "cgroup.events", O_RDONLY | O_CLOEXEC);
    int64_t until = now() + FREEZE_MS * (SECOND / 1000);
    int state;

    while ((state = events < 0 ? -1 : is_frozen(events)) != wanted) {
        struct pollfd change = {.fd = events, .events = POLLPRI};
        if (state < 0)
            return EIO;
        if (now() >= until)
            return ETIMEDOUT;
        poll(&change, 1, 20);
    }
    return 0;
}

/* The clock of its commands stands still meanwhile. */
static void resume_clocks(struct supervisor *s)
{
    int64_t stood = now() - s->frozen_at;

    for (unsigned i = 0; i < s->count; i++) {
        struct job *job = s->jobs[i];
        job->began += job->began ? stood : 0;
        job->deadline = job->deadline ? later(job->deadline, stood) : 0;
        job->kill_by = job->kill_by ? later(job->kill_by, stood) : 0;
    }
    s->frozen_at = 0;
}

void account_freeze(struct supervisor *s, int32_t id, bool freeze)
{
    int error = has_box(s) ? 0 : EOPNOTSUPP;

    if (!error && freeze != (s->frozen_at != 0)) {
        error = box_write(&s->box, "cgroup.freeze", freeze ? "1" : "0") < 0 ? errno : wait_frozen(&s->box, freeze);
        if (error && freeze)
            box_write(&s->box, "cgroup.freeze", "0");
        else if (!error && freeze)
            s->frozen_at = now();
        else
            resume_clocks(s);
    }
    answer(s, id, error);
}

static int64_t memory_now(const struct supervisor *s)
{
    struct counters counters = {.memory = -1};

    box_look(&s->box, &counters);
    return counters.memory;
}

/* Before memory.max is lowered below what is in use. The kernel would kill until it fits, and init as well: a
 * process that is dying, and has given nothing back yet, is no longer among those it chooses from
 * (css_task_iter_advance(), kernel/cgroup/cgroup.c). So what can be taken back is, and else the commands end of
 * their new limit before there is one. 0, or EBUSY when not even that is enough, as of files in a tmpfs. */
static int make_room(struct supervisor *s, const char *value)
{
    char high[64], *end;
    int64_t limit = strtoll(value, &end, 10), until = now() + ROOM_MS * (SECOND / 1000);
    bool ending = false;

    if (end == value || memory_now(s) <= limit) /* "max" */
        return 0;
    cgroup_read(s->box.dir, "memory.high", high, sizeof(high));
    box_write(&s->box, "memory.high", value); /* which takes back, and kills nobody */
    box_write(&s->box, "memory.high", high);
    for (unsigned i = s->count; memory_now(s) > limit && i-- > 0;)
        if (s->jobs[i]->state != JOB_EXITED) {
            job_fire(s, s->jobs[i], LIMIT_MEMORY);
            ending = true;
        }
    while (ending && memory_now(s) > limit && now() < until)
        poll(NULL, 0, 5);
    return memory_now(s) > limit ? EBUSY : 0;
}

/* Change a limit. The kernel says whether it takes the value; what is asked of us is remembered. */
void account_set(struct supervisor *s, const struct record *record)
{
    int32_t id = (int32_t)record_int(record, 0);
    const char *limit = record_text(record, 1), *file = record_text(record, 3);
    int error = 0;

    if (*file && (!has_box(s) || strchr(file, '/') || strncmp(file, "cgroup.", 7) == 0))
        error = EOPNOTSUPP;
    else if (strcmp(file, "memory.max") == 0 && (error = make_room(s, record_text(record, 4))))
        ;
    else if (*file && box_write(&s->box, file, record_text(record, 4)) < 0)
        error = errno;
    for (int i = 0; !error && i < LIMIT_KINDS; i++) {
        if (strcmp(limit, limit_names[i]) != 0)
            continue;
        if (s->limits.value[i] < 0 && has_box(s)) { /* it had none, and so no mechanism */
            s->limits.by_cgroup[i] = true;
            s->limits.mechanism[i] = "cgroup";
        }
        s->limits.value[i] = record_int(record, 2);
    }
    account_watch(s);
    answer(s, id, error);
}

static void add_number(struct text *text, const char *name, int64_t value)
{
    if (value >= 0)
        text_add(text, ",\"%s\":%lld", name, (long long)value);
}

static void add_time(struct text *text, const char *name, int64_t us)
{
    if (us >= 0)
        text_add(text, ",\"%s\":%lld.%06lld", name, (long long)(us / 1000000), (long long)(us % 1000000));
}

static void send_stats(struct supervisor *s, int32_t id, const struct counters *now)
{
    struct text text cleanup_text = {0};

    text_add(&text, "{\"event\":\"stats\",\"id\":%d,\"frozen\":%s", id, s->frozen_at ? "true" : "false");
    add_time(&text, "cpu", now->cpu);
    add_time(&text, "cpu_user", now->user);
    add_time(&text, "cpu_system", now->system);
    add_time(&text, "cpu_throttled", now->throttled);
    add_number(&text, "memory", now->memory);
    add_number(&text, "memory_peak", now->memory_peak);
    add_number(&text, "swap", now->swap);
    add_number(&text, "pids", now->tasks < OUR_TASKS ? now->tasks : now->tasks - OUR_TASKS);
    add_number(&text, "pids_peak", now->tasks_peak < OUR_TASKS ? now->tasks_peak : now->tasks_peak - OUR_TASKS);
    add_number(&text, "io_read", now->read);
    add_number(&text, "io_written", now->written);
    add_number(&text, "io_reads", now->reads);
    add_number(&text, "io_writes", now->writes);
    add_time(&text, "pressure_cpu", now->pressure_cpu);
    add_time(&text, "pressure_memory", now->pressure_memory);
    add_time(&text, "pressure_io", now->pressure_io);
    text_add(&text, "}");
    control_send(s, text.data, text.size, -1);
}

/* What a cgroup does not count is asked of init; of a frozen one nothing can be. */
void account_stats(struct supervisor *s, int32_t id)
{
    struct counters now;

    box_read(&s->box, &now);
    int64_t missing = (now.memory < 0 ? POLL_MEMORY : 0) | (now.tasks < 0 ? POLL_TASKS : 0) |
                      (now.cpu < 0 ? POLL_CPU : 0);
    if (!missing || s->frozen_at || init_send(s, MSG_POLL, id, missing) < 0)
        send_stats(s, id, &now);
}

void account_answer(struct supervisor *s, const struct message *usage)
{
    struct counters now;

    box_read(&s->box, &now);
    if (usage->e & POLL_MEMORY && now.memory < 0)
        now.memory = usage->a;
    if (usage->e & POLL_CPU && now.cpu < 0)
        now.cpu = usage->b;
    if (usage->e & POLL_TASKS && now.tasks < 0)
        now.tasks = usage->c + OUR_TASKS;
    send_stats(s, usage->id, &now);
}
