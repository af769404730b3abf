/* What the parts of the helper share: error texts, small system-call wrappers, and the
 * messages between supervisor (outside) and init (PID 1 inside).
 */
#ifndef HELPER_H
#define HELPER_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <termios.h>

#include "cgroup.h"
#include "plan.h"

#define EXIT_OURS 125
#define EXIT_NOT_EXECUTABLE 126
#define EXIT_NOT_FOUND 127

#define OVERFLOW_ID 65534 /* of who is not mapped; /proc/sys/kernel/overflowuid, which nobody changes */

#define cleanup_fd __attribute__((cleanup(close_fd)))
void close_fd(int *fd); /* closes when >= 0 and sets to -1, errno kept */

/* A failure: system error number (0: none), the plan's record it belongs to (NULL: none), and
 * a text of the form "cannot open /x: No such file or directory". Kept by whoever reports. */
struct failure {
    int error;
    const struct record *record;
    char text[1024];
};

/* Fill *failure and return -1, so that callers can write: return fail(f, errno, rec, "cannot ..."). */
int fail(struct failure *failure, int error, const struct record *record, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* write(2) all of it. 0, or -1 with errno. */
int write_all(int fd, const void *data, size_t size);

/* Is it "." or ".."? */
bool is_dot(const char *name);

#define SECOND ((int64_t)1000000000)

/* CLOCK_MONOTONIC in ns. */
int64_t now(void);

/* Microseconds of a time that getrusage(2) gave. */
int64_t microseconds(struct timeval time);

/* Close every descriptor above 2 but those of `kept`, which is sorted; negative ones are none. 0, or -1. */
int close_all_but(int *kept, unsigned count);

/* Become without rights but `mask`, of which `inherited` survive an exec by whoever is not root. 0, or -1 with errno. */
int set_capabilities(uint64_t mask, uint64_t inherited);

/* The same where all of it survives an exec. */
int keep_capabilities(uint64_t mask);

/* Wait until a child has ended. Its status, as of waitpid(2). */
int child_wait(pid_t pid);

/* Kill a child and wait until it has ended; there may be none (-1), as afterwards. */
void child_end(pid_t *pid);

/* The name of an error number, "ENOENT", or "" when unknown. */
const char *error_name(int error);

/* --- messages, one per datagram on a SOCK_SEQPACKET pair ------------------------------- */

enum message_type {
    /* init to supervisor */
    MSG_READY = 1,    /* set-up done (without ARGV: waiting for MSG_SPAWN) */
    MSG_FAILED,       /* set-up failed: a errno, b index of the record or -1, text */
    MSG_STARTED,      /* id: the command was executed; a its pid inside */
    MSG_EXEC_FAILED,  /* id: a errno, b 125, 126 or 127, c index of the record or -1, text says what was
                         missing; MSG_EXITED follows */
    MSG_EXITED,       /* id: a wait status; b user us, c system us, d max rss bytes (largest process) of
                         the command's whole tree; sent when nothing of it is alive any more */
    MSG_STOPPED,      /* id: a signal; the foreground group of a pty'd command stopped */
    MSG_TTY,          /* id: one fd, the master of the pty */
    MSG_FILE,         /* id: a errno, text on failure; else one fd */
    MSG_USAGE,        /* answer to MSG_POLL, with its id, or unasked when a command ends: a memory bytes, b cpu us
                         (live and reaped), c tasks, d disk bytes used in writable tmpfs of ours; e bits: POLL_*
                         for what of that was measured, and USAGE_* */
    MSG_LOST,         /* what makes an overlay ended, while it is needed */
    /* a guard or a join to the supervisor (guard.h, join.h) */
    MSG_SERVICE_READY,
    MSG_SERVICE_SAID, /* text: a line that the service wrote */
    MSG_SERVICE_ENDED, /* a wait status; text: the end of what it wrote on stderr */
    MSG_SOCKET,       /* one fd, made in the sandbox's network namespace: a index of the record or -1, b enum socket_type */
    MSG_JOINED,       /* all of it is done */
    MSG_FORWARDED,    /* a forwarder's answer: a errno */
    /* supervisor to init */
    MSG_MAPPED = 32,  /* the id maps are written: begin. For an init that was made ahead: data is the struct
                         command_stdio, fds a memfd with the plan, then what stdio.fd names, in order */
    MSG_SPAWN,        /* id: data is an encoded plan with one SPAWN record (or one fd more, a memfd with
                         it, before the others); fds stdin, stdout, stderr */
    MSG_SIGNAL,       /* id: a signal number, for the command's (foreground) process group */
    MSG_CONTINUE,     /* id: make the command the foreground group again and send SIGCONT */
    MSG_KILL,         /* id: kill everything of this command (-1: of all) */
    MSG_POLL,         /* id: -1, or of a request for statistics: ask for MSG_USAGE; a POLL_* bits: what is wanted */
    MSG_OPEN,         /* id: data is an encoded plan with one OPEN record */
    MSG_CLOSE,        /* kill everything and exit */
    MSG_ASK,          /* to a guard: have the service say now what it has to say */
    MSG_FORWARD,      /* to a forwarder, which answers: data is a struct forward_order, one fd */
    MSG_UNFORWARD,    /* the same, and no fd */
    MSG_RELEASE,      /* what was waited for outside is ready (see init_waits) */
};

enum poll_bits { POLL_MEMORY = 1, POLL_CPU = 2, POLL_TASKS = 4, POLL_DISK = 8 };

/* Of MSG_USAGE, beside those: a tmpfs is full; it answers no MSG_POLL. */
enum usage_bits { USAGE_FULL = 16, USAGE_UNASKED = 32 };

#define MESSAGE_MAX (132 * 1024) /* bytes of a datagram, struct included */
#define MESSAGE_FDS 4

struct message {
    uint32_t type;
    int32_t id;
    int64_t a, b, c, d, e;
    uint32_t size; /* bytes of data behind the struct (texts are NUL-terminated) */
    uint32_t reserved;
};

/* What datagram_receive says in place of descriptors that it could not take: they came, and too many
 * files are open here for all of them. */
#define FDS_LOST (-2)

/* Send a datagram of some parts with at most MESSAGE_FDS descriptors. 0, or -1 with errno. */
int datagram_send(int socket, struct iovec *parts, size_t count, const int *fds, int nfds, int flags);

/* Tell the caller, whose child we are not, who we are, with a pidfd: the first event on a socket. 0, or -1 with
 * errno. The caller must have had it before anything else happens: without it, it looks for another one. */
int introduce(int socket, const char *role);

/* Receive one. fds[MESSAGE_FDS] gets what came (CLOEXEC) and -1 elsewhere, or FDS_LOST everywhere. Bytes,
 * 0 at end of file, or -1 with errno (EPROTO: larger than the buffer). */
ssize_t datagram_receive(int socket, char *buffer, size_t size, int *fds, int flags);

/* Send one message with `nfds` descriptors. 0, or -1 with errno. Never raises SIGPIPE. */
int message_send(int socket, const struct message *message, const void *data, const int *fds, int nfds);

/* Receive one message into buffer (MESSAGE_MAX bytes; the struct is at its start, data behind it).
 * fds as for datagram_receive. Returns 1, 0 at end of file, -1 with errno (EPROTO: malformed). */
int message_receive(int socket, char *buffer, int *fds);

/* --- starting init ---------------------------------------------------------------------- */

/* What the supervisor made ready for a one-shot command before the clone. */
struct command_stdio {
    int fd[3];            /* -1 where the pty's slave goes (or, without pty, /dev/null) */
    bool pty;             /* init makes a pty, sends its master with MSG_TTY */
    struct termios termios; /* copied from the caller's terminal */
    struct winsize winsize;
};

struct init_process {
    pid_t pid;
    int pidfd;
    int socket; /* SOCK_SEQPACKET, ours */
    int userns; /* A, for cleaning up what its ids own */
    int netns;  /* A's, or -1 */
};

/* An init_process that is none. */
void init_clear(struct init_process *init);

/* The namespaces that a plan wants, as clone(2) flags; those of some flags that are a plan's choice. */
uint64_t init_known(int64_t flags);
uint64_t init_namespaces(const struct plan *plan);

/* Whether init is to wait, set up, until the supervisor says that services outside are ready. */
bool init_waits(const struct plan *plan);

/* clone3 init with these namespaces (but the mounts', which it makes itself when it begins: they are to be
 * those of then), into the cgroup `run` (-1: ours); it waits for init_begin. The plan and
 * `stdio` are inherited; without a plan (NULL) it is made ahead, and gets both when it begins. On failure
 * nothing is left. Returns 0, or -1 with *failure filled. */
int init_clone(uint64_t namespaces, const struct plan *plan, const struct command_stdio *stdio, int run,
               struct init_process *init, struct failure *failure);

/* Write init's id maps (or have newuidmap write them) and let it begin; `plan_fd`: the plan, for an init
 * that was made ahead, else -1. On failure nothing is left. Returns 0, or -1 with *failure filled. */
int init_begin(const struct plan *plan, int plan_fd, const struct command_stdio *stdio, const struct box *box,
               struct init_process *init, struct failure *failure);

/* Kill an init that is not needed, and close what belongs to it. */
void init_abandon(struct init_process *init);

/* init's life, in the child; never returns (init.c). */
_Noreturn void init_main(const struct plan *plan, const struct command_stdio *stdio, int socket);

/* Where the program's arguments, less its name, begin and end in memory: an init has them as its own. */
void init_arguments(char *first, char *end);

/* What a supervisor that a broker forked has besides its plan. */
struct made_ahead {
    struct init_process init; /* none: pid -1 */
    uint64_t namespaces;      /* of init */
    int plan_fd;              /* -1: there is no broker */
    struct place place;       /* of the scope that the broker is in, where sandboxes have cgroups */
    struct scope scope;
    struct box box;           /* init is in it */
};

/* The supervisor's life (supervisor.c): returns the exit status. */
int supervisor_main(struct plan *plan, struct made_ahead *ahead);

/* The broker's life (broker.c): requests come on the socket, and it ends with the process whose pidfd
 * `lifeline` is; the first request will want these namespaces. Returns the exit status, to whom started it
 * as soon as the broker is there. */
int broker_main(int socket, int lifeline, uint64_t namespaces);

#endif
