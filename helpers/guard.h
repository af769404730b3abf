/* A guard: the process that a program outside of the sandbox lives under. */
#ifndef GUARD_H
#define GUARD_H

#include "helper.h"

struct guard_order {
    const struct plan *plan;
    const struct record *service;
    const int *fds; /* that it gets, from 3 on */
    unsigned count;
    int userns, netns; /* of the sandbox; netns may be -1 */
};

struct guard {
    pid_t pid;  /* our child, -1: none */
    int socket; /* of messages; its end is the guard's */
};

/* Start a guard, which starts the service. It is the first process of a pid namespace, so that whoever ends it,
 * by whatever signal, ends all of it; it ends when we do. 0, or -1 with *failure filled. */
int guard_start(const struct guard_order *order, struct guard *guard, struct failure *failure);

/* Have the service say what it has to (SIGUSR1). */
void guard_ask(const struct guard *guard);

/* End it, and wait until all of it is gone. */
void guard_end(struct guard *guard);

/* Become who the sandbox's user is, where our own ids have no name in the user namespace that we are in. */
int take_ids(const struct plan *plan);

#endif
