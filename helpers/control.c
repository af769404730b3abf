/* The caller's socket: requests in, events out. One request is a plan of one record; one event a JSON
 * object. The caller is trusted, but may be slow: what it does not take is kept, and as long as
 * there is something kept no request is read, so that it can't grow by answers; nor does it by what services
 * say, which payloads can have them do without end (control_is_behind). A request that can't be handed on
 * at once waits, a limited number of them: reading on is what makes room for it (see is_passing).
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "report.h"
#include "supervisor.h"

#define TEXT(x) #x
#define TEXT_OF(x) TEXT(x)
#define MAX_HELD 256
#define RETRY ((int64_t)2000000)   /* ns, between two attempts to hand on a request */
#define PATIENCE (10 * SECOND)     /* and after so long it is refused */
#define MANY_EVENTS 1000           /* that the caller is yet to read: some hundred bytes each */

/* In place of a request larger than a datagram: the request itself is in a memfd, the first descriptor. */
struct large {
    int32_t kind, id;
};

struct request {
    char *data;
    size_t size;
    int fds[MESSAGE_FDS];
    bool in_memory;
    int32_t kind, id;
    struct plan plan; /* its one record */
};

/* --- events --------------------------------------------------------------------------------- */

static int send_event(int socket, const char *data, size_t size, int fd)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};

    return datagram_send(socket, &part, 1, &fd, fd >= 0 ? 1 : 0, MSG_DONTWAIT);
}

/* No room in the socket; or (ETOOMANYREFS, unix(7)) this user's processes together have more descriptors
 * on their way than one may have open: those on their way to us, to init and to the caller among them. */
static bool is_passing(int error)
{
    return error == EAGAIN || error == ENOBUFS || error == ENOMEM || error == ETOOMANYREFS;
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
    s->event_count++;
}

/* Whether that is done with: sent, or of no use any more. Else it is to be tried again: poll(2) tells when there
 * is room in the socket, and nobody tells of anything else. */
static bool try_event(struct supervisor *s, const char *data, size_t size, int fd)
{
    s->events_next = 0;
    if (send_event(s->control, data, size, fd) == 0 || !is_passing(errno))
        return true;
    if (errno != EAGAIN)
        s->events_next = now() + RETRY;
    return false;
}

void control_send(struct supervisor *s, const char *json, size_t size, int fd)
{
    if (s->control < 0 || !json) {
        close_fd(&fd);
        return;
    }
    if (s->events || !try_event(s, json, size, fd))
        keep_event(s, json, size, fd);
    else
        close_fd(&fd);
}

bool control_is_behind(const struct supervisor *s)
{
    return s->event_count >= MANY_EVENTS;
}

static void send_kept(struct supervisor *s)
{
    while (s->events) {
        struct event *event = s->events;
        if (!try_event(s, event->data, event->size, event->fd))
            return;
        s->events = event->next;
        s->event_count--;
        if (!s->events)
            s->last_event = &s->events;
        close_fd(&event->fd);
        free(event);
    }
}

/* --- what came ------------------------------------------------------------------------------ */

/* Find out what it asks for, and for whom. Also of one that came without its descriptors, if it can be. */
static int parse(struct request *request)
{
    struct large large;
    const char *why;

    request->in_memory = request->size == sizeof(large);
    if (request->in_memory) {
        memcpy(&large, request->data, sizeof(large));
        request->kind = large.kind;
        request->id = large.id;
        if (request->fds[0] == FDS_LOST)
            return 0;
        if (plan_read(request->fds[0], &request->plan, &why) < 0)
            return -1;
    } else {
        char *copy = malloc(request->size);
        if (!copy)
            return -1;
        memcpy(copy, request->data, request->size);
        if (plan_parse(copy, request->size, &request->plan, &why) < 0)
            return -1;
    }
    if (request->plan.count != 1)
        return -1;
    request->kind = request->plan.records[0].kind;
    request->id = (int32_t)record_int(&request->plan.records[0], 0);
    return 0;
}

/* --- refusing ------------------------------------------------------------------------------- */

static void answer_file(struct supervisor *s, int32_t id, int error)
{
    char json[96];
    int size = snprintf(json, sizeof(json), "{\"event\":\"file\",\"id\":%d,\"errno\":%d}", id, error);

    control_send(s, json, (size_t)size, -1);
}

