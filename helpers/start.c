/* Starting init: the clone with all namespaces at once, and the id maps of A, which only a
 * process outside can write.
 */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "cgroup.h"
#include "helper.h"
#include "sys.h"

/* newuidmap(1) takes at most this many ranges of ours; the kernel's own limit is 340 (4.15). */
#define MAX_MAPS 340
#define TOOL_SECONDS 20 /* they take milliseconds, if the user database answers */

static int write_proc(pid_t pid, const char *name, const char *text)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    int fd cleanup_fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, text, strlen(text));
    return n == (ssize_t)strlen(text) ? 0 : -1;
}

static int write_map(const struct plan *plan, pid_t pid, int which, struct failure *failure)
{
    static const char *const files[] = {"uid_map", "gid_map"};
    char text[4096];
    size_t used = 0;
    const struct record *record = NULL, *first = NULL;

    while ((record = plan_next(plan, KIND_IDMAP, record))) {
        if (record_int(record, 0) != which)
            continue;
        first = first ? first : record;
        int n = snprintf(text + used, sizeof(text) - used, "%lld %lld %lld\n", (long long)record_int(record, 1),
                         (long long)record_int(record, 2), (long long)record_int(record, 3));
        if (n < 0 || (size_t)n >= sizeof(text) - used)
            return fail(failure, E2BIG, record, "cannot map ids: too many ranges");
        used += (size_t)n;
    }
    if (!first)
        return fail(failure, EINVAL, NULL, "cannot map ids: the plan has no map");
    if (write_proc(pid, files[which], text) < 0)
        return fail(failure, errno, first, "cannot %s: %s", record_description(first), strerror(errno));
    return 0;
}

/* An ordinary user may map its own gid only with setgroups(2) denied (user_namespaces(7)). */
static int write_maps(const struct plan *plan, pid_t pid, struct failure *failure)
{
    if (geteuid() != 0 && write_proc(pid, "setgroups", "deny") < 0)
        return fail(failure, errno, NULL, "cannot deny setgroups: %s", strerror(errno));
    if (write_map(plan, pid, 1, failure) < 0)
        return -1;
    return write_map(plan, pid, 0, failure);
}

struct tool {
    pid_t pid;
    int errors; /* what it wrote on stderr */
    const char *path;
    int64_t deadline; /* CLOCK_MONOTONIC, ns */
};

static int start_tool(const struct plan *plan, pid_t target, int which, struct tool *tool)
{
    char numbers[MAX_MAPS * 3 + 1][21];
    char *arguments[MAX_MAPS * 3 + 3];
    char *environment[] = {NULL};
    int pipes[2], count = 0, n = 0;
    const struct record *record = NULL;

    snprintf(numbers[n], sizeof(numbers[n]), "%d", target);
    arguments[count++] = (char *)(uintptr_t)tool->path;
    arguments[count++] = numbers[n++];
    while ((record = plan_next(plan, KIND_IDMAP, record))) {
        if (record_int(record, 0) != which)
            continue;
        if (n > (MAX_MAPS - 1) * 3 + 1) {
            errno = E2BIG;
            return -1;
        }
        for (unsigned i = 1; i <= 3; i++) {
            snprintf(numbers[n], sizeof(numbers[n]), "%lld", (long long)record_int(record, i));
            arguments[count++] = numbers[n++];
        }
    }
    arguments[count] = NULL;
    if (pipe2(pipes, O_CLOEXEC) < 0)
        return -1;
    tool->pid = fork();
    if (tool->pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        signal(SIGPIPE, SIG_DFL);
        dup2(pipes[1], 2);
        execve(tool->path, arguments, environment);
        dprintf(2, "%s", strerror(errno));
        _exit(127);
    }
    close(pipes[1]);
    tool->errors = pipes[0];
    return tool->pid < 0 ? -1 : 0;
}

/* Whether it has something to say, or has ended; else it does neither. Its real user is ours, so that
 * we may kill it (kill(2)). */
static bool heard(const struct tool *tool)
{
    struct pollfd waited = {.fd = tool->errors, .events = POLLIN};

    for (;;) {
        int64_t left = (tool->deadline - now()) / (SECOND / 1000);
        int ready = poll(&waited, 1, left > 0 ? (int)left : 0);
        if (ready > 0)
            return true;
        if (ready == 0 || errno != EINTR)
            return false;
    }
}

