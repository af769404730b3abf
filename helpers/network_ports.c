/* Ports that are published, and no longer, while the sandbox is there. Those that the plan asks for are network.c's,
 * and what passes through them the forwarder's.
 */

#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "report.h"
#include "supervisor.h"

/* Nothing is half-made: what could be bound and is not forwarded is closed again. */
static int publish(struct supervisor *s, const struct record *record)
{
    struct network *network = &s->network;
    struct published *port = &network->published[network->published_count];
    struct forward_order order;

    if (s->closing || s->init_dead || s->init.netns < 0 || (network->used && !network->released))
        return EBUSY;
    if (network->published_count == MAX_PUBLISHED)
        return E2BIG;
    if (forward_read(&order, record, 1) < 0)
        return errno;
    int fd cleanup_fd = forward_bind(&order);
    if (fd < 0 || (network->forwarder.pid <= 0 &&
                   forward_start(s->plan, s->init.userns, s->init.netns, &network->forwarder) < 0))
        return errno;
    if (forward_add(&network->forwarder, &order, fd) < 0)
        return errno;
    *port = (struct published){.order = order, .fd = -1};
    network->published_count++;
    network->used = network->joined = network->released = true; /* it is looked after from now on */
    return 0;
}

static int unpublish(struct network *network, const struct record *record)
{
    struct forward_order order;

    if (forward_read(&order, record, 1) < 0)
        return errno;
    for (unsigned i = 0; i < network->published_count; i++) {
        struct published *port = &network->published[i];
        if (port->order.datagrams != order.datagrams || port->order.port != order.port ||
            memcmp(&port->order.outside, &order.outside, sizeof(order.outside)) != 0)
            continue;
        if (network->forwarder.pid > 0 && forward_remove(&network->forwarder, &port->order) < 0)
            return errno;
        memmove(port, port + 1, (--network->published_count - i) * sizeof(*port));
        return 0;
    }
    return ENOENT;
}

/* Who looks at a kept run is told which there are. */
void network_log_ports(const struct supervisor *s)
{
    struct text text cleanup_text = {0};

    if (s->log < 0)
        return;
    text_add(&text, "{\"event\":\"ports\",\"ports\":");
    network_ports(&s->network, &text);
    text_add(&text, "}");
    supervisor_log(s, &text);
}

int network_publish(struct supervisor *s, const struct record *record)
{
    int error = publish(s, record);

    if (!error)
        network_log_ports(s);
    return error;
}

int network_unpublish(struct supervisor *s, const struct record *record)
{
    int error = unpublish(&s->network, record);

    if (!error)
        network_log_ports(s);
    return error;
}

void network_answer(const struct network *network, int32_t id, int error, struct text *text)
{
    text_add(text, "{\"event\":\"ports\",\"id\":%d,\"errno\":%d,\"ports\":", id, error);
    network_ports(network, text);
    text_add(text, "}");
}

void network_ports(const struct network *network, struct text *text)
{
    char address[INET6_ADDRSTRLEN];

    text_add(text, "[");
    for (unsigned i = 0; i < network->published_count; i++) {
        const struct forward_order *order = &network->published[i].order;
        const struct sockaddr_storage *outside = &order->outside.storage;
        const void *bytes = outside->ss_family == AF_INET ? (const void *)&((const struct sockaddr_in *)outside)->sin_addr
                                                          : &((const struct sockaddr_in6 *)outside)->sin6_addr;
        inet_ntop(outside->ss_family, bytes, address, sizeof(address));
        text_add(text, "%s[\"%s\",\"%s\",%u,%u]", i ? "," : "", order->datagrams ? "udp" : "tcp", address,
                 forward_port(order), order->port);
    }
    text_add(text, "]");
}