static void answer_ports(struct supervisor *s, int32_t id, int error)
{
    struct text text cleanup_text = {0};

    network_answer(&s->network, id, error, &text);
    control_send(s, text.data, text.size, -1);
}

static int fail_start(struct failure *failure, int error)
{
    bool ended = error == EPIPE || error == ECONNRESET;

    return fail(failure, error, NULL, "cannot start the command: %s", ended ? "the sandbox has ended" : strerror(error));
}

static void refuse_start(struct supervisor *s, int32_t id, const struct failure *failure)
{
    char text[sizeof(failure->text) + 200];
    const char *mend = report_mend(failure);

    snprintf(text, sizeof(text), "%s%s%s", failure->text, *mend ? "; " : "", mend);
    job_refuse(s, id, text);
}

static void refuse(struct supervisor *s, int32_t kind, int32_t id, int error)
{
    struct failure failure;

    fail_start(&failure, error);
    if (kind == KIND_SPAWN)
        refuse_start(s, id, &failure);
    else if (kind == KIND_OPEN)
        answer_file(s, id, error);
}

/* --- handing on ----------------------------------------------------------------------------- */

static void release(struct supervisor *s, struct held **place)
{
    struct held *held = *place;

    *place = held->next;
    s->held_count--;
    for (int i = 0; i < held->count; i++)
        close_fd(&held->fds[i]);
    free(held);
}

/* Keep a request behind those that wait already; the descriptors are its. */
static int hold(struct supervisor *s, const struct message *message, const char *data, const int *fds, int count)
{
    struct held *held = malloc(sizeof(*held) + message->size), **place = &s->held;

    if (!held)
        return -1;
    *held = (struct held){.message = *message, .count = count, .until = now() + PATIENCE};
    memcpy(held->fds, fds, sizeof(int) * (size_t)count);
    memcpy(held->data, data, message->size);
    while (*place)
        place = &(*place)->next;
    *place = held;
    s->held_count++;
    s->held_next = now() + RETRY;
    return 0;
}

/* Hand a request on to init as it came, now or later, with these descriptors, which are consumed. */
static int forward(struct supervisor *s, struct request *request, const int *fds, int nfds)
{
    struct message message = {.type = request->kind == KIND_SPAWN ? MSG_SPAWN : MSG_OPEN, .id = request->id};
    int all[MESSAGE_FDS], count = 0, result = -1;

    if (request->in_memory) {
        all[count++] = request->fds[0];
        request->fds[0] = -1;
    } else {
        message.size = (uint32_t)request->size;
    }
    for (int i = 0; i < nfds; i++)
        all[count++] = fds[i];
    errno = EAGAIN;
    if (!s->held)
        result = message_send(s->init.socket, &message, request->data, all, count);
    if (result < 0 && is_passing(errno) && hold(s, &message, request->data, all, count) == 0)
        return 0;
    for (int i = 0; i < count; i++)
        close_fd(&all[i]); /* keeps errno */
    return result;
}

/* The first of those that wait. False: it goes on waiting. */
static bool send_held(struct supervisor *s, int64_t time)
{
    struct held *held = s->held;
    int32_t id = held->message.id, kind = held->message.type == MSG_SPAWN ? KIND_SPAWN : KIND_OPEN;
    int sent = message_send(s->init.socket, &held->message, held->data, held->fds, held->count), error = errno;

    if (sent < 0 && is_passing(error) && time < held->until)
        return false;
    release(s, &s->held);
    struct job *job = kind == KIND_SPAWN ? job_find(s, id) : NULL;
    if (sent == 0 || (job && job->state == JOB_EXITED)) /* with init */
        return true;
    if (job)
        job_drop(s, job);
    refuse(s, kind, id, error);
    return true;
}

void control_retry(struct supervisor *s, int64_t time)
{
    if (s->events_next && time >= s->events_next)
        send_kept(s);
    if (time < s->held_next)
        return;
    while (s->held && send_held(s, time))
        ;
    s->held_next = time + RETRY;
}

int64_t control_next(const struct supervisor *s)
{
    int64_t next = s->held ? s->held_next : INT64_MAX;

    return s->events_next && s->events_next < next ? s->events_next : next;
}

