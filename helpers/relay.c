/* Relays. See relay.h. */

#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "helper.h"

#define CHUNK 65536 /* a pipe's capacity */
#define BUFFER 16384
#define GUARD_US 10000

enum step { STEP_MOVED, STEP_WAIT, STEP_END, STEP_BROKEN };

/* --- reads and writes that may turn out to block -------------------------------------------- */

static void on_alarm(int number)
{
    (void)number;
}

void relay_prepare(void)
{
    struct sigaction action = {.sa_handler = on_alarm}; /* no SA_RESTART: that is the point */
    sigset_t alarm_only;

    sigaction(SIGALRM, &action, NULL);
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    sigprocmask(SIG_UNBLOCK, &alarm_only, NULL);
}

/* poll(2) said ready, but somebody else may have been quicker, or there is room for a part only.
 * The alarm comes again and again, so one that is too early does no harm. */
static void guard(bool on)
{
    struct itimerval timer = {{0, on ? GUARD_US : 0}, {0, on ? GUARD_US : 0}};
    int saved = errno;

    setitimer(ITIMER_REAL, &timer, NULL);
    errno = saved;
}

static ssize_t read_some(const struct relay *relay, void *data, size_t size)
{
    ssize_t n;

    if (relay->guard_from)
        guard(true);
    n = read(relay->from, data, size);
    if (relay->guard_from)
        guard(false);
    return n;
}

static ssize_t write_some(const struct relay *relay, const void *data, size_t size)
{
    ssize_t n;

    if (relay->guard_to)
        guard(true);
    n = write(relay->to, data, size);
    if (relay->guard_to)
        guard(false);
    return n;
}

static bool would_wait(int error)
{
    return error == EAGAIN || error == EINTR;
}

/* --- one step ------------------------------------------------------------------------------- */

static size_t allowed(const struct relay *relay, size_t most)
{
    if (relay->left >= 0 && (uint64_t)relay->left < most)
        most = (size_t)relay->left;
    if (relay->budget && relay->budget->limited && (uint64_t)relay->budget->left < most)
        most = (size_t)relay->budget->left;
    return most;
}

static void account(struct relay *relay, size_t moved)
{
    if (relay->left >= 0)
        relay->left -= (int64_t)moved;
    if (!relay->budget)
        return;
    relay->budget->passed += (int64_t)moved;
    if (relay->budget->limited)
        relay->budget->left -= (int64_t)moved;
}

/* The limit is used up to the last byte. It is exceeded only if one more comes. */
static enum step look_beyond(struct relay *relay)
{
    char byte;
    ssize_t n = read_some(relay, &byte, 1);

    if (n < 0 && would_wait(errno))
        return relay->draining ? STEP_END : STEP_WAIT;
    relay->budget->exceeded |= n > 0; /* the other stream may have found more already */
    return STEP_END;
}

static enum step splice_some(struct relay *relay, size_t most)
{
    ssize_t n = splice(relay->from, NULL, relay->to, NULL, most, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);

    if (n > 0) {
        account(relay, (size_t)n);
        return STEP_MOVED;
    }
    if (n == 0)
        return STEP_END;
    if (errno == EINVAL) { /* a file opened for appending, or one that has no splice */
        relay->spliced = false;
        return STEP_MOVED;
    }
    if (!would_wait(errno))
        return STEP_BROKEN;
    /* It was ready on one side, so it is the other that is not. What is drained is not empty. */
    relay->state = relay->state == RELAY_READ || relay->draining ? RELAY_WRITE : RELAY_READ;
    return STEP_WAIT;
}

static enum step flush(struct relay *relay)
{
    ssize_t n = write_some(relay, relay->buffer + relay->at, relay->used - relay->at);

    relay->state = RELAY_WRITE;
    if (n < 0)
        return would_wait(errno) ? STEP_WAIT : STEP_BROKEN;
    relay->at += (size_t)n;
    if (relay->at < relay->used)
        return STEP_WAIT;
    relay->at = relay->used = 0;
    relay->state = RELAY_READ;
    return STEP_MOVED;
}

