/* The commands that init runs: starting, reaping, killing, measuring. */
#ifndef COMMANDS_H
#define COMMANDS_H

#include <poll.h>
#include <sys/resource.h>

#include "helper.h"
#include "mounts.h"

#define MAX_COMMANDS 256
#define MAX_OPENERS 64

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
    struct root root;
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

/* measure.c: what MSG_POLL asks for. */
void measure(const struct init *init, int64_t wanted, struct message *answer);

/* Call visit for every process but init, by the numbers in /proc. -1 when they can't be listed, as
 * when a payload has lowered init's limit on open files (prlimit(2) asks for the same user only). */
int each_process(const struct init *init, void (*visit)(const struct init *, pid_t, void *), void *data);

#endif
