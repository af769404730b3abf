/* What the parts of init share once it has set up: its commands, looking at their processes, and files for the
 * caller. */
#ifndef COMMANDS_H
#define COMMANDS_H

#include <poll.h>
#include <sys/resource.h>

#include "helper.h"
#include "listen.h"
#include "mounts.h"

#define MAX_COMMANDS 256
#define MAX_OPENERS 64
#define SPARE_FDS 3

struct command {
    int32_t id;
    pid_t pid;       /* 0: this place is free */
    int channel;     /* -1 once exec has succeeded or failed */
    bool ready;      /* it was about to exec */
    uint64_t userns; /* inode of its B */
    int64_t user, system, max_rss; /* of everything reaped for it: us, us, bytes */
};

struct init {
    const struct plan *plan;
    int socket, null, children, terminal;
    int spare[SPARE_FDS]; /* kept for looking at processes */
    struct root root;
    struct listening listening; /* each command gets them */
    struct rlimit files;
    bool one_shot;
    struct {
        pid_t pid;
        int32_t id;
    } openers[MAX_OPENERS]; /* children that open a file for the caller */
    struct command commands[MAX_COMMANDS];
    unsigned used; /* places in use are below this */
};

/* Start the plan's own command (id 0); when it ends, everything ends. */
int commands_start_first(struct init *init, const struct record *argv, const struct command_stdio *stdio,
                         struct failure *failure);

/* Fill polls: [0] the supervisor, [1] children, then channels. Returns how many. */
unsigned commands_poll(struct init *init, struct pollfd *polls);
void commands_reap(struct init *init);
void commands_read_channels(struct init *init, const struct pollfd *polls, unsigned count);
void commands_message(struct init *init);

/* The command whose first process this is, or NULL. */
const struct command *command_by_pid(const struct init *init, pid_t pid);

/* --- openers.c ------------------------------------------------------------------------------ */

/* Open what an OPEN record asks for, in a child; the answer is its MSG_FILE, or ours. */
void open_for_caller(struct init *init, int32_t id, const struct record *record);
void refuse_file(const struct init *init, int32_t id, int error, const char *why);

/* Whether this child that was reaped, or stopped, is one of those; then its request has an answer, or will have. */
bool reap_opener(struct init *init, pid_t pid, int status);

/* --- processes.c ---------------------------------------------------------------------------- */

/* Looking takes descriptors, which commands may have used up: some are kept, and free between these. */
void look_begin(struct init *init);
void look_end(struct init *init);

/* Call visit for every process but init, by the numbers in /proc. -1 when they can't be listed. */
int each_process(const struct init *init, void (*visit)(const struct init *, pid_t, void *), void *data);

/* The text of a file of a process's directory, NUL-terminated and "" on failure. Its length, or -1. */
ssize_t read_process(const struct init *init, pid_t pid, const char *file, char *text, size_t size);

/* Is this the error of looking at a process that has just ended? */
bool is_gone(int error);

/* Is a process in this user namespace, or in one below it? 1, 0, or -1 when that can't be told. */
int in_namespace(const struct init *init, pid_t pid, uint64_t userns);

/* Kill every process in there. How many were alive, or -1 when not all could be looked at. */
int kill_inside(struct init *init, uint64_t userns);

/* --- measure.c ------------------------------------------------------------------------------ */

/* Answer MSG_POLL. */
void measure(struct init *init, int64_t wanted, struct message *answer);

/* Say how many tasks there are when a command has ended, as for want of another, which is often sooner than the first
 * poll. Before it is reaped: as a zombie it still is one of them. */
void measure_tasks(struct init *init);

#endif
