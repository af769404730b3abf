/* The forwarder: a process in the user and network namespaces of a sandbox, which has sockets of the host's that
 * listen, and connects to the inside for each connection there, or each sender of datagrams. Bytes are moved by
 * splice(2) and never looked at.
 *
 * Who connects inside has the address of who connected outside (IP_TRANSPARENT, ip(7)), so that a server sees its
 * real clients. What the server answers to such an address would leave by the device: a mark, which rules keep on
 * the connection, leads it back by a routing table of ours; without a device, the port that it comes from does.
 * Clients on the host's loopback, or known by one of its links alone, come from the gateway's address: many a
 * server trusts its own loopback.
 *
 * Ports come and go while it runs: the supervisor binds them, which is in the host's namespaces, and orders.
 */

#include "forward.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "netlink.h"
#include "supervisor.h"
#include "sys.h"

#define BACKLOG 1024
#define CHUNK (1 << 20)
#define EVENTS 64
#define MAX_SENDERS 256
#define PAUSE_MS 100 /* between two looks whether there is room again */
#define IDLE (60 * SECOND)
#define DATAGRAM_MAX 65536
#define PATIENCE (5 * SECOND) /* for an order to be obeyed */

enum watched_kind { LISTENER, SENDER, LINK };

/* What epoll tells of. */
struct watched {
    enum watched_kind kind;
};

struct listener {
    struct watched watched;
    int fd; /* -1: free */
    struct forward_order order;
};

struct flow {
    int pipe[2];
    size_t held;
    bool ended, shut;
};

struct link {
    struct watched watched;
    int fd[2];
    struct flow flow[2]; /* from fd[i] to the other */
    struct forward_order order;
    struct address from;
    bool connected, second; /* second: the other family is being tried */
    bool over;
    struct link *next; /* of those that are over */
};

struct sender {
    struct watched watched;
    int fd; /* -1: free */
    struct listener *listener;
    struct address from;
    int64_t last; /* CLOCK_MONOTONIC, ns */
};

struct forwarding {
    int epoll, life, route;
    struct listener listeners[MAX_PUBLISHED];
    bool marking; /* answers are led back by the mark */
    bool full; /* who connects waits until there is room */
    struct forward_counts *counts;
    struct sender senders[MAX_SENDERS];
    struct link *over;
};

/* --- addresses ------------------------------------------------------------------------------ */

static bool is_loopback(const struct address *address)
{
    const struct sockaddr_in *four = (const struct sockaddr_in *)&address->storage;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&address->storage;

    if (address->storage.ss_family == AF_INET)
        return ntohl(four->sin_addr.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
}

/* On which of the host's links an address of this kind is, nothing inside could say. */
static bool is_link_local(const struct address *address)
{
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&address->storage;

    return address->storage.ss_family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&six->sin6_addr);
}

/* A socket inside that is about to be connected, with the address of `from`, or the gateway's. */
static int connect_inside(const struct forward_order *order, int family, int type, const struct address *from)
{
    const int one = 1, mark = (int)order->mark;
    const struct address *to = &order->inside[family == AF_INET6];
    struct address source = order->gateway[family == AF_INET6];

    if (from->storage.ss_family == family && !is_loopback(from) && !is_link_local(from))
        source = *from;
    int fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int level = family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
    int option = family == AF_INET ? IP_TRANSPARENT : IPV6_TRANSPARENT;
    if (setsockopt(fd, level, option, &one, sizeof(one)) < 0 ||
        (mark && setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0))
        goto failed;
    if (bind(fd, (struct sockaddr *)&source.storage, source.size) < 0) {
        /* the port is taken by an earlier one of the same client's: any other will do */
        ((struct sockaddr_in *)&source.storage)->sin_port = 0;
        if (bind(fd, (struct sockaddr *)&source.storage, source.size) < 0)
            goto failed;
    }
    if (connect(fd, (const struct sockaddr *)&to->storage, to->size) < 0 && errno != EINPROGRESS)
        goto failed;
    return fd;
failed:
    close_fd(&fd);
    return -1;
}

/* --- connections ---------------------------------------------------------------------------- */

static int watch(const struct forwarding *f, int fd, uint32_t events, void *data)
{
    struct epoll_event event = {.events = events, .data.ptr = data};

    return epoll_ctl(f->epoll, EPOLL_CTL_ADD, fd, &event);
}

