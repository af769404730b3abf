/* The cgroup of a sandbox: where it is made, its limits, its counters, and its end. Version 2 only.
 *
 *     base                       ours to divide: a scope of systemd's, or a directory
 *     ├── mgr                    us, where we stood in base itself
 *     └── sandbox-PID-RANDOM     a box: limits are set here, out of the payload's reach
 *         └── run                init and the payload; the top of their cgroup namespace
 *
 * Documentation/admin-guide/cgroup-v2.rst is the source of formats and rules.
 */
#ifndef CGROUP_H
#define CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct plan;
struct record;
struct failure;

#define CGROUP_NESTED 1 /* flags of KIND_CGROUP: the payload may divide `run` */

/* Where a plan wants its scope: the fields of KIND_CGROUP. An empty way: nowhere. */
struct place {
    char way[16], path[1024], mount[256];
};

/* Where boxes are made; base -1: nowhere. */
struct scope {
    int base;
    const struct record *record;
};

struct box {
    int base, dir, run; /* -1: there is none */
    char name[48];
};

/* A file of a cgroup, below its directory: write it (0, or -1 with errno); its text, "" when there is none. */
int cgroup_write(int dir, const char *file, const char *value);
const char *cgroup_read(int dir, const char *file, char *text, size_t size);

/* Is a word among those that spaces and newlines part? */
bool has_word(const char *text, const char *word, size_t size);

/* Enter the scope that the plan names, and have it hand down the controllers that are needed. Nothing
 * when it names none. 0, or -1 with *failure filled. */
int scope_enter(const struct plan *plan, int lifeline, struct scope *scope, struct failure *failure);
void scope_leave(struct scope *scope);

/* The same in two steps, for who is there before a plan is: enter, and then have it hand down what this
 * plan needs (`plan` without records: what only counts). */
int scope_open(const struct place *place, const struct record *record, int lifeline, struct scope *scope,
               struct failure *failure);
int scope_divide(const struct scope *scope, const struct plan *plan, struct failure *failure);

/* Where the plan wants its scope; and whether that is `place`. */
void scope_place(const struct plan *plan, struct place *place);
bool scope_fits(const struct place *place, const struct plan *plan);

/* Remove the boxes in a scope whose makers are dead. Others hold a lock on theirs, and are left. */
void scope_sweep(const struct scope *scope);

/* Make a box without limits, and lock it. */
int box_make(const struct scope *scope, struct box *box, struct failure *failure);

/* Write the limits of the plan; `alone`: all of it is one command, which dies as a whole. */
int box_limit(const struct box *box, const struct plan *plan, bool alone, struct failure *failure);

/* With CGROUP_NESTED: move init one down, so that `run` can hand down controllers, and give it to the
 * payload's user. */
int box_nest(const struct box *box, const struct plan *plan, pid_t init, uid_t uid, gid_t gid,
             struct failure *failure);

/* Write a file of the box. 0, or -1 with errno; ENODEV also for CPUs that are not all ours to use. */
int box_write(const struct box *box, const char *file, const char *value);

/* Lift what makes its processes wait for the processor and the disk, since they are to end: a process that waits
 * in the kernel is not killed before the wait is over, and with a limit on output that can be hours. */
void box_hurry(const struct box *box);

/* Kill everything in it, at once, and have that done soon. A process that forks can't outrun this
 * (cgroup.kill, Linux 5.14). */
void box_kill(const struct box *box);

/* Kill what is left, and remove it with all below. Safe to call twice. */
void box_remove(struct box *box);

/* What the kernel counted; -1 where it does not. Times in us. */
struct counters {
    int64_t cpu, user, system, throttled;
    int64_t memory, memory_peak, swap;
    int64_t oom;      /* times that the limit of the box itself could not be kept to */
    int64_t oom_kill; /* processes of the box that were killed for want of memory, whoever's limit it was */
    int64_t tasks, tasks_peak, tasks_refused;
    int64_t read, written, reads, writes;
    int64_t pressure_cpu, pressure_memory, pressure_io;
};

void box_look(const struct box *box, struct counters *counters);   /* cpu, user, system, memory, tasks */
void box_events(const struct box *box, struct counters *counters); /* oom, oom_kill, tasks_refused */
void box_read(const struct box *box, struct counters *counters);   /* all */

/* Does the kernel note the peaks of what it counts (Linux 5.19, 6.1)? */
bool box_notes_peaks(const struct box *box);

#endif
