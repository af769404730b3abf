/* Verdicts. See verdict.h. */

#include "verdict.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>

const char *const limit_names[LIMIT_KINDS] = {"timeout", "cpu_time", "memory",   "pids",
                                              "disk",    "output",   "file_size"};

const char *const verdict_names[] = {"ok",   "nonzero", "signal", "timeout",     "cpu_time", "memory",
                                     "pids", "disk",    "output", "exec_failed", "killed"};

static const enum verdict verdict_of[LIMIT_KINDS] = {
    [LIMIT_TIMEOUT] = VERDICT_TIMEOUT, [LIMIT_CPU_TIME] = VERDICT_CPU_TIME, [LIMIT_MEMORY] = VERDICT_MEMORY,
    [LIMIT_PIDS] = VERDICT_PIDS,       [LIMIT_DISK] = VERDICT_DISK,         [LIMIT_OUTPUT] = VERDICT_OUTPUT,
};

void limits_read(struct limits *limits, const struct plan *plan)
{
    const struct record *record = NULL;

    for (int i = 0; i < LIMIT_KINDS; i++) {
        limits->value[i] = -1;
        limits->mechanism[i] = "";
        limits->by_cgroup[i] = false;
    }
    while ((record = plan_next(plan, KIND_LIMIT, record)))
        for (int i = 0; i < LIMIT_KINDS; i++)
            if (strcmp(record_text(record, 0), limit_names[i]) == 0) {
                limits->value[i] = record_int(record, 1);
                limits->mechanism[i] = record_text(record, 2);
                limits->by_cgroup[i] = strcmp(limits->mechanism[i], "cgroup") == 0;
            }
}

void outcome_clear(struct outcome *outcome)
{
    *outcome = (struct outcome){.fired = LIMIT_NONE, .memory = -1, .max_rss = -1, .tasks = -1, .disk = -1,
                                .output = -1, .timeout = -1, .throttled = -1, .read = -1, .written = -1,
                                .pressure_cpu = -1, .pressure_memory = -1, .pressure_io = -1};
}

static bool reached(const struct limits *limits, enum limit_kind kind, int64_t used)
{
    return limits->value[kind] >= 0 && used >= limits->value[kind];
}

/* The kernel's own account for RLIMIT_CPU and what wait4 tells may differ by some ticks. */
static bool used_up_cpu(const struct limits *limits, const struct outcome *outcome)
{
    int64_t used = (outcome->user + outcome->system) * 1000;

    return reached(limits, LIMIT_CPU_TIME, used + used / 50);
}

static unsigned limits_hit(const struct limits *limits, const struct outcome *outcome)
{
    unsigned hit = outcome->fired >= 0 ? 1u << outcome->fired : 0;
    if (used_up_cpu(limits, outcome))
        hit |= 1u << LIMIT_CPU_TIME;
    /* Exceeded, not just reached; and as polled: max_rss has in it what is only mapped of files. In a cgroup
     * reaching it is nothing: the kernel fills it with what it can drop again. */
    if (limits->by_cgroup[LIMIT_MEMORY] ? outcome->oom : reached(limits, LIMIT_MEMORY, outcome->memory - 1))
        hit |= 1u << LIMIT_MEMORY;
    if (limits->by_cgroup[LIMIT_PIDS] ? outcome->tasks_refused : reached(limits, LIMIT_PIDS, outcome->tasks))
        hit |= 1u << LIMIT_PIDS;
    if (outcome->disk_full)
        hit |= 1u << LIMIT_DISK;
    if (limits->value[LIMIT_FILE_SIZE] >= 0 && WIFSIGNALED(outcome->status) &&
        WTERMSIG(outcome->status) == SIGXFSZ)
        hit |= 1u << LIMIT_FILE_SIZE;
    return hit;
}

/* The limit that a command which failed by itself failed of, or LIMIT_NONE. Pids only where a cgroup holds
 * them: that all were in use was seen in a poll, but the kernel does not tell whether RLIMIT_NPROC refused
 * one more. */
static int cause(const struct limits *limits, unsigned hit)
{
    static const int order[] = {LIMIT_CPU_TIME, LIMIT_MEMORY, LIMIT_PIDS, LIMIT_DISK};

    for (unsigned i = 0; i < sizeof(order) / sizeof(order[0]); i++)
        if (hit & 1u << order[i] && (order[i] != LIMIT_PIDS || limits->by_cgroup[LIMIT_PIDS]))
            return order[i];
    return LIMIT_NONE;
}

struct judgement judge(const struct limits *limits, const struct outcome *outcome)
{
    int status = outcome->status;
    bool by_signal = WIFSIGNALED(status);
    struct judgement result = {.limit = outcome->fired, .hit = limits_hit(limits, outcome)};

    if (outcome->fired >= 0) {
        result.verdict = verdict_of[outcome->fired];
    } else if (outcome->killed || (by_signal && outcome->sent >> WTERMSIG(status) & 1)) {
        result.verdict = VERDICT_KILLED; /* before it was executed, too */
    } else if (outcome->exec_status) {
        result.verdict = VERDICT_EXEC_FAILED;
    } else if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        result.verdict = VERDICT_OK;
    } else if ((result.limit = cause(limits, result.hit)) >= 0) {
        result.verdict = verdict_of[result.limit];
    } else {
        result.verdict = by_signal ? VERDICT_SIGNAL : VERDICT_NONZERO;
    }
    return result;
}

int exit_status(const struct judgement *judgement, const struct outcome *outcome)
{
    switch (judgement->verdict) {
    case VERDICT_TIMEOUT:
        return 124;
    case VERDICT_CPU_TIME:
    case VERDICT_MEMORY:
    case VERDICT_PIDS:
    case VERDICT_DISK:
    case VERDICT_OUTPUT:
        return 128 + SIGKILL;
    case VERDICT_EXEC_FAILED:
        return outcome->exec_status;
    default:
        return WIFSIGNALED(outcome->status) ? 128 + WTERMSIG(outcome->status) : WEXITSTATUS(outcome->status);
    }
}