/* Freed once all events that may be about it are served. */
static void end_link(struct forwarding *f, struct link *link)
{
    if (link->over)
        return;
    for (int i = 0; i < 2; i++) {
        close_fd(&link->fd[i]);
        close_fd(&link->flow[i].pipe[0]);
        close_fd(&link->flow[i].pipe[1]);
    }
    link->over = true;
    link->next = f->over;
    f->over = link;
}

/* Its end may come as a reset: the other side is told the same way. */
static void break_link(struct forwarding *f, struct link *link)
{
    const struct linger reset = {.l_onoff = 1};

    for (int i = 0; i < 2 && !link->over; i++)
        setsockopt(link->fd[i], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    end_link(f, link);
}

/* Move what can be moved now. -1: the connection is broken. */
static int pump(struct link *link, int from)
{
    struct flow *flow = &link->flow[from];
    bool moved;

    do {
        moved = false;
        if (!flow->ended && flow->held < CHUNK) {
            ssize_t n = splice(link->fd[from], NULL, flow->pipe[1], NULL, CHUNK, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
            if (n < 0 && errno != EAGAIN && errno != EINTR)
                return -1;
            flow->ended = n == 0;
            flow->held += n > 0 ? (size_t)n : 0;
            moved |= n > 0;
        }
        if (flow->held > 0) {
            ssize_t n = splice(flow->pipe[0], NULL, link->fd[!from], NULL, flow->held, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
            if (n < 0 && errno != EAGAIN && errno != EINTR)
                return -1;
            flow->held -= n > 0 ? (size_t)n : 0;
            moved |= n > 0;
        }
    } while (moved);
    if (flow->ended && flow->held == 0 && !flow->shut) {
        flow->shut = true;
        if (shutdown(link->fd[!from], SHUT_WR) < 0)
            return -1;
    }
    return 0;
}

/* A server that listens on one family only is found by the other. */
static int try_other(struct forwarding *f, struct link *link)
{
    int family = link->from.storage.ss_family == AF_INET ? AF_INET6 : AF_INET;

    if (link->second)
        return -1;
    link->second = true;
    close_fd(&link->fd[1]);
    link->fd[1] = connect_inside(&link->order, family, SOCK_STREAM, &link->from);
    return link->fd[1] < 0 ? -1 : watch(f, link->fd[1], EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, link);
}

static void serve_link(struct forwarding *f, struct link *link)
{
    int error = 0;
    socklen_t size = sizeof(error);
    struct pollfd polled = {.fd = link->fd[1], .events = POLLOUT};

    if (link->over)
        return;
    if (!link->connected) {
        if (poll(&polled, 1, 0) <= 0)
            return;
        if (getsockopt(link->fd[1], SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error) {
            if (try_other(f, link) < 0)
                break_link(f, link);
            return;
        }
        link->connected = true;
    }
    if (pump(link, 0) < 0 || pump(link, 1) < 0)
        break_link(f, link);
    else if (link->flow[0].shut && link->flow[1].shut)
        end_link(f, link);
}

/* Who waits at a listener while nothing more can be opened would be told of again and again. */
static void set_full(struct forwarding *f, bool full)
{
    f->full = full;
    for (unsigned i = 0; i < MAX_PUBLISHED; i++) {
        struct listener *listener = &f->listeners[i];
        struct epoll_event event = {.events = full ? 0 : EPOLLIN, .data.ptr = listener};
        if (listener->fd >= 0 && !listener->order.datagrams)
            epoll_ctl(f->epoll, EPOLL_CTL_MOD, listener->fd, &event);
    }
}

static void accept_one(struct forwarding *f, const struct listener *listener)
{
    struct link *link = calloc(1, sizeof(*link));

    if (!link) {
        set_full(f, true);
        return;
    }
    *link = (struct link){.watched = {LINK},
                          .fd = {-1, -1},
                          .flow = {{.pipe = {-1, -1}}, {.pipe = {-1, -1}}},
                          .order = listener->order,
                          .from = {.size = sizeof(link->from.storage)}};
    link->fd[0] = accept4(listener->fd, (struct sockaddr *)&link->from.storage, &link->from.size,
                          SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (link->fd[0] < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            set_full(f, true);
        free(link);
        return;
    }
    f->counts->accepted++;
    const uint32_t events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    link->fd[1] = connect_inside(&link->order, link->from.storage.ss_family, SOCK_STREAM, &link->from);
    if (pipe2(link->flow[0].pipe, O_CLOEXEC | O_NONBLOCK) < 0 || pipe2(link->flow[1].pipe, O_CLOEXEC | O_NONBLOCK) < 0 ||
        (link->fd[1] < 0 ? try_other(f, link) : watch(f, link->fd[1], events, link)) < 0 ||
        watch(f, link->fd[0], events, link) < 0)
        break_link(f, link);
}

/* --- datagrams ------------------------------------------------------------------------------ */

/* Where all are taken, the one that was silent for longest makes room: each question to a name server comes from
 * another port. */
static struct sender *sender_of(struct forwarding *f, struct listener *listener, const struct address *from)
{
    int64_t now_ = now();
    struct sender *free_ = NULL, *oldest = &f->senders[0];

    for (unsigned i = 0; i < MAX_SENDERS; i++) {
        struct sender *sender = &f->senders[i];
        if (sender->fd >= 0 && now_ - sender->last > IDLE)
            close_fd(&sender->fd);
        if (sender->fd < 0)
            free_ = free_ ? free_ : sender;
        else if (sender->listener == listener && sender->from.size == from->size &&
                 memcmp(&sender->from.storage, &from->storage, from->size) == 0)
            return sender;
        if (sender->last < oldest->last)
            oldest = sender;
    }
    if (!free_) {
        free_ = oldest;
        close_fd(&free_->fd);
    }
    f->counts->accepted++;
    *free_ = (struct sender){.watched = {SENDER}, .listener = listener, .from = *from};
    free_->fd = connect_inside(&listener->order, from->storage.ss_family, SOCK_DGRAM, from);
    if (free_->fd >= 0 && watch(f, free_->fd, EPOLLIN, free_) < 0)
        close_fd(&free_->fd);
    return free_->fd < 0 ? NULL : free_;
}

static void pass_in(struct forwarding *f, struct listener *listener)
{
    static char data[DATAGRAM_MAX];
    struct address from = {.size = sizeof(from.storage)};
    ssize_t n = recvfrom(listener->fd, data, sizeof(data), MSG_DONTWAIT, (struct sockaddr *)&from.storage, &from.size);
    struct sender *sender = n < 0 ? NULL : sender_of(f, listener, &from);

    if (!sender)
        return;
    sender->last = now();
    send(sender->fd, data, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void pass_out(struct sender *sender)
{
    static char data[DATAGRAM_MAX];

    if (sender->fd < 0)
        return;
    ssize_t n = recv(sender->fd, data, sizeof(data), MSG_DONTWAIT);
    if (n < 0)
        return;
    sender->last = now();
    sendto(sender->listener->fd, data, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL,
           (struct sockaddr *)&sender->from.storage, sender->from.size);
}

/* --- events --------------------------------------------------------------------------------- */

static void serve(struct forwarding *f, void *data)
{
    struct watched *watched = data;

    switch (watched->kind) {
    case LISTENER: {
        struct listener *listener = data;
        if (listener->fd < 0)
            break;
        if (listener->order.datagrams)
            pass_in(f, listener);
        else
            accept_one(f, listener);
        break;
    }
    case SENDER:
        pass_out(data);
        break;
    case LINK:
        serve_link(f, data);
        break;
    }
}

/* --- orders --------------------------------------------------------------------------------- */

static struct listener *find(struct forwarding *f, const struct forward_order *order)
{
    for (unsigned i = 0; i < MAX_PUBLISHED; i++) {
        struct listener *listener = &f->listeners[i];
        if (listener->fd >= 0 && listener->order.datagrams == order->datagrams &&
            memcmp(&listener->order.outside, &order->outside, sizeof(order->outside)) == 0)
            return listener;
    }
    return NULL;
}

/* How answers to addresses that are elsewhere find back: by a mark that rules keep on the connection, or (where
 * nothing leads out, so that nothing else can be meant) by the port that they come from. */
static int lead_back(struct forwarding *f, const struct forward_order *order)
{
    if (!order->mark)
        return route_port(f->route, order->datagrams, order->port);
    if (!f->marking && route_marked(f->route, order->mark) < 0)
        return -1;
    f->marking = true;
    return 0;
}

/* 0, or an errno; the descriptor is consumed. */
static int begin_forwarding(struct forwarding *f, const struct forward_order *order, int *fd)
{
    struct listener *place = NULL;

    for (unsigned i = 0; i < MAX_PUBLISHED && !place; i++)
        place = f->listeners[i].fd < 0 ? &f->listeners[i] : NULL;
    if (!place)
        return E2BIG;
    if (*fd < 0)
        return EMFILE;
    if (lead_back(f, order) < 0)
        return errno;
    *place = (struct listener){.watched = {LISTENER}, .fd = *fd, .order = *order};
    *fd = -1;
    if (watch(f, place->fd, f->full && !order->datagrams ? 0 : EPOLLIN, place) == 0)
        return 0;
    int error = errno;
    close_fd(&place->fd);
    return error;
}

/* Connections that are there go on until they end. */
static int end_forwarding(struct forwarding *f, const struct forward_order *order)
{
    struct listener *listener = find(f, order);

    if (!listener)
        return ENOENT;
    for (unsigned i = 0; i < MAX_SENDERS; i++)
        if (f->senders[i].fd >= 0 && f->senders[i].listener == listener)
            close_fd(&f->senders[i].fd);
    close_fd(&listener->fd);
    return 0;
}

/* Nobody there: the supervisor is gone. */
static void obey(struct forwarding *f)
{
    static char buffer[MESSAGE_MAX];
    struct message message, answer = {.type = MSG_FORWARDED};
    struct forward_order order;
    int fds[MESSAGE_FDS];

    if (message_receive(f->life, buffer, fds) <= 0)
        _exit(0);
    memcpy(&message, buffer, sizeof(message));
    if (message.size != sizeof(order))
        _exit(EXIT_OURS);
    memcpy(&order, buffer + sizeof(message), sizeof(order));
    answer.a = message.type == MSG_FORWARD ? begin_forwarding(f, &order, &fds[0]) : end_forwarding(f, &order);
    for (int i = 0; i < MESSAGE_FDS; i++)
        close_fd(&fds[i]);
    if (message_send(f->life, &answer, NULL, NULL, 0) < 0)
        _exit(0);
}

/* --- life ----------------------------------------------------------------------------------- */

static _Noreturn void loop(struct forwarding *f)
{
    struct epoll_event events[EVENTS];

    for (;;) {
        int count = epoll_wait(f->epoll, events, EVENTS, f->full ? PAUSE_MS : -1);
        if (count < 0 && errno != EINTR)
            _exit(EXIT_OURS);
        bool ordered = false;
        for (int i = 0; i < count; i++) {
            ordered |= !events[i].data.ptr;
            if (events[i].data.ptr)
                serve(f, events[i].data.ptr);
        }
        if (ordered) /* last: what it closes may have been told of */
            obey(f);
        if (f->full && (count == 0 || f->over))
            set_full(f, false);
        while (f->over) {
            struct link *link = f->over;
            f->over = link->next;
            free(link);
        }
    }
}

static int prepare(struct forwarding *f)
{
    struct rlimit files;

    f->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (f->epoll < 0 || watch(f, f->life, EPOLLIN, NULL) < 0)
        return -1;
    for (unsigned i = 0; i < MAX_SENDERS; i++)
        f->senders[i].fd = -1;
    for (unsigned i = 0; i < MAX_PUBLISHED; i++)
        f->listeners[i].fd = -1;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    return 0;
}

static _Noreturn void forward_main(const struct plan *plan, int userns, int netns, int life,
                                   struct forward_counts *counts)
{
    static struct forwarding f;
    struct message ready = {.type = MSG_FORWARDED};
    int null = open("/dev/null", O_RDWR), kept[] = {userns, netns, life};

    setsid();
    for (int i = 0; i < 3; i++)
        dup2(null, i);
    f.life = life;
    f.counts = counts;
    if (null < 0 || close_all_but(kept, 3) < 0 || chdir("/") < 0 || setns(userns, CLONE_NEWUSER) < 0 ||
        setns(netns, CLONE_NEWNET) < 0 || (f.route = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0)) < 0 ||
        take_ids(plan) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_DUMPABLE, 0) < 0 || /* backends are in A, too, and not to look into us */
        keep_capabilities(1ull << CAP_NET_ADMIN) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prepare(&f) < 0 ||
        message_send(life, &ready, NULL, NULL, 0) < 0)
        _exit(EXIT_OURS);
    close_fd(&userns);
    close_fd(&netns);
    loop(&f);
}

/* --- in the supervisor ---------------------------------------------------------------------- */

int forward_read(struct forward_order *order, const struct record *record, unsigned first)
{
    uint16_t port = (uint16_t)record_int(record, first + 3);

    memset(order, 0, sizeof(*order)); /* compared as bytes */
    order->datagrams = strcmp(record_text(record, first), "udp") == 0;
    order->port = port;
    order->mark = (uint32_t)record_int(record, first + 8);
    if (address_read(&order->outside, record_text(record, first + 1), (uint16_t)record_int(record, first + 2)) < 0)
        return -1;
    for (unsigned i = 0; i < 2; i++)
        if (address_read(&order->inside[i], record_text(record, first + 4 + 2 * i), port) < 0 ||
            address_read(&order->gateway[i], record_text(record, first + 5 + 2 * i), 0) < 0)
            return -1;
    return 0;
}

int forward_bind(struct forward_order *order)
{
    const int one = 1;
    struct address *address = &order->outside;
    struct sockaddr_storage bound;
    socklen_t size = sizeof(bound);
    int type = (order->datagrams ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK;
    int fd = socket(address->storage.ss_family, type, 0);

    if (fd >= 0 && address->storage.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    /* of datagrams it would share the port with whoever has it */
    if (fd >= 0 && !order->datagrams)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (fd >= 0 && bind(fd, (struct sockaddr *)&address->storage, address->size) == 0 &&
        (order->datagrams || listen(fd, BACKLOG) == 0) && getsockname(fd, (struct sockaddr *)&bound, &size) == 0) {
        /* the port is at the same place for both families */
        ((struct sockaddr_in *)&address->storage)->sin_port = ((struct sockaddr_in *)&bound)->sin_port;
        return fd;
    }
    int error = errno;
    close_fd(&fd);
    errno = error;
    return -1;
}

uint16_t forward_port(const struct forward_order *order)
{
    return ntohs(((const struct sockaddr_in *)&order->outside.storage)->sin_port);
}

/* Wait for what it answers. 0, or -1 with errno. */
static int answer_of(const struct forwarder *forwarder)
{
    static char buffer[MESSAGE_MAX];
    struct message message;
    struct pollfd polled = {.fd = forwarder->life, .events = POLLIN};
    int fds[MESSAGE_FDS];
    int64_t until = now() + PATIENCE;

    while (poll(&polled, 1, (int)((until - now()) / 1000000) + 1) <= 0)
        if (now() >= until) {
            errno = ETIMEDOUT;
            return -1;
        }
    errno = ECHILD;
    if (message_receive(forwarder->life, buffer, fds) <= 0)
        return -1;
    memcpy(&message, buffer, sizeof(message));
    errno = (int)message.a;
    return errno ? -1 : 0;
}

int forward_start(const struct plan *plan, int userns, int netns, struct forwarder *forwarder)
{
    int pair[2];

    if (!forwarder->counts) {
        void *shared = mmap(NULL, sizeof(*forwarder->counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (shared == MAP_FAILED)
            return -1;
        forwarder->counts = shared;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -1;
    forwarder->pid = fork();
    if (forwarder->pid == 0) {
        close(pair[0]);
        forward_main(plan, userns, netns, pair[1], forwarder->counts);
    }
    int error = errno;
    close(pair[1]);
    forwarder->life = pair[0];
    errno = error;
    if (forwarder->pid > 0 && answer_of(forwarder) == 0)
        return 0;
    error = errno;
    forward_end(forwarder);
    errno = error;
    return -1;
}

int forward_add(const struct forwarder *forwarder, const struct forward_order *order, int fd)
{
    struct message message = {.type = MSG_FORWARD, .size = sizeof(*order)};

    return message_send(forwarder->life, &message, order, &fd, 1) < 0 ? -1 : answer_of(forwarder);
}

int forward_remove(const struct forwarder *forwarder, const struct forward_order *order)
{
    struct message message = {.type = MSG_UNFORWARD, .size = sizeof(*order)};

    return message_send(forwarder->life, &message, order, NULL, 0) < 0 ? -1 : answer_of(forwarder);
}

void forward_end(struct forwarder *forwarder)
{
    close_fd(&forwarder->life);
    child_end(&forwarder->pid);
}
