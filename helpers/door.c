/* The door of a supervisor whose caller has become it, as with `sandbox run`: a socket that listens in a directory of the
 * user's that no payload sees. A connection is one request, as on the control socket, and its answer. Whoever comes is
 * trusted as the caller is, but may be slow: nothing is waited for, and who says nothing makes room for the next.
 */

#include "door.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "report.h"
#include "supervisor.h"

#define REQUEST_MAX 4096 /* a port's is some hundred bytes */

void door_poll(const struct door *door, struct pollfd *polls)
{
    polls[0] = (struct pollfd){.fd = door->listening, .events = POLLIN};
    polls[1] = (struct pollfd){.fd = door->visitor, .events = POLLIN};
}

static int obey(struct supervisor *s, const struct record *record)
{
    switch (record->kind) {
    case KIND_FORWARD:
        return network_publish(s, record);
    case KIND_UNFORWARD:
        return network_unpublish(s, record);
    default:
        return EOPNOTSUPP;
    }
}

static void answer(struct supervisor *s, const char *data, size_t size)
{
    struct text text cleanup_text = {0};
    struct plan plan = {0};
    const char *why;
    char *copy = malloc(size);

    if (!copy)
        return;
    memcpy(copy, data, size);
    if (plan_parse(copy, size, &plan, &why) == 0 && plan.count == 1) {
        network_answer(&s->network, (int32_t)record_int(&plan.records[0], 0), obey(s, &plan.records[0]), &text);
        send(s->door.visitor, text.data, text.size, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    plan_free(&plan);
}

static void read_visitor(struct supervisor *s)
{
    char data[REQUEST_MAX];
    ssize_t size = recv(s->door.visitor, data, sizeof(data), MSG_DONTWAIT);

    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size > 0)
        answer(s, data, (size_t)size);
    close_fd(&s->door.visitor);
}

void door_serve(struct supervisor *s, const struct pollfd *polls)
{
    if (polls[1].revents)
        read_visitor(s);
    if (polls[0].revents) {
        close_fd(&s->door.visitor);
        s->door.visitor = accept4(s->door.listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (s->door.visitor < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            close_fd(&s->door.listening); /* poll(2) would tell of it for ever */
    }
}

void door_end(struct door *door)
{
    close_fd(&door->listening);
    close_fd(&door->visitor);
}
