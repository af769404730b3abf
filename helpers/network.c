/* The network of a sandbox, from outside: services are started, and the payload is released when all of them are
 * ready and the rules are in force. Later their end is told, and the host's addresses are followed. What is
 * done where is the plan's to say.
 */

#include "network.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "network_parts.h"
#include "report.h"
#include "supervisor.h"

/* For all of it to be ready: a machine may have much else to do. */
#define PATIENCE (30 * SECOND)
/* Of one service. */
#define MESSAGES_AT_ONCE 64

void network_clear(struct network *network)
{
    memset(network, 0, sizeof(*network));
    network->route = network->nft = network->watch = network->life = -1;
    network->join = (struct join){.pid = -1, .socket = -1};
    network->forwarder = (struct forwarder){.pid = -1, .life = -1};
    network->capture = (struct capture){.pid = -1, .life = -1};
    network->pcap = -1;
    for (unsigned i = 0; i < MAX_SERVICES; i++) {
        network->services[i].guard = (struct guard){.pid = -1, .socket = -1};
        for (unsigned k = 0; k < MAX_SOCKETS; k++)
            network->sockets[i][k] = -1;
    }
}

/* --- starting ------------------------------------------------------------------------------- */

int network_check(struct supervisor *s)
{
    struct stat ours, theirs;

    s->network.used = init_waits(s->plan);
    if (!s->network.used)
        return 0;
    if (s->init.netns < 0 || stat("/proc/self/ns/net", &ours) < 0 || fstat(s->init.netns, &theirs) < 0)
        return fail(&s->failure, errno, NULL, "cannot set up the network: there is no network namespace to do it in");
    if (ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev)
        return fail(&s->failure, EINVAL, NULL, "cannot set up the network: the network namespace is not a new one");
    return 0;
}

static unsigned wanted_sockets(const struct supervisor *s, const struct service *service)
{
    const struct record *record = NULL;
    unsigned count = 0;

    while ((record = plan_next(s->plan, KIND_SOCKET, record)))
        count += strcmp(record_text(record, 0), service_name(service)) == 0;
    return count;
}

