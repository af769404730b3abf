/* The few messages of rtnetlink(7) and nfnetlink that a sandbox's network takes, and IP addresses. */
#ifndef NETLINK_H
#define NETLINK_H

#include <stdbool.h>
#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

#include "plan.h"

struct address {
    struct sockaddr_storage storage;
    socklen_t size;
};

/* From text and port. 0, or -1 with errno. */
int address_read(struct address *address, const char *text, uint16_t port);

/* Give a device the address of an ADDRESS record, and bring it up; and the default route by its gateway, if it
 * has one. What is there already is fine. 0, or -1 with errno. */
int address_add(int route, const struct record *record);

/* The number of a device in the network namespace that the socket is of, which need not be ours. -1 with errno. */
int device_index(int route, const char *device);

/* Bring a device up, with no addresses of IPv6 that nobody gave it. 0, or -1 with errno. */
int link_start(int route, const char *device);

/* Have packets with this mark stay in the network namespace, whatever they are for: by a rule to a routing table
 * of its own, with one local route. 0, or -1 with errno. */
int route_marked(int route, unsigned mark);

/* The same of what comes from this port. */
int route_port(int route, bool datagrams, uint16_t port);

/* --- the host's own addresses ---------------------------------------------------------------- */

/* Tells of changes: a socket that becomes readable. -1 with errno. */
int host_watch(void);

/* Read what it tells, and forget it. */
void host_drain(int watch);

/* Fill sets of a HOST_SETS record, through netlink sockets of outside and of the sandbox's network namespace, with
 * all that the host takes for its own, and clear the others. *used says which are in use: 0 at first. Never is any
 * address in none of them meanwhile that was in one and still is the host's. 0, or -1 with errno. */
int host_fill(const struct record *record, int nft, unsigned *used);

/* --- what went through ----------------------------------------------------------------------- */

struct traffic {
    int64_t received, sent; /* bytes, of the device; -1: not known */
};

void traffic_read(int route, const char *device, struct traffic *traffic);

/* Packets that a named counter of a table (inet) has seen; -1: not known. */
int64_t counter_read(int nft, const char *table, const char *name);

/* What rules did not let through, as they note it in a set. */
struct refused {
    char address[INET6_ADDRSTRLEN];
    unsigned protocol, port;
    int64_t packets; /* -1: not known */
};

/* Call for all that is in such a set of a table (inet). */
void refused_read(int nft, const char *table, const char *set, void (*each)(void *, const struct refused *), void *data);

#endif
