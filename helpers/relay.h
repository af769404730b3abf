/* Moving bytes between two descriptors, one step whenever poll(2) says so. A relay never blocks
 * for longer than a moment, never makes a descriptor of the caller's non-blocking (that would change
 * the caller's own open file), and never holds more than one small buffer.
 */
#ifndef RELAY_H
#define RELAY_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the streams of one command may still pass on, together. */
struct budget {
    bool limited;
    bool exceeded;  /* there was more than the limit */
    int64_t left;   /* bytes; only when limited */
    int64_t passed; /* bytes */
};

enum relay_state { RELAY_OFF, RELAY_READ, RELAY_WRITE };

struct relay {
    enum relay_state state; /* what it waits for */
    bool paused;            /* waits for nothing until it is unset */
    bool spliced;           /* moved by splice(2); else through the buffer */
    bool guard_from, guard_to; /* blocking descriptors of the caller's */
    bool draining;          /* whoever wrote is gone: ends when there is nothing left */
    int from, to;           /* owned */
    int error;              /* why it broke, 0 when it did not; EPIPE is no error */
    int64_t left;           /* bytes until its end, or -1 */
    struct budget *budget;  /* or NULL */
    char *buffer;
    size_t at, used;
};

/* Prepare SIGALRM, which ends a read or write that turned out to block. Once, early. */
void relay_prepare(void);

/* Begin; both descriptors now belong to the relay. */
void relay_start(struct relay *relay, int from, int to, struct budget *budget);

/* What to wait for; fd -1 when nothing. Then step with what poll returned. */
struct pollfd relay_poll(const struct relay *relay);
void relay_step(struct relay *relay, short revents);

/* The writers are gone: move what they left (as far as it goes now; the rest in steps), then end. */
void relay_finish(struct relay *relay);

/* End at once. */
void relay_close(struct relay *relay);

#endif
