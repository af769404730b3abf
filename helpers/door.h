/* Where others of the caller's user ask a supervisor for what may change while a command runs: ports. */
#ifndef DOOR_H
#define DOOR_H

#include <poll.h>

struct supervisor;

struct door {
    int listening, visitor; /* -1: none */
};

#define DOOR_POLLS 2

/* Fill as many of these as there are DOOR_POLLS, and serve them. */
void door_poll(const struct door *door, struct pollfd *polls);
void door_serve(struct supervisor *s, const struct pollfd *polls);

void door_end(struct door *door);

#endif