bool control_withdraw(struct supervisor *s, int32_t id)
{
    for (struct held **place = &s->held; *place; place = &(*place)->next)
        if ((*place)->message.type == MSG_SPAWN && (*place)->message.id == id) {
            release(s, place);
            return true;
        }
    return false;
}

/* --- requests ------------------------------------------------------------------------------- */

static int start(struct supervisor *s, struct request *request, struct job *job, struct failure *failure)
{
    int child[3], *given = request->fds + (request->in_memory ? 1 : 0);
    int64_t limit = s->limits.value[LIMIT_OUTPUT];

    if (streams_prepare(&job->streams, given, 0, limit, child, failure) < 0)
        return -1;
    return forward(s, request, child, 3) < 0 ? fail_start(failure, errno) : 0;
}

static void spawn(struct supervisor *s, struct request *request)
{
    const struct record *record = &request->plan.records[0];
    int64_t count = record_int(record, 1);
    unsigned skipped = count > 0 ? (unsigned)count : 0;
    const int *given = request->fds + (request->in_memory ? 1 : 0);
    struct failure failure;
    struct job *job;

    if (s->one_shot || job_find(s, request->id) || count < -1 || count > (int64_t)record_extra(record) ||
        given[0] < 0 || given[1] < 0 || given[2] < 0) {
        job_refuse(s, request->id, "cannot start the command: the request is malformed");
        return;
    }
    if (!(job = job_new(s, request->id))) {
        job_refuse(s, request->id,
                   "cannot start the command: " TEXT_OF(MAX_JOBS) " run in this sandbox already; wait for one to end, "
                   "or use another sandbox");
        return;
    }
    if (record_int(record, 3 + skipped) > 0)
        job->timeout = job->outcome.timeout = record_int(record, 3 + skipped);
    job->began = now();
    job->deadline = job->timeout > 0 ? later(job->began, job->timeout) : 0;
    account_begin(s, job);
    if (start(s, request, job, &failure) < 0) {
        job_drop(s, job);
        refuse_start(s, request->id, &failure);
    }
}

static void handle(struct supervisor *s, struct request *request)
{
    struct job *job = job_find(s, request->id);

    if (request->fds[0] == FDS_LOST) {
        refuse(s, request->kind, request->id, EMFILE);
        return;
    }
    if (s->network.used && !s->network.released && (request->kind == KIND_SPAWN || request->kind == KIND_OPEN)) {
        refuse(s, request->kind, request->id, EBUSY); /* before we said that it is ready */
        return;
    }
    switch (request->kind) {
    case KIND_SPAWN:
        spawn(s, request);
        break;
    case KIND_SIGNAL:
        if (job)
            job_signal(s, job, (int)record_int(&request->plan.records[0], 1));
        break;
    case KIND_OPEN:
        if (forward(s, request, NULL, 0) < 0)
            answer_file(s, request->id, errno);
        break;
    case KIND_STATS:
        account_stats(s, request->id);
        break;
    case KIND_FREEZE:
        account_freeze(s, request->id, record_int(&request->plan.records[0], 1) != 0);
        break;
    case KIND_SET:
        account_set(s, &request->plan.records[0]);
        break;
    case KIND_FORWARD:
        answer_ports(s, request->id, network_publish(s, &request->plan.records[0]));
        break;
    case KIND_UNFORWARD:
        answer_ports(s, request->id, network_unpublish(s, &request->plan.records[0]));
        break;
    default:
        supervisor_close(s);
    }
}

static ssize_t receive(int socket, struct request *request)
{
    static char buffer[MESSAGE_MAX - sizeof(struct message)];
    ssize_t n = datagram_receive(socket, buffer, sizeof(buffer), request->fds, MSG_DONTWAIT);

    request->data = buffer;
    request->size = n > 0 ? (size_t)n : 0;
    return n;
}

static void read_request(struct supervisor *s)
{
    struct request request = {0};
    ssize_t n = receive(s->control, &request);

    if (n < 0 && errno == EAGAIN)
        return;
    /* A request that isn't one: the two ends don't understand each other. */
    if (n <= 0 || parse(&request) < 0)
        supervisor_close(s);
    else
        handle(s, &request);
    plan_free(&request.plan);
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
        return s->events_next ? 0 : POLLOUT;
    if (s->closing || s->held_count >= MAX_HELD)
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