static enum step copy_some(struct relay *relay, size_t most)
{
    if (!relay->buffer && !(relay->buffer = malloc(BUFFER)))
        return STEP_BROKEN;
    relay->state = RELAY_READ;
    ssize_t n = read_some(relay, relay->buffer, most < BUFFER ? most : BUFFER);
    if (n < 0 && would_wait(errno))
        return relay->draining ? STEP_END : STEP_WAIT;
    if (n < 0 && errno != EIO) /* EIO: a terminal whose other side is gone, which is its end of file */
        return STEP_BROKEN;
    if (n <= 0)
        return STEP_END;
    relay->used = (size_t)n;
    account(relay, relay->used);
    return flush(relay);
}

static enum step advance(struct relay *relay)
{
    size_t most = allowed(relay, CHUNK);

    if (relay->used > 0)
        return flush(relay);
    if (relay->left == 0)
        return STEP_END;
    if (most == 0) {
        relay->state = RELAY_READ;
        return look_beyond(relay);
    }
    return relay->spliced ? splice_some(relay, most) : copy_some(relay, most);
}

static enum step step(struct relay *relay)
{
    enum step result = advance(relay);

    if (result == STEP_BROKEN && errno != EPIPE)
        relay->error = errno;
    if (result == STEP_BROKEN || result == STEP_END)
        relay_close(relay);
    return result;
}

/* --- from outside --------------------------------------------------------------------------- */

static mode_t type_of(int fd)
{
    struct stat status;

    return fstat(fd, &status) < 0 ? 0 : status.st_mode & S_IFMT;
}

/* Files and disks don't wait for anybody; our own pipes and pty are non-blocking. */
static bool may_block(int fd, mode_t type)
{
    int flags = fcntl(fd, F_GETFL);

    return type != S_IFREG && type != S_IFBLK && !(flags >= 0 && (flags & O_NONBLOCK));
}

void relay_start(struct relay *relay, int from, int to, struct budget *budget)
{
    mode_t source = type_of(from), target = type_of(to);

    *relay = (struct relay){.state = RELAY_READ, .from = from, .to = to, .left = -1, .budget = budget};
    relay->guard_from = may_block(from, source);
    relay->guard_to = may_block(to, target);
    relay->spliced = (source == S_IFIFO && (target == S_IFIFO || target == S_IFREG)) ||
                     ((source == S_IFREG || source == S_IFBLK) && target == S_IFIFO);
}

struct pollfd relay_poll(const struct relay *relay)
{
    if (relay->state == RELAY_OFF || relay->paused)
        return (struct pollfd){.fd = -1};
    return relay->state == RELAY_READ ? (struct pollfd){.fd = relay->from, .events = POLLIN}
                                      : (struct pollfd){.fd = relay->to, .events = POLLOUT};
}

static void drain(struct relay *relay)
{
    while (relay->state != RELAY_OFF && step(relay) == STEP_MOVED)
        ;
}

void relay_step(struct relay *relay, short revents)
{
    if (relay->state == RELAY_OFF || !revents)
        return;
    if (revents & POLLNVAL)
        relay_close(relay);
    else if (relay->draining)
        drain(relay);
    else
        step(relay);
}

void relay_finish(struct relay *relay)
{
    int waiting = 0;

    if (relay->state == RELAY_OFF)
        return;
    /* Not until end of file: a descriptor may have been handed to somebody outside, who keeps it. A
     * pty has no such number to go by; there it is the read that finds nothing. */
    if (type_of(relay->from) == S_IFIFO && ioctl(relay->from, FIONREAD, &waiting) == 0)
        relay->left = waiting;
    relay->draining = true;
    relay->paused = false;
    drain(relay);
}

void relay_close(struct relay *relay)
{
    if (relay->state == RELAY_OFF)
        return;
    relay->state = RELAY_OFF;
    close_fd(&relay->from);
    close_fd(&relay->to);
    free(relay->buffer);
    relay->buffer = NULL;
    relay->at = relay->used = 0;
}
