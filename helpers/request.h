/* Messages of netlink(7): put together, sent, and answered. */
#ifndef REQUEST_H
#define REQUEST_H

#include <linux/netlink.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PAYLOAD(header) ((char *)(header) + NLMSG_HDRLEN)

/* One or several messages. All zeros: none yet; without memory none is sent. */
struct request {
    char *data;
    size_t size, room;
};

/* Begin a message with this fixed part. Its offset, or -1. */
ssize_t request_begin(struct request *request, unsigned type, unsigned flags, const void *head, size_t size);

/* The message at this offset is whole. */
void request_finish(struct request *request, ssize_t at);

/* An attribute. 0, or -1. */
int request_add(struct request *request, unsigned type, const void *data, size_t size);
int request_add_text(struct request *request, unsigned type, const char *text);

/* What is no attribute. 0, or -1. */
int request_add_plain(struct request *request, const void *data, size_t size);

/* A nested attribute, from `open` to `shut`. */
size_t request_open(struct request *request, unsigned type);
void request_shut(struct request *request, size_t at);

/* Every answer is handed to `visit`, until one that is the last. 0, or -1 with errno. Whose rights count are the
 * sender's, not those of who opened the socket: the kernel's address is always given (netlink_ns_capable(),
 * net/netlink/af_netlink.c). */
int request_talk(int fd, struct request *request, void (*visit)(const struct nlmsghdr *, void *), void *data);

/* Send and let go of it. */
int request_send(int fd, struct request *request);

#endif
