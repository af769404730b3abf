/* The supervisor's part in a sandbox's network, and in the services outside that it needs. */
#ifndef NETWORK_H
#define NETWORK_H

#include <poll.h>

#include "capture.h"
#include "denials.h"
#include "forward.h"
#include "guard.h"
#include "helper.h"
#include "join.h"
#include "netlink.h"

#define MAX_SERVICES 8
#define MAX_SOCKETS 4 /* of one service */
/* The join, who tells of the host's addresses, the forwarder, the private network that it is on, and services. */
#define NETWORK_POLLS (4 + MAX_SERVICES)

struct text;
struct supervisor;

struct service {
    const struct record *record;
    struct guard guard;
    bool started, ready, dead;
    unsigned asking, told; /* the round that it is asked for, 0: none; and the last that it has answered */
};

struct published {
    struct forward_order order;
    int fd; /* bound, until the forwarder has it */
};

struct network {
    bool used, joined, released;
    struct service services[MAX_SERVICES];
    unsigned count;
    struct join join;
    struct forwarder forwarder;
    struct capture capture;
    int pcap; /* the file for it, or -1 */
    struct published published[MAX_PUBLISHED];
    unsigned published_count;
    int sockets[MAX_SERVICES][MAX_SOCKETS]; /* of each service, from the join, until it has them */
    unsigned given[MAX_SERVICES];
    int route, nft;    /* netlink in the sandbox's network namespace */
    int life;          /* of the private network: readable when that is gone; a lease, or -1 */
    int watch;         /* tells when the host's addresses change */
    unsigned host_sets; /* which sets have them (host_fill) */
    int64_t patience;  /* CLOCK_MONOTONIC, ns: when what is not ready by then never will be; 0: nothing is waited for */
    const char *died;  /* the first service that ended too early, */
    char why[700];     /* and how */
    struct denials denials;
    unsigned round;    /* of asking services for what they have to tell; the last one */
    const char *device; /* that everything goes through, or NULL */
};

void network_clear(struct network *network);

/* Is the network namespace a new one? Before anything is done in it. 0, or -1 with the failure filled. */
int network_check(struct supervisor *s);

/* Start whatever the plan asks for; the payload waits for it. 0, or -1 with the failure filled. */
int network_start(struct supervisor *s);

/* Fill as many of these as there are, at most NETWORK_POLLS, and serve them. */
unsigned network_poll(const struct supervisor *s, struct pollfd *polls);
void network_serve(struct supervisor *s, const struct pollfd *polls);

/* Whatever waits for too long; and when to look again, CLOCK_MONOTONIC in ns. */
void network_check_time(struct supervisor *s, int64_t time);
int64_t network_next(const struct supervisor *s);

/* Have services say all that they have to tell until now: a number, never 0, that network_has_told() takes. A service
 * is asked once it has answered what it was asked before: signals that come together are one. */
unsigned network_ask(struct supervisor *s);
bool network_has_told(const struct supervisor *s, unsigned round);

/* Requests to publish a port, and to do so no longer: 0, or an error number; and the event that answers one. */
int network_publish(struct supervisor *s, const struct record *record);
int network_unpublish(struct supervisor *s, const struct record *record);
void network_answer(const struct network *network, int32_t id, int error, struct text *text);

/* Have who looks at a kept run know which there are. */
void network_log_ports(const struct supervisor *s);

/* The ports that are published, as a JSON list. */
void network_ports(const struct network *network, struct text *text);

/* What of it belongs into a result, as members of a JSON object that begin with a comma; what rules refused is known
 * from then on. */
void network_report(struct supervisor *s, struct text *text);

/* End all services, and wait until they are gone. */
void network_end(struct supervisor *s);

#endif