static int finish_tool(struct tool *tool, struct failure *failure, const struct record *record)
{
    char text[400];
    size_t used = 0;
    ssize_t n = 1;
    bool late = false;

    while (n > 0 && used < sizeof(text) - 1 && !late) {
        if ((late = !heard(tool)))
            kill(tool->pid, SIGKILL);
        else if ((n = read(tool->errors, text + used, sizeof(text) - 1 - used)) > 0)
            used += (size_t)n;
    }
    while (used > 0 && text[used - 1] == '\n')
        used--;
    text[used] = 0;
    close_fd(&tool->errors);
    int status = child_wait(tool->pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (late)
        return fail(failure, ETIMEDOUT, record,
                    "cannot map ids: %s does not end: does the user database (getent passwd) answer?", tool->path);
    return fail(failure, EPERM, record, "cannot map ids with %s: %s", tool->path, used ? text : "it failed");
}

/* Both tools at once: each costs about a millisecond, most of it its own start. */
static int run_tools(const struct plan *plan, const struct record *record, pid_t pid, struct failure *failure)
{
    int64_t seconds = record_int(record, 2);
    int64_t deadline = now() + (seconds > 0 ? seconds : TOOL_SECONDS) * SECOND;
    struct tool users = {.pid = -1, .errors = -1, .path = record_text(record, 0), .deadline = deadline};
    struct tool groups = {.pid = -1, .errors = -1, .path = record_text(record, 1), .deadline = deadline};
    int result = 0;

    for (int which = 0; result == 0 && which < 2; which++) {
        struct tool *tool = which ? &groups : &users;
        if (start_tool(plan, pid, which, tool) < 0)
            result = fail(failure, errno, record, "cannot start %s: %s", tool->path, strerror(errno));
    }
    if (users.pid > 0 && finish_tool(&users, failure, record) < 0)
        result = -1;
    if (groups.pid > 0 && finish_tool(&groups, failure, record) < 0)
        result = -1;
    close_fd(&users.errors);
    close_fd(&groups.errors);
    return result;
}

static int set_up_ids(const struct plan *plan, const struct init_process *init, struct failure *failure)
{
    const struct record *tool = plan_find(plan, KIND_IDTOOL);

    return tool ? run_tools(plan, tool, init->pid, failure) : write_maps(plan, init->pid, failure);
}

/* The id outside that an inside one stands for, or -1. */
static int64_t outside_id(const struct plan *plan, int which, int64_t inside)
{
    const struct record *map = NULL;

    while ((map = plan_next(plan, KIND_IDMAP, map))) {
        int64_t first = record_int(map, 1);
        if (record_int(map, 0) == which && inside >= first && inside - first < record_int(map, 3))
            return record_int(map, 2) + inside - first;
    }
    return -1;
}

/* Called by uid 0, init becomes another user, and has to write in the scratch directory. */
static int give_scratch(const struct plan *plan, struct failure *failure)
{
    const struct record *scratch = plan_find(plan, KIND_SCRATCH), *identity = plan_find(plan, KIND_IDENTITY);

    if (!scratch || !identity || geteuid() != 0)
        return 0;
    int fd cleanup_fd = sys_openat2(AT_FDCWD, record_text(scratch, 0), O_RDONLY | O_DIRECTORY, 0, K_RESOLVE_NO_SYMLINKS);
    unsigned maker = record_extra(identity) > 3 ? 2 : 0;
    int64_t uid = outside_id(plan, 0, record_int(identity, maker));
    int64_t gid = outside_id(plan, 1, record_int(identity, maker + 1));
    if (fd < 0 || uid < 0 || gid < 0 || fchown(fd, (uid_t)uid, (gid_t)gid) < 0)
        return fail(failure, errno, scratch, "cannot give %s to the sandbox's user: %s", record_text(scratch, 0),
                    strerror(errno));
    return 0;
}

/* Who may divide the cgroup inside: the payload's user, by its id outside. */
static int nest(const struct plan *plan, const struct box *box, pid_t pid, struct failure *failure)
{
    const struct record *identity = plan_find(plan, KIND_IDENTITY);
    int64_t uid = identity ? outside_id(plan, 0, record_int(identity, 0)) : -1;
    int64_t gid = identity ? outside_id(plan, 1, record_int(identity, 1)) : -1;

    return box_nest(box, plan, pid, (uid_t)uid, (gid_t)gid, failure);
}

void init_clear(struct init_process *init)
{
    init->pid = -1;
    init->pidfd = init->socket = init->userns = init->netns = -1;
}

void init_abandon(struct init_process *init)
{
    child_end(&init->pid);
    close_fd(&init->pidfd);
    close_fd(&init->socket);
    close_fd(&init->userns);
    close_fd(&init->netns);
}

static int explain_clone(int error, struct failure *failure)
{
    switch (error) {
    case EPERM:
    case EACCES:
        return fail(failure, error, NULL, "cannot make namespaces: user namespaces are not allowed here (%s)",
                    strerror(error));
    case ENOSPC:
    case EUSERS:
        return fail(failure, error, NULL,
                    "cannot make namespaces: the limit on user namespaces or their depth is reached (%s)",
                    strerror(error));
    default:
        return fail(failure, error, NULL, "cannot make namespaces: %s", strerror(error));
    }
}

/* The kernel does not say whether it refused the cgroup or a namespace. */
static bool is_about_cgroup(int error)
{
    return error == EACCES || error == EBUSY || error == EOPNOTSUPP || error == ENODEV || error == EAGAIN;
}

static int explain_cgroup(const struct plan *plan, int error, struct failure *failure)
{
    const struct record *record = plan ? plan_find(plan, KIND_CGROUP) : NULL;

    return fail(failure, error, record, "cannot start a process in the cgroup: %s", strerror(error));
}

uint64_t init_known(int64_t flags)
{
    return (uint64_t)flags & (K_CLONE_NEWCGROUP | K_CLONE_NEWUTS | K_CLONE_NEWIPC | K_CLONE_NEWNET);
}

uint64_t init_namespaces(const struct plan *plan)
{
    const struct record *record = plan_find(plan, KIND_NAMESPACES);

    return record ? init_known(record_int(record, 0)) : 0;
}

bool init_waits(const struct plan *plan)
{
    return plan_find(plan, KIND_SERVICE) || plan_find(plan, KIND_NFT) || plan_find(plan, KIND_ADDRESS) ||
           plan_find(plan, KIND_PUBLISH) || plan_find(plan, KIND_PCAP) || plan_find(plan, KIND_VETH);
}

/* While it can be looked at: later init is undumpable. */
static int open_namespaces(struct init_process *init, uint64_t namespaces)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/ns/user", init->pid);
    init->userns = open(path, O_RDONLY | O_CLOEXEC);
    if (init->userns < 0 || !(namespaces & K_CLONE_NEWNET))
        return init->userns;
    snprintf(path, sizeof(path), "/proc/%d/ns/net", init->pid);
    init->netns = open(path, O_RDONLY | O_CLOEXEC);
    return init->netns;
}