/* Of its sockets those that are there already. */
static int give_sockets(struct supervisor *s, unsigned i)
{
    struct network *network = &s->network;
    const struct record *record = NULL;

    while ((record = plan_next(s->plan, KIND_SOCKET, record))) {
        if (record_int(record, 1) != SOCKET_GIVEN || network->given[i] == MAX_SOCKETS ||
            strcmp(record_text(record, 0), service_name(&network->services[i])) != 0)
            continue;
        int fd = fcntl(*network_lease(s, record, 3), F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
            return network_cannot(&s->failure, errno, record);
        network->sockets[i][network->given[i]++] = fd;
    }
    return 0;
}

/* As soon as there is everything that it gets. */
static int start_service(struct supervisor *s, unsigned i)
{
    struct network *network = &s->network;
    struct service *service = &network->services[i];
    struct guard_order order = {
        .plan = s->plan,
        .service = service->record,
        .fds = network->sockets[i],
        .count = network->given[i],
        .userns = s->init.userns,
        .netns = s->init.netns,
    };

    service->started = true;
    int result = guard_start(&order, &service->guard, &s->failure);
    for (unsigned k = 0; k < network->given[i]; k++)
        close_fd(&network->sockets[i][k]);
    return result;
}

/* A port in use is an error before anything is started. */
static int bind_ports(struct supervisor *s)
{
    struct network *network = &s->network;
    const struct record *record = NULL;

    while ((record = plan_next(s->plan, KIND_PUBLISH, record))) {
        struct published *port = &network->published[network->published_count];
        if (network->published_count == MAX_PUBLISHED)
            return network_cannot(&s->failure, E2BIG, record);
        if (forward_read(&port->order, record, 0) < 0 || (port->fd = forward_bind(&port->order)) < 0)
            return network_cannot(&s->failure, errno, record);
        network->published_count++;
    }
    return 0;
}

int network_start(struct supervisor *s)
{
    struct network *network = &s->network;
    const struct record *record = NULL, *address = NULL;

    if (!network->used)
        return 0;
    network->patience = now() + PATIENCE;
    while ((record = plan_next(s->plan, KIND_SERVICE, record))) {
        if (network->count == MAX_SERVICES)
            return fail(&s->failure, E2BIG, record, "cannot %s: too many services", record_description(record));
        network->services[network->count++].record = record;
    }
    while ((address = plan_next(s->plan, KIND_ADDRESS, address)))
        if (strcmp(record_text(address, 0), "lo") != 0)
            network->device = record_text(address, 0);
    if (bind_ports(s) < 0)
        return -1;
    for (unsigned i = 0; i < network->count; i++)
        if (give_sockets(s, i) < 0)
            return -1;
    /* That first, and with it nft(8): a backend is no sooner ready by what it would have to wait for then. */
    if (join_start(s->plan, s->init.userns, s->init.netns, &network->join, &s->failure) < 0)
        return -1;
    for (unsigned i = 0; i < network->count; i++)
        if (wanted_sockets(s, &network->services[i]) == network->given[i] && start_service(s, i) < 0)
            return -1;
    return 0;
}

/* --- ready ---------------------------------------------------------------------------------- */

static void release_when_ready(struct supervisor *s)
{
    struct network *network = &s->network;

    if (!network->joined || network->released || s->failed || s->closing)
        return;
    for (unsigned i = 0; i < network->count; i++)
        if (!network->services[i].ready)
            return;
    if (network_finish(s) < 0) {
        network_give_up(s);
        return;
    }
    network->released = true;
    network->patience = 0;
    init_send(s, MSG_RELEASE, -1, 0); /* there is room: nothing was sent before */
}

/* --- messages ------------------------------------------------------------------------------- */

static void take_socket(struct supervisor *s, const struct message *message, int *fd)
{
    struct network *network = &s->network;

    if (message->a < 0) {
        int *place = message->b == SOCKET_ROUTE ? &network->route : &network->nft;
        close_fd(place);
        *place = *fd;
        *fd = -1;
        return;
    }
    if ((uint64_t)message->a >= s->plan->count)
        return;
    const char *name = record_text(&s->plan->records[message->a], 0);
    for (unsigned i = 0; i < network->count; i++)
        if (strcmp(name, service_name(&network->services[i])) == 0 && network->given[i] < MAX_SOCKETS) {
            network->sockets[i][network->given[i]++] = *fd;
            *fd = -1;
        }
    for (unsigned i = 0; i < network->count; i++) {
        struct service *service = &network->services[i];
        bool complete = network->given[i] > 0 && network->given[i] == wanted_sockets(s, service);
        if (!service->started && complete && start_service(s, i) < 0)
            network_give_up(s);
    }
}

static void on_join(struct supervisor *s, const struct message *message, const char *text, int *fds)
{
    switch (message->type) {
    case MSG_SOCKET:
        take_socket(s, message, &fds[0]);
        break;
    case MSG_JOINED:
        s->network.joined = true;
        break;
    default:
        fail(&s->failure, (int)message->a,
             message->b >= 0 && (uint64_t)message->b < s->plan->count ? &s->plan->records[message->b] : NULL, "%s",
             text);
        network_give_up(s);
    }
}

/* One message of a guard or the join. False: there are no more, now or ever. */
static bool read_message(struct supervisor *s, int socket, struct service *service)
{
    static char buffer[MESSAGE_MAX];
    struct message message;
    int fds[MESSAGE_FDS];
    struct pollfd polled = {.fd = socket, .events = POLLIN};

    if (socket < 0 || poll(&polled, 1, 0) <= 0)
        return false;
    if (message_receive(socket, buffer, fds) <= 0) {
        if (service) {
            network_on_death(s, service, "was killed together with its guard");
        } else {
            if (!s->network.joined && !s->failed) {
                fail(&s->failure, ECHILD, NULL, "cannot set up the network: the join was killed");
                network_give_up(s);
            }
            join_end(&s->network.join);
        }
        return false;
    }
    memcpy(&message, buffer, sizeof(message));
    char *text = buffer + sizeof(message);
    text[message.size ? message.size - 1 : 0] = 0;
    if (service)
        network_on_guard(s, service, &message, text);
    else
        on_join(s, &message, text, fds);
    for (int i = 0; i < MESSAGE_FDS; i++)
        close_fd(&fds[i]);
    return true;
}

/* As many as there are, and then the rest of the loop has its turn: a payload may have a service say more than we
 * can read, and the clock is not to wait for that. */
static void read_messages(struct supervisor *s, int socket, struct service *service)
{
    for (int i = 0; i < MESSAGES_AT_ONCE && read_message(s, socket, service); i++)
        ;
}

/* Published ports lead nowhere from now on. */
static void lose_forwarder(struct supervisor *s)
{
    forward_end(&s->network.forwarder);
    s->network.published_count = 0;
    if (s->closing || s->init_dead)
        return;
    network_log_ports(s);
    if (!s->network.died) {
        s->network.died = "forwarder";
        snprintf(s->network.why, sizeof(s->network.why), "was killed");
    }
    network_tell_death(s, "forwarder", "was killed");
}

/* It is cut off from now on, as its device went with the network; it may be a long while till it notices. */
static void lose_private(struct supervisor *s)
{
    const struct record *record = plan_find(s->plan, KIND_VETH);

    s->network.life = -1;
    if (s->closing || s->init_dead)
        return;
    if (!s->network.died) {
        s->network.died = "network";
        snprintf(s->network.why, sizeof(s->network.why), "ended: cannot %.300s any more", record_description(record));
    }
    network_tell_death(s, "network", "ended");
}

static void follow_host(struct supervisor *s)
{
    host_drain(s->network.watch);
    if (network_fill_host(s) < 0) {
        close_fd(&s->network.watch);
        network_give_up(s);
    }
}

/* --- the supervisor's loop ------------------------------------------------------------------ */

/* None where there is nothing: poll(2) takes no more than may be open. */
unsigned network_poll(const struct supervisor *s, struct pollfd *polls)
{
    const struct network *network = &s->network;

    if (!network->used)
        return 0;
    polls[0] = (struct pollfd){.fd = network->join.socket, .events = POLLIN};
    polls[1] = (struct pollfd){.fd = s->init_dead ? -1 : network->watch, .events = POLLIN};
    polls[2] = (struct pollfd){.fd = network->forwarder.life, .events = POLLIN};
    polls[3] = (struct pollfd){.fd = network->life, .events = POLLIN};
    for (unsigned i = 0; i < network->count; i++)
        polls[4 + i] = (struct pollfd){.fd = network->services[i].guard.socket, .events = POLLIN};
    return 4 + network->count;
}

void network_serve(struct supervisor *s, const struct pollfd *polls)
{
    struct network *network = &s->network;

    if (!network->used)
        return;
    if (polls[0].revents)
        read_messages(s, network->join.socket, NULL);
    for (unsigned i = 0; i < network->count; i++)
        if (polls[4 + i].revents)
            read_messages(s, network->services[i].guard.socket, &network->services[i]);
    if (polls[1].revents)
        follow_host(s);
    if (polls[2].revents)
        lose_forwarder(s);
    if (polls[3].revents)
        lose_private(s);
    release_when_ready(s);
}

void network_check_time(struct supervisor *s, int64_t time)
{
    struct network *network = &s->network;

    if (!network->patience || time < network->patience || s->failed)
        return;
    network->patience = 0;
    for (unsigned i = 0; i < network->count; i++)
        if (!network->services[i].ready) {
            fail(&s->failure, ETIMEDOUT, network->services[i].record, "cannot %s: it was not ready after %d s",
                 record_description(network->services[i].record), (int)(PATIENCE / SECOND));
            network_give_up(s);
            return;
        }
    fail(&s->failure, ETIMEDOUT, NULL, "cannot set up the network: it took more than %d s", (int)(PATIENCE / SECOND));
    network_give_up(s);
}

int64_t network_next(const struct supervisor *s)
{
    return s->network.patience ? s->network.patience : INT64_MAX;
}

/* --- the end ---------------------------------------------------------------------------------- */

void network_end(struct supervisor *s)
{
    struct network *network = &s->network;

    for (unsigned i = 0; i < MAX_SERVICES; i++) {
        guard_end(&network->services[i].guard);
        for (unsigned k = 0; k < MAX_SOCKETS; k++)
            close_fd(&network->sockets[i][k]);
    }
    denials_end(&network->denials);
    capture_end(&network->capture);
    if (capture_gap(&network->capture) && s->one_shot && s->verbosity >= 1)
        report_say(2, "the capture is not whole: %s", capture_gap(&network->capture));
    close_fd(&network->pcap);
    join_end(&network->join);
    forward_end(&network->forwarder);
    while (network->published_count > 0)
        close_fd(&network->published[--network->published_count].fd);
    close_fd(&network->route);
    close_fd(&network->nft);
    close_fd(&network->watch);
}
