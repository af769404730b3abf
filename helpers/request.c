/* Messages of netlink(7), by hand: they are few, and a library that links statically is larger than all of them. */

#include "request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Room for so much more, zeroed, at a multiple of 4; NULL without memory. */
static void *add_room(struct request *request, size_t more)
{
    more = NLMSG_ALIGN(more);
    if (!request->data || request->size + more > request->room) {
        size_t room = (request->size + more) * 2;
        char *larger = realloc(request->data, room);
        if (!larger)
            return NULL;
        request->data = larger;
        request->room = room;
    }
    void *at = request->data + request->size;
    memset(at, 0, more);
    request->size += more;
    return at;
}

ssize_t request_begin(struct request *request, unsigned type, unsigned flags, const void *head, size_t size)
{
    size_t at = request->size;
    struct nlmsghdr *header = add_room(request, NLMSG_HDRLEN + size);

    if (!header)
        return -1;
    header->nlmsg_type = (uint16_t)type;
    header->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
    memcpy(PAYLOAD(header), head, size);
    return (ssize_t)at;
}

int request_add(struct request *request, unsigned type, const void *data, size_t size)
{
    struct nlattr *attribute = add_room(request, NLA_HDRLEN + size);

    if (!attribute)
        return -1;
    attribute->nla_type = (uint16_t)type;
    attribute->nla_len = (uint16_t)(NLA_HDRLEN + size);
    if (size)
        memcpy((char *)attribute + NLA_HDRLEN, data, size);
    return 0;
}

int request_add_text(struct request *request, unsigned type, const char *text)
{
    return request_add(request, type, text, strlen(text) + 1);
}

int request_add_plain(struct request *request, const void *data, size_t size)
{
    void *room = add_room(request, size);

    if (!room)
        return -1;
    memcpy(room, data, size);
    return 0;
}

size_t request_open(struct request *request, unsigned type)
{
    size_t at = request->size;

    return request_add(request, type | NLA_F_NESTED, NULL, 0) < 0 ? SIZE_MAX : at;
}

void request_shut(struct request *request, size_t at)
{
    if (at != SIZE_MAX)
        ((struct nlattr *)(void *)(request->data + at))->nla_len = (uint16_t)(request->size - at);
}

void request_finish(struct request *request, ssize_t at)
{
    if (at >= 0)
        ((struct nlmsghdr *)(void *)(request->data + at))->nlmsg_len = (uint32_t)(request->size - (size_t)at);
}

int request_talk(int fd, struct request *request, void (*visit)(const struct nlmsghdr *, void *), void *data)
{
    static char buffer[1 << 16];
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};

    if (sendto(fd, request->data, request->size, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
        return -1;
    for (;;) {
        ssize_t size = recv(fd, buffer, sizeof(buffer), 0);
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0)
            return -1;
        for (struct nlmsghdr *header = (void *)buffer; NLMSG_OK(header, size); header = NLMSG_NEXT(header, size)) {
            if (header->nlmsg_type == NLMSG_DONE)
                return 0;
            if (header->nlmsg_type == NLMSG_ERROR) {
                errno = -((struct nlmsgerr *)(void *)PAYLOAD(header))->error;
                return errno ? -1 : 0;
            }
            if (visit)
                visit(header, data);
        }
    }
}

int request_send(int fd, struct request *request)
{
    int result = request->data ? request_talk(fd, request, NULL, NULL) : -1, error = errno;

    free(request->data);
    *request = (struct request){0};
    errno = error;
    return result;
}
