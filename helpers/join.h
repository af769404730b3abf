/* The join: a child of the supervisor's that enters the user and network namespaces of a sandbox. */
#ifndef JOIN_H
#define JOIN_H

#include "helper.h"

struct join {
    pid_t pid;  /* -1: none */
    int socket; /* of messages: MSG_SOCKET for each that was made, then MSG_JOINED or MSG_FAILED */
};

/* Start one, which makes the plan's sockets, two of netlink (routes, index -1; and netfilter, where there are rules),
 * bridges and the addresses of lo, and loads the rules. 0, or -1 with *failure filled. */
int join_start(const struct plan *plan, int userns, int netns, struct join *join, struct failure *failure);

void join_end(struct join *join);

#endif
