/* Ports of the host that lead into a sandbox's network namespace. */
#ifndef FORWARD_H
#define FORWARD_H

#include "helper.h"
#include "netlink.h"

#define MAX_PUBLISHED 128

struct forwarder {
    pid_t pid; /* our child, -1: none */
    int life;  /* a socket that ends with it */
    struct forward_counts *counts; /* its own, to be looked at; NULL: never started */
};

struct forward_counts {
    int64_t accepted; /* connections, and senders of datagrams */
};

/* One port: what a PUBLISH record says. Of two addresses the first is IPv4. */
struct forward_order {
    bool datagrams;
    uint16_t port; /* inside */
    uint32_t mark; /* of what is forwarded; 0: there is no way out that it could be taken for */
    struct address outside, inside[2], gateway[2];
};

/* Fields of a record from this one on. 0, or -1 with errno. */
int forward_read(struct forward_order *order, const struct record *record, unsigned first);

/* Bind it on the host, and note the port, if any would do. A descriptor, or -1 with errno. */
int forward_bind(struct forward_order *order);

/* Which port of the host that is. */
uint16_t forward_port(const struct forward_order *order);

/* Start the process that forwards. 0, or -1 with errno. */
int forward_start(const struct plan *plan, int userns, int netns, struct forwarder *forwarder);

/* Have it forward what comes to a socket that was bound, or no longer. 0, or -1 with errno; the socket stays the
 * caller's. */
int forward_add(const struct forwarder *forwarder, const struct forward_order *order, int fd);
int forward_remove(const struct forwarder *forwarder, const struct forward_order *order);

/* Its counts stay. */
void forward_end(struct forwarder *forwarder);

#endif
