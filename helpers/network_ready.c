/* What is done in a sandbox's network namespace once its services are ready, and before the payload is released:
 * devices and addresses, ports, and the host's addresses in the rules' sets.
 */

#include <errno.h>
#include <string.h>

#include "bridge.h"
#include "network_parts.h"
#include "rate.h"
#include "report.h"
#include "supervisor.h"

int *network_lease(struct supervisor *s, const struct record *record, unsigned field)
{
    static int none = -1;
    int64_t index = record_int(record, field);

    return index >= 0 && index < MAX_LEASES ? &s->leases[index] : &none;
}

int network_cannot(struct failure *failure, int error, const struct record *record)
{
    return fail(failure, error, record, "cannot %s: %s", record_description(record), strerror(error));
}

int network_fill_host(struct supervisor *s)
{
    const struct record *record = plan_find(s->plan, KIND_HOST_SETS);

    if (record && host_fill(record, s->network.nft, &s->network.host_sets) < 0)
        return network_cannot(&s->failure, errno, record);
    return 0;
}

static int forward_ports(struct supervisor *s)
{
    struct network *network = &s->network;
    const struct record *record = plan_find(s->plan, KIND_PUBLISH);

    if (network->published_count > 0 &&
        forward_start(s->plan, s->init.userns, s->init.netns, &network->forwarder) < 0)
        return network_cannot(&s->failure, errno, record);
    for (unsigned i = 0; i < network->published_count; i++, record = plan_next(s->plan, KIND_PUBLISH, record)) {
        struct published *port = &network->published[i];
        if (forward_add(&network->forwarder, &port->order, port->fd) < 0)
            return network_cannot(&s->failure, errno, record);
        close_fd(&port->fd);
        if (s->one_shot && s->verbosity >= 1 && record_int(record, 2) == 0) /* which nobody could know before */
            report_say(2, "%s: it is port %u", record_description(record), forward_port(&port->order));
    }
    return 0;
}

static int capture(struct supervisor *s)
{
    const struct record *record = plan_find(s->plan, KIND_PCAP);
    struct network *network = &s->network;

    if (!record)
        return 0;
    if (capture_start(s->plan, network->pcap, record_int(record, 1), s->init.userns, s->init.netns,
                      &network->capture) < 0)
        return fail(&s->failure, errno, record, "cannot capture the network's traffic: %s", strerror(errno));
    close_fd(&network->pcap);
    return 0;
}

/* Onto the private network. */
static int plug_in(struct supervisor *s)
{
    const struct record *record = plan_find(s->plan, KIND_VETH);

    if (!record)
        return 0;
    if (veth_add(*network_lease(s, record, 0), s->network.route, s->init.netns, record) < 0)
        return network_cannot(&s->failure, errno, record);
    close_fd(network_lease(s, record, 0)); /* it would keep the network's namespace when all else of it is gone */
    s->network.life = *network_lease(s, record, 1);
    return 0;
}

static int cannot_rate(struct failure *failure, int error, const struct record *record)
{
    if (error != EOPNOTSUPP && error != ENOENT)
        return network_cannot(failure, error, record);
    return fail(failure, error, record, "cannot %s: the kernel lacks a part of tc; try: sudo modprobe -a " RATE_MODULES,
                record_description(record));
}

int network_finish(struct supervisor *s)
{
    struct network *network = &s->network;
    const struct record *record = NULL;

    if (plug_in(s) < 0)
        return -1;
    while ((record = plan_next(s->plan, KIND_ADDRESS, record)))
        if (strcmp(record_text(record, 0), "lo") != 0 && address_add(network->route, record) < 0)
            return network_cannot(&s->failure, errno, record);
    while ((record = plan_next(s->plan, KIND_RATE, record)))
        if (rate_send(network->route, record_text(record, 0), record_int(record, 1)) < 0 ||
            rate_receive(network->route, record_text(record, 0), record_int(record, 1)) < 0)
            return cannot_rate(&s->failure, errno, record);
    if (capture(s) < 0 || forward_ports(s) < 0)
        return -1;
    /* Who is told of changes before looking misses none. */
    if (plan_find(s->plan, KIND_HOST_SETS) && (network->watch = host_watch()) < 0)
        return fail(&s->failure, errno, NULL, "cannot watch the host's addresses: %s", strerror(errno));
    return network_fill_host(s);
}
