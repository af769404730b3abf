/* What a command gets as its standard streams, so that none of the caller's descriptors that it could
 * do more with than the caller meant ever reaches it.
 */
#ifndef STREAMS_H
#define STREAMS_H

#include "helper.h"
#include "relay.h"

#define RELAYS 4
#define RELAY_PTY 3

struct streams {
    struct relay relay[RELAYS]; /* 0: towards the command; 1, 2: from it; 3: from its pty */
    struct budget budget;       /* of what comes from it, together */
};

/* given[0..2] are the caller's descriptors, or -1 for /dev/null; they are consumed, also on failure.
 * Those marked in `skip` (bits 1, 2, 4) are left alone and get -1: a pty takes their place. child[]
 * is what the command is to be given, owned by the caller of this. limit: of output, bytes, or -1. */
int streams_prepare(struct streams *streams, int *given, unsigned skip, int64_t limit, int *child,
                    struct failure *failure);

bool streams_busy(const struct streams *streams);
void streams_finish(struct streams *streams); /* the command is gone: pass on what it left */
void streams_close(struct streams *streams);

/* A pty takes the place of streams: both relays from and to its master (which stays the caller's),
 * in and out are consumed. 0 or -1 with errno. */
int streams_attach(struct streams *streams, int master, int *in, int *out);

/* Why output was lost: an errno, or 0. */
int streams_error(const struct streams *streams);

#endif
