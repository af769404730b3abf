/* What the parts of the supervisor share. */
#ifndef SUPERVISOR_H
#define SUPERVISOR_H

#include "cgroup.h"
#include "door.h"
#include "helper.h"
#include "network.h"
#include "streams.h"
#include "tty.h"
#include "verdict.h"

#define MAX_JOBS 256
#define MAX_LEASES 6 /* descriptors that are kept for what their locks mean */

/* A time so much later, or never: centuries are as good. */
static inline int64_t later(int64_t time, int64_t ns)
{
    return ns > INT64_MAX / 2 - time ? INT64_MAX / 2 : time + ns;
}

enum job_state { JOB_WAITING, JOB_STARTED, JOB_EXITED };

/* What init is yet to be told of a command: there was no room in its socket. */
struct owed {
    bool kill, resume;
    uint64_t signals; /* bit n for signal n */
};

/* One command, from the request to its result. */
struct job {
    int32_t id;
    enum job_state state;
    bool stopped;
    uint64_t early; /* signals that came before it was executed: bit n for signal n */
    struct owed owed;
    int64_t timeout; /* ns, or -1 */
    int64_t began, deadline;   /* CLOCK_MONOTONIC, ns; 0: none, as all of these */
    int64_t kill_by, drain_by; /* when patience with init, or with who reads the output, ends */
    int64_t told_by;           /* and with services that were asked what was denied, in */
    unsigned round;            /* this round; 0: not yet */
    struct streams streams;
    struct outcome outcome;
    struct counters before; /* of the whole sandbox, when it began */
    int peak;               /* memory.peak since then, or -1 */
    bool shared;            /* with others that ran at the same time */
    bool accounted;
};

/* An event that the caller's socket had no room for yet. */
struct event {
    struct event *next;
    size_t size;
    int fd;
    char data[];
};

/* A request that could not be handed on to init yet. */
struct held {
    struct held *next;
    struct message message;
    int fds[MESSAGE_FDS], count;
    int64_t until; /* CLOCK_MONOTONIC, ns: then it is refused */
    char data[];
};

struct supervisor {
    const struct plan *plan;
    struct limits limits;
    int stdio[3], control, lifeline, report, log, verbosity;
    int leases[MAX_LEASES]; /* locked files: nobody takes away what the sandbox uses */
    bool one_shot;

    struct scope scope; /* where the cgroup is made */
    struct box box;     /* the cgroup, if there is one */
    int memory_events;  /* of which poll(2) tells that they changed, or -1 */
    int64_t frozen_at;  /* CLOCK_MONOTONIC, ns; 0: it is not */

    struct network network;
    struct door door;
    struct init_process init;
    struct made_ahead *ahead;
    struct failure failure;
    bool failed;    /* the set-up failed: nothing ran */
    bool ready;
    bool closing;   /* the caller wants no more: everything is killed, nothing waits for a reader */
    bool init_dead;
    bool init_mute; /* no more messages will come */
    bool init_full; /* something waits for room in its socket */

    struct job *jobs[MAX_JOBS];
    unsigned count;
    struct event *events, **last_event;
    unsigned event_count;
    int64_t events_next; /* when the first is tried again; 0: as soon as there is room in the socket */
    struct held *held; /* in the order they came */
    unsigned held_count;
    int64_t held_next; /* when they are tried again */
    struct terminal terminal;
    int pty_in, pty_out; /* where its bytes come from and go to, until it is there */
    bool hung_up;        /* no more input for it: the command was told */
    int signals;    /* a signalfd */
    int ended_by;   /* the signal that made us end it before it began */

    int64_t poll_next, poll_every, poll_sent; /* poll_sent: 0 when no answer is awaited */
    int64_t poll_asked; /* POLL_* bits */
    bool disk_full;       /* when it was last measured */
    int64_t box_next;   /* when to look into the cgroup again */
    int64_t cpus;       /* of the machine */
    bool peaks_noted;   /* by the kernel, so that nobody has to look for them */
    int64_t cpu_finished; /* us, of commands that ended; of a cgroup also of what was before them */
    int status;     /* what we exit with */
};

/* --- jobs.c --------------------------------------------------------------------------------- */

struct job *job_new(struct supervisor *s, int32_t id);
struct job *job_find(const struct supervisor *s, int32_t id);
void job_refuse(struct supervisor *s, int32_t id, const char *why); /* a result for what never began */
void job_drop(struct supervisor *s, struct job *job); /* forget it without a result */

/* Do what time and the relays ask for: limits, kills that were not obeyed, results. */
void jobs_check(struct supervisor *s, int64_t time);

/* When jobs_check is next wanted, CLOCK_MONOTONIC in ns; INT64_MAX: never. */
int64_t jobs_next(const struct supervisor *s);

