/* The caller's socket: requests in, events out. One request is a plan of one record; one event a JSON
 * object. The caller is trusted, but may be slow: what it does not take is kept, and as long as
 * there is something kept no request is read, so that it can't grow.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "supervisor.h"

#define TEXT(x) #x
#define TEXT_OF(x) TEXT(x)

struct request {
    char *data;
    size_t size;
    int fds[MESSAGE_FDS];
    bool in_memory; /* the first descriptor is a memfd with the request */
};

/* --- events --------------------------------------------------------------------------------- */

static int send_event(int socket, const char *data, size_t size, int fd)
{
    union {
        char buffer[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t n;

    if (fd >= 0) {
        header.msg_control = control.buffer;
        header.msg_controllen = sizeof(control.buffer);
        struct cmsghdr *item = CMSG_FIRSTHDR(&header);
        item->cmsg_level = SOL_SOCKET;
        item->cmsg_type = SCM_RIGHTS;
        item->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(item), &fd, sizeof(int));
    }
    do
        n = sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -1 : 0;
}

static void keep_event(struct supervisor *s, const char *data, size_t size, int fd)
{
    struct event *event = malloc(sizeof(*event) + size);

    if (!event) {
        close_fd(&fd);
        close_fd(&s->control); /* a caller that misses an event would wait for ever */
        return;
    }
    *event = (struct event){.size = size, .fd = fd};
    memcpy(event->data, data, size);
    *s->last_event = event;
    s->last_event = &event->next;
}

void control_send(struct supervisor *s, const char *json, size_t size, int fd)
{
    if (s->control < 0 || !json) {
        close_fd(&fd);
        return;
    }
    if (s->events || (send_event(s->control, json, size, fd) < 0 && errno == EAGAIN))
        keep_event(s, json, size, fd);
    else
        close_fd(&fd);
}

static void send_kept(struct supervisor *s)
{
    while (s->events) {
        struct event *event = s->events;
        if (send_event(s->control, event->data, event->size, event->fd) < 0 && errno == EAGAIN)
            return;
        s->events = event->next;
        if (!s->events)
            s->last_event = &s->events;
        close_fd(&event->fd);
        free(event);
    }
}

/* --- requests ------------------------------------------------------------------------------- */

static int parse(struct request *request, struct plan *plan)
{
    const char *why;

    request->in_memory = request->size <= 1 && request->fds[0] >= 0;
    if (request->in_memory) {
        if (plan_read(request->fds[0], plan, &why) < 0)
            return -1;
    } else {
        char *copy = malloc(request->size);
        if (!copy)
            return -1;
        memcpy(copy, request->data, request->size);
        if (plan_parse(copy, request->size, plan, &why) < 0)
            return -1;
    }
    return plan->count == 1 ? 0 : -1;
}

/* Hand a request on to init as it came, with these descriptors. */
static int forward(struct supervisor *s, struct request *request, enum message_type type, int32_t id,
                   const int *fds)
{
    struct message message = {.type = type, .id = id};
    int all[MESSAGE_FDS], count = 0;

    if (!request->in_memory)
        message.size = (uint32_t)request->size;
    if (request->in_memory)
        all[count++] = request->fds[0];
    for (int i = 0; fds && i < 3; i++)
        all[count++] = fds[i];
    return message_send(s->init.socket, &message, request->data, all, count);
}

/* Why a request could not be handed on. */
static const char *explain_forward(int error)
{
    static char text[200];

    switch (error) {
    case EPIPE:
    case ECONNRESET:
        return "cannot start the command: the sandbox has ended";
    case ETOOMANYREFS:
        return "cannot start the command: too many descriptors are on their way into sandboxes; start fewer at "
               "once, or raise the limit on open files (ulimit -Hn)";
    case EAGAIN:
        return "cannot start the command: the sandbox is busy with those before it; start fewer at once";
    default:
        snprintf(text, sizeof(text), "cannot start the command: %s", strerror(error));
        return text;
    }
}

static const char *start(struct supervisor *s, struct request *request, struct job *job)
{
    static struct failure failure;
    int child[3], *given = request->fds + (request->in_memory ? 1 : 0);
    const char *why = NULL;

    if (given[0] < 0 || given[1] < 0 || given[2] < 0)
        return "cannot start the command: the request is malformed";
    if (streams_prepare(&job->streams, given, 0, s->limits.value[LIMIT_OUTPUT], child, &failure) < 0)
        return failure.text;
    if (forward(s, request, MSG_SPAWN, job->id, child) < 0)
        why = explain_forward(errno);
    for (int i = 0; i < 3; i++)
        close_fd(&child[i]);
    return why;
}

static void spawn(struct supervisor *s, struct request *request, const struct record *record)
{
    int32_t id = (int32_t)record_int(record, 0);
    int64_t count = record_int(record, 1);
    unsigned skipped = count > 0 ? (unsigned)count : 0;

    if (s->one_shot || job_find(s, id) || count < -1 || count > (int64_t)record_extra(record)) {
        job_refuse(s, id, "cannot start the command: the request is malformed");
        return;
    }
    struct job *job = job_new(s, id);
    if (!job) {
        job_refuse(s, id, "cannot start the command: " TEXT_OF(MAX_JOBS) " run in this sandbox already; wait for one to "
                          "end, or use another sandbox");
        return;
    }
    if (record_int(record, 3 + skipped) > 0)
        job->timeout = job->outcome.timeout = record_int(record, 3 + skipped);
    job->began = now();
    job->deadline = job->timeout > 0 ? later(job->began, job->timeout) : 0;
    account_begin(s, job);
    const char *why = start(s, request, job);
    if (why) {
        job_drop(s, job);
        job_refuse(s, id, why);
    }
}

static void answer_file(struct supervisor *s, int32_t id, int error)
{
    char json[96];
    int size = snprintf(json, sizeof(json), "{\"event\":\"file\",\"id\":%d,\"errno\":%d}", id, error);

    control_send(s, json, (size_t)size, -1);
}

static void handle(struct supervisor *s, struct request *request, const struct record *record)
{
    int32_t id = (int32_t)record_int(record, 0);
    struct job *job = job_find(s, id);

    switch (record->kind) {
    case KIND_SPAWN:
        spawn(s, request, record);
        break;
    case KIND_SIGNAL:
        if (job)
            job_signal(s, job, (int)record_int(record, 1));
        break;
    case KIND_OPEN:
        if (forward(s, request, MSG_OPEN, id, NULL) < 0)
            answer_file(s, id, errno);
        break;
    case KIND_STATS:
        account_stats(s, id);
        break;
    case KIND_FREEZE:
        account_freeze(s, id, record_int(record, 1) != 0);
        break;
    case KIND_SET:
        account_set(s, record);
        break;
    default:
        supervisor_close(s);
    }
}

static ssize_t receive(int socket, struct request *request)
{
    static char buffer[MESSAGE_MAX - sizeof(struct message)];
    union {
        char buffer[CMSG_SPACE(sizeof(int) * MESSAGE_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = buffer, .iov_len = sizeof(buffer)};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = control.buffer,
                            .msg_controllen = sizeof(control.buffer)};
    ssize_t n;

    for (int i = 0; i < MESSAGE_FDS; i++)
        request->fds[i] = -1;
    do
        n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return n;
    message_descriptors(&header, request->fds);
    request->data = buffer;
    request->size = (size_t)n;
    if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        request->size = 0; /* malformed */
    return n;
}

static void read_request(struct supervisor *s)
{
    struct request request = {0};
    struct plan plan = {0};
    ssize_t n = receive(s->control, &request);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        supervisor_close(s);
        return;
    }
    /* A request that isn't one: the two ends don't understand each other. */
    if (request.size == 0 || parse(&request, &plan) < 0)
        supervisor_close(s);
    else
        handle(s, &request, &plan.records[0]);
    plan_free(&plan);
    for (int i = 0; i < MESSAGE_FDS; i++)
        close_fd(&request.fds[i]);
}

/* With room in init's socket, which POLLOUT means a good part of, no request has to wait half-way. */
static bool init_has_room(const struct supervisor *s)
{
    struct pollfd polled = {.fd = s->init.socket, .events = POLLOUT};

    return s->init_dead || poll(&polled, 1, 0) > 0;
}

short control_wanted(struct supervisor *s)
{
    if (s->events)
        return POLLOUT;
    if (s->closing)
        return 0;
    s->init_full |= !init_has_room(s);
    return s->init_full ? 0 : POLLIN;
}

void control_ready(struct supervisor *s, short revents)
{
    if (revents & POLLOUT)
        send_kept(s);
    if (revents & POLLIN)
        read_request(s);
    else if (revents & (POLLHUP | POLLERR | POLLNVAL)) {
        close_fd(&s->control);
        supervisor_close(s);
    }
}
