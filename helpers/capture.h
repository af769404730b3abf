/* What passes through a sandbox's network, written to a file in the format of libpcap. */
#ifndef CAPTURE_H
#define CAPTURE_H

#include "helper.h"

struct capture_counts;

struct capture {
    pid_t pid; /* our child, -1: none */
    int life;  /* a socket that ends with it */
    struct capture_counts *counts; /* its own, to be looked at */
};

/* Start the process that writes to `file`, at most so many bytes. It has the namespaces' traffic from when this
 * returns. 0, or -1 with errno. */
int capture_start(const struct plan *plan, int file, int64_t room, int userns, int netns, struct capture *capture);

/* Let it write what has come until now, and end. */
void capture_end(struct capture *capture);

/* Why not all of it is in the file, or NULL. */
const char *capture_gap(const struct capture *capture);

#endif
