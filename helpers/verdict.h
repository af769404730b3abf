/* How a command ended, and what that is called. Numbers in, a judgement out; nothing else. */
#ifndef VERDICT_H
#define VERDICT_H

#include "helper.h"

/* The limits that a verdict or `hit` can name. */
enum limit_kind {
    LIMIT_TIMEOUT,
    LIMIT_CPU_TIME,
    LIMIT_MEMORY,
    LIMIT_PIDS,
    LIMIT_DISK,
    LIMIT_OUTPUT,
    LIMIT_FILE_SIZE,
    LIMIT_KINDS,
    LIMIT_NONE = -1,
};

extern const char *const limit_names[LIMIT_KINDS];

/* Values as in the plan: ns for the times, else bytes or a count; -1 where there is no limit. */
struct limits {
    int64_t value[LIMIT_KINDS];
    const char *mechanism[LIMIT_KINDS];
    bool by_cgroup[LIMIT_KINDS]; /* held by the kernel, who tells of it */
};

void limits_read(struct limits *limits, const struct plan *plan);

/* What is known of a command that ended. -1: not measured. */
struct outcome {
    int fired;        /* the limit that made us kill it, or LIMIT_NONE */
    int status;       /* wait status */
    int exec_status;  /* 125, 126 or 127 when it was never executed, else 0 */
    bool killed;      /* by us, or with init, without a limit */
    uint64_t sent;    /* signals that the caller had us send: bit n for signal n */
    bool disk_full;     /* became so while it ran */
    bool disk_was_full; /* before it began */
    int64_t timeout;          /* ns, its own; -1: none */
    int64_t wall;             /* ns */
    int64_t user, system;     /* us */
    int64_t memory, max_rss;  /* bytes: of all together; of the largest process */
    bool counted;             /* the kernel counted memory: max_rss tells no more */
    bool oom;                 /* the kernel killed for the limit on memory */
    bool tasks_refused;       /* the kernel refused a task for the limit on pids */
    int64_t tasks, disk, output;
    int64_t throttled;        /* us, that it had to wait for limits.cpus */
    int64_t read, written;    /* bytes, from and to disks */
    int64_t pressure_cpu, pressure_memory, pressure_io; /* us, that something of it waited */
    char text[1024];          /* why it was not executed, or "" */
};

enum verdict {
    VERDICT_OK,
    VERDICT_NONZERO,
    VERDICT_SIGNAL,
    VERDICT_TIMEOUT,
    VERDICT_CPU_TIME,
    VERDICT_MEMORY,
    VERDICT_PIDS,
    VERDICT_DISK,
    VERDICT_OUTPUT,
    VERDICT_EXEC_FAILED,
    VERDICT_KILLED,
};

extern const char *const verdict_names[];

struct judgement {
    enum verdict verdict;
    int limit;    /* that ended it, or LIMIT_NONE */
    unsigned hit; /* bits of enum limit_kind */
};

void outcome_clear(struct outcome *outcome);
struct judgement judge(const struct limits *limits, const struct outcome *outcome);

/* The helper's exit status for it. */
int exit_status(const struct judgement *judgement, const struct outcome *outcome);

#endif