/* Init is gone, with everything inside; what it used altogether, in us. */
void jobs_end(struct supervisor *s, int64_t user, int64_t system);

/* --- messages.c ----------------------------------------------------------------------------- */

/* Read one message of init's. 1, 0 when there is none now, -1 when there will be no more. */
int jobs_message(struct supervisor *s);

/* --- orders.c ------------------------------------------------------------------------------- */

/* Send to init, never waiting. 0, or -1 with errno; EAGAIN sets init_full. */
int init_send(struct supervisor *s, enum message_type type, int32_t id, int64_t value);

/* Have init send a signal to the command's foreground group, or make it that group again and continue it.
 * Never waits, and nothing is lost: what finds no room is sent as soon as there is. */
void job_pass_on(struct supervisor *s, struct job *job, int number);
void job_resume(struct supervisor *s, struct job *job);

/* Send what found no room so far. */
void send_owed(struct supervisor *s, struct job *job);

/* Have init kill a command. */
void send_kill(struct supervisor *s, struct job *job);

/* Deliver a signal of the caller's, now or once the command is executed, and remember that it was not
 * the command's own affair. */
void job_signal(struct supervisor *s, struct job *job, int number);

/* It is executed: those that came before. */
void deliver_early(struct supervisor *s, struct job *job);

/* A limit ends a command. */
void job_fire(struct supervisor *s, struct job *job, enum limit_kind kind);

void kill_init(struct supervisor *s);

/* Everything is to be killed, without a limit being the reason. */
void supervisor_close(struct supervisor *s);

/* The same, and say why. */
void supervisor_give_up(struct supervisor *s, const char *why);

/* --- begin.c -------------------------------------------------------------------------------- */

/* From the plan to an init that begins. 0, or -1 with s->failure filled. */
int supervisor_begin(struct supervisor *s);

/* Give up the standard descriptors: the command has its own. */
void supervisor_let_go(const struct supervisor *s);

/* --- signals.c ------------------------------------------------------------------------------ */

/* Watch them (s->signals is to be polled). 0, or -1 with *failure filled. */
int signals_watch(struct supervisor *s, struct failure *failure);

/* As the caller had them, for what is executed in our place. */
void signals_give_back(void);

void signals_read(struct supervisor *s); /* and do as they say */

/* Where a single command's pty gets its bytes from, or NULL. */
struct relay *pty_input(struct supervisor *s);

/* Stop with the command, and go on with it. */
void supervisor_suspend(struct supervisor *s, struct job *job, bool group);
void supervisor_resume(struct supervisor *s);

/* --- finish.c ------------------------------------------------------------------------------- */

/* Clean up. What we exit with, if we do: a diagnosis takes our place. */
int supervisor_finish(struct supervisor *s);

/* Append a line to what is kept of this run, if it is to be: who looks at it later misses what could not be. */
void supervisor_log(const struct supervisor *s, const struct text *text);

/* --- polling.c ------------------------------------------------------------------------------ */

void polling_start(struct supervisor *s, int64_t time); /* look often for a while; time 0: and at once */
void polling_check(struct supervisor *s, int64_t time);
int64_t polling_next(const struct supervisor *s); /* when polling_check is next wanted */
void polling_usage(struct supervisor *s, const struct message *usage); /* init's answer */

/* --- account.c ------------------------------------------------------------------------------ */

/* Note what a command begins with, and take what it used when it has ended. */
void account_begin(struct supervisor *s, struct job *job);
void account_end(struct supervisor *s, struct job *job);

/* Have the kernel tell when memory runs out (s->memory_events is to be polled), and what to do then. */
void account_watch(struct supervisor *s);
void account_events(struct supervisor *s);

/* Look at all counters, and raise the commands' peaks. */
void account_poll(struct supervisor *s, struct counters *now);

/* Requests, each answered by an event. */
void account_freeze(struct supervisor *s, int32_t id, bool freeze);
void account_set(struct supervisor *s, const struct record *record);
void account_stats(struct supervisor *s, int32_t id);
void account_answer(struct supervisor *s, const struct message *usage); /* what init was asked for stats */

/* --- control.c ------------------------------------------------------------------------------ */

/* Send an event, or keep it until there is room; fd (or -1) goes along and is closed. */
void control_send(struct supervisor *s, const char *json, size_t size, int fd);

/* Whether the caller is far behind: what it need not know is better left out. */
bool control_is_behind(const struct supervisor *s);

short control_wanted(struct supervisor *s); /* poll events */
void control_ready(struct supervisor *s, short revents);

/* Try again to hand on what waits. */
void control_retry(struct supervisor *s, int64_t time);
int64_t control_next(const struct supervisor *s); /* when, CLOCK_MONOTONIC in ns; INT64_MAX: never */

/* Forget the request for this command if it is still here: init has not heard of it. */
bool control_withdraw(struct supervisor *s, int32_t id);

#endif