int init_clone(uint64_t namespaces, const struct plan *plan, const struct command_stdio *stdio, int run,
               struct init_process *init, struct failure *failure)
{
    int pair[2], pidfd = -1;
    struct k_clone_args args = {
        .flags = namespaces | K_CLONE_NEWUSER | K_CLONE_NEWPID | K_CLONE_PIDFD | K_CLONE_CLEAR_SIGHAND,
        .pidfd = (uint64_t)(uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
    };

    init_clear(init);
    if (run >= 0) {
        args.flags |= K_CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)run;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return fail(failure, errno, NULL, "cannot make a socket: %s", strerror(errno));
    init->pid = sys_clone3(&args);
    if (init->pid == 0) {
        close(pair[0]);
        init_main(plan, stdio, pair[1]);
    }
    int error = errno;
    close(pair[1]);
    init->socket = pair[0];
    init->pidfd = pidfd;
    if (init->pid < 0) {
        init_abandon(init);
        return run >= 0 && is_about_cgroup(error) ? explain_cgroup(plan, error, failure)
                                                  : explain_clone(error, failure);
    }
    if (open_namespaces(init, namespaces) < 0) {
        error = errno;
        init_abandon(init);
        return fail(failure, error, NULL, "cannot open the new namespaces: %s", strerror(error));
    }
    return 0;
}

/* What an init that was made ahead can't have inherited goes along. */
static int send_begin(int plan_fd, const struct command_stdio *stdio, const struct init_process *init)
{
    struct message begin = {.type = MSG_MAPPED};
    int fds[MESSAGE_FDS], count = 0;

    if (plan_fd < 0)
        return message_send(init->socket, &begin, NULL, NULL, 0);
    fds[count++] = plan_fd;
    for (int i = 0; i < 3; i++)
        if (stdio->fd[i] >= 0)
            fds[count++] = stdio->fd[i];
    begin.size = sizeof(*stdio);
    return message_send(init->socket, &begin, stdio, fds, count);
}

int init_begin(const struct plan *plan, int plan_fd, const struct command_stdio *stdio, const struct box *box,
               struct init_process *init, struct failure *failure)
{
    if (give_scratch(plan, failure) < 0 || set_up_ids(plan, init, failure) < 0 ||
        nest(plan, box, init->pid, failure) < 0) {
        init_abandon(init);
        return -1;
    }
    if (send_begin(plan_fd, stdio, init) < 0) {
        init_abandon(init);
        return fail(failure, EPIPE, NULL, "cannot start: init ended before it began");
    }
    return 0;
}
