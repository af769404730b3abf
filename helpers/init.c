/* init: PID 1 inside, from the clone to the end. It builds the root, starts commands, reaps
 * everything, forwards signals, and answers the supervisor. It never executes anything itself,
 * and is undumpable for life: nothing inside can read or trace it.
 */

#include <errno.h>
#include <grp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "commands.h"
#include "helper.h"
#include "mounts.h"
#include "payload.h"
#include "sys.h"

/* Descriptors that stay through init's life are moved up here, so that 0, 1 and 2 are free. */
#define FIRST_KEPT 10

static _Noreturn void report_failure(const struct init *init, const struct failure *failure)
{
    struct message message = {.type = MSG_FAILED, .a = failure->error, .b = -1};

    if (failure->record)
        message.b = failure->record - init->plan->records;
    message.size = (uint32_t)strlen(failure->text) + 1;
    message_send(init->socket, &message, failure->text, NULL, 0);
    _exit(EXIT_OURS);
}

/* --- arguments ------------------------------------------------------------------------------ */

static char *first_argument, *end_of_arguments;

void init_arguments(char *first, char *end)
{
    first_argument = first;
    end_of_arguments = end;
}

/* Anybody inside reads /proc/1/cmdline, undumpable or not: with which role and descriptors we were started
 * is nothing for them. Where the last byte is not 0 the kernel shows what is before the first one (fs/proc/base.c,
 * get_mm_cmdline), that is, our name alone. */
static void hide_arguments(void)
{
    if (!first_argument)
        return;
    memset(first_argument, 0, (size_t)(end_of_arguments - first_argument));
    *end_of_arguments = '.';
}

/* --- set-up --------------------------------------------------------------------------------- */

/* Keep the socket and the stdio of a one-shot command, and close whatever else the supervisor had:
 * a copy of a pipe's other end here would keep it open. */
static int keep_descriptors(struct init *init, struct command_stdio *stdio)
{
    unsigned last = FIRST_KEPT;
    int aside = init->files.rlim_max < 1024 ? (int)(init->files.rlim_max / 2) : 512;
    int above = fcntl(init->socket, F_DUPFD_CLOEXEC, aside);

    if (above >= 0 && aside <= FIRST_KEPT + 4)
        errno = EMFILE;
    if (above < 0 || aside <= FIRST_KEPT + 4)
        return -1;
    init->socket = above;
    for (int i = 0; i < 3; i++)
        if (stdio->fd[i] >= 0 && (stdio->fd[i] = fcntl(stdio->fd[i], F_DUPFD_CLOEXEC, aside)) < 0)
            return -1;
    sys_close_range(0, (unsigned)aside - 1);
    init->null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (init->null < 0)
        return -1;
    init->null = fcntl(init->null, F_DUPFD_CLOEXEC, FIRST_KEPT);
    int *kept[] = {&init->socket, &stdio->fd[0], &stdio->fd[1], &stdio->fd[2]};
    for (unsigned i = 0; i < 4; i++) {
        if (*kept[i] < 0)
            continue;
        *kept[i] = fcntl(*kept[i], F_DUPFD_CLOEXEC, FIRST_KEPT);
        if (*kept[i] < 0)
            return -1;
        last = *kept[i] > (int)last ? (unsigned)*kept[i] : last;
    }
    for (int i = 0; i < 3; i++)
        if (dup2(init->null, i) < 0)
            return -1;
    return sys_close_range(last + 1, ~0u);
}

/* Each source of a mount is a descriptor until it is attached. The payload gets the old limits back. */
static void raise_descriptor_limit(struct init *init)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    init->files = limit;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* Made ahead, init has what a broker had: nothing of that is its business. */
static void let_go_of_broker(struct init *init)
{
    if (dup2(init->socket, 3) < 0 || sys_close_range(4, ~0u) < 0)
        _exit(EXIT_OURS);
    init->socket = 3;
    fcntl(init->socket, F_SETFD, FD_CLOEXEC);
}

/* The plan and the descriptors of an init that was made ahead. */
static void take_plan(struct init *init, struct command_stdio *stdio, const char *data, size_t size, int *fds)
{
    static struct plan plan;
    const char *why;
    int next = 1;

    if (size != sizeof(*stdio) || fds[0] < 0 || plan_read(fds[0], &plan, &why) < 0)
        _exit(EXIT_OURS);
    memcpy(stdio, data, sizeof(*stdio));
    for (int i = 0; i < 3; i++)
        if (stdio->fd[i] >= 0)
            stdio->fd[i] = next < MESSAGE_FDS ? fds[next++] : -1;
    close_fd(&fds[0]);
    init->plan = &plan;
}

/* The supervisor is gone, or gave up, when nothing comes. */
static void wait_for_maps(struct init *init, struct command_stdio *stdio)
{
    static char buffer[MESSAGE_MAX];
    const struct message *message = (const struct message *)(const void *)buffer;
    int fds[MESSAGE_FDS];

    if (message_receive(init->socket, buffer, fds) <= 0 || message->type != MSG_MAPPED)
        _exit(EXIT_OURS);
    if (!init->plan)
        take_plan(init, stdio, buffer + sizeof(*message), message->size, fds);
}

/* Until then nothing else comes: the supervisor passes on no request (see control.c). */
static void wait_for_release(const struct init *init)
{
    static char buffer[MESSAGE_MAX];
    const struct message *message = (const struct message *)(const void *)buffer;
    int fds[MESSAGE_FDS];

    if (message_receive(init->socket, buffer, fds) <= 0 || message->type != MSG_RELEASE)
        _exit(EXIT_OURS);
}

/* The caller's supplementary groups would stay with the command and open what they open. Where ids
 * are single the kernel forbids to drop them (user_namespaces(7)), which is documented. */
static int drop_groups(struct failure *failure)
{
    char word[8] = "";
    int fd cleanup_fd = open("/proc/self/setgroups", O_RDONLY | O_CLOEXEC);

    if (setgroups(0, NULL) == 0 || (fd >= 0 && read(fd, word, sizeof(word) - 1) > 0 && strncmp(word, "deny", 4) == 0))
        return 0;
    return fail(failure, EPERM, NULL, "cannot drop the supplementary groups: %s", strerror(EPERM));
}

/* From here on init is the payload's user in A too, or the owner of an image's files: nothing changes for a
 * caller whose own id that is, but uid 0, which no payload may be, is not mapped in A and could create nothing. */
static int take_ids(const struct root *root)
{
    if (setresgid(root->maker_gid, root->maker_gid, root->maker_gid) < 0)
        return -1;
    return setresuid(root->maker_uid, root->maker_uid, root->maker_uid);
}

static int bring_up_loopback(const struct record *record, struct failure *failure)
{
    struct ifreq request = {.ifr_name = "lo"};
    int fd cleanup_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
        return fail(failure, errno, record, "cannot bring lo up: %s", strerror(errno));
    request.ifr_flags |= IFF_UP;
    if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
        return fail(failure, errno, record, "cannot bring lo up: %s", strerror(errno));
    return 0;
}

static int set_namespaces(const struct init *init, struct failure *failure)
{
    const struct record *hostname = plan_find(init->plan, KIND_HOSTNAME);
    const struct record *loopback = plan_find(init->plan, KIND_LOOPBACK);

    /* Only now: in a copy made ahead of the plan, what was mounted since then would be missing, and what
     * was unmounted would still be in use. */
    if (unshare(CLONE_NEWNS) < 0)
        return fail(failure, errno, NULL, "cannot make a mount namespace: %s", strerror(errno));
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return fail(failure, errno, NULL, "cannot make the mounts private: %s", strerror(errno));
    if (hostname && sethostname(record_text(hostname, 0), strlen(record_text(hostname, 0))) < 0)
        return fail(failure, errno, hostname, "cannot set the host name: %s", strerror(errno));
    return loopback ? bring_up_loopback(loopback, failure) : 0;
}

/* Init scans processes, writes id maps and sets sysctls through a proc of its own, whether or not the
 * root shows one, and whatever is mounted on that. It goes with the pool: a mount that was never
 * attached is dissolved when init ends, for which the kernel waits once more (RCU). */
static int open_proc(struct root *root, struct failure *failure)
{
    int fs cleanup_fd = sys_fsopen("proc");

    if (fs >= 0 && sys_fsconfig(fs, K_FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        root->proc = sys_fsmount(fs, 0);
    int place cleanup_fd = openat(root->pool, "directory", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root->proc < 0 || place < 0 || sys_move_mount(root->proc, place) < 0)
        return fail(failure, errno, NULL, "cannot open a fresh proc: %s", strerror(errno));
    return 0;
}

/* Those of the network are the network namespace's own. Through our own proc, since the host's may be
 * read-only, as in containers. */
static int set_sysctls(const struct init *init, struct failure *failure)
{
    const struct record *record = NULL;
    char path[256];

    while ((record = plan_next(init->plan, KIND_SYSCTL, record))) {
        snprintf(path, sizeof(path), "sys/%s", record_text(record, 0));
        int fd cleanup_fd = openat(init->root.proc, path, O_WRONLY | O_CLOEXEC);
        const char *value = record_text(record, 1);
        if (fd < 0 || write(fd, value, strlen(value)) < 0)
            return fail(failure, errno, record, "cannot %s: %s", record_description(record), strerror(errno));
    }
    return 0;
}

static int become_undumpable(void)
{
    /* setresuid clears the parent-death signal, and sets dumpable as it likes: both come last. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0)
        return -1;
    return 0;
}

static int set_up(struct init *init, struct failure *failure)
{
    const struct record *identity = plan_find(init->plan, KIND_IDENTITY);
    struct root *root = &init->root;

    root->uid = identity ? (uid_t)record_int(identity, 0) : getuid();
    root->gid = identity ? (gid_t)record_int(identity, 1) : getgid();
    root->maker_uid = identity && record_extra(identity) > 3 ? (uid_t)record_int(identity, 2) : root->uid;
    root->maker_gid = identity && record_extra(identity) > 3 ? (gid_t)record_int(identity, 3) : root->gid;
    root->identity = identity;
    umask(0);
    if (drop_groups(failure) < 0)
        return -1;
    if (set_namespaces(init, failure) < 0 || root_open_sources(root, init->plan, failure) < 0)
        return -1;
    if (take_ids(root) < 0)
        return fail(failure, errno, identity, "cannot take the payload's ids: %s", strerror(errno));
    if (root_build(root, init->plan, failure) < 0 || open_proc(root, failure) < 0 ||
        set_sysctls(init, failure) < 0 || root_enter(root, failure) < 0)
        return -1;
    if (become_undumpable() < 0)
        return fail(failure, errno, NULL, "cannot protect init: %s", strerror(errno));
    setrlimit(RLIMIT_NOFILE, &init->files);
    return 0;
}

/* --- the pty -------------------------------------------------------------------------------- */

static int open_terminal(struct init *init, const struct command_stdio *stdio, struct failure *failure)
{
    char name[16];
    int number, unlock = 0;
    struct message message = {.type = MSG_TTY};

    if (init->root.devpts < 0)
        return fail(failure, ENOENT, NULL, "cannot make a terminal: the root has no /dev/pts");
    int master cleanup_fd = openat(init->root.devpts, "ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlock) < 0 || ioctl(master, TIOCGPTN, &number) < 0)
        return fail(failure, errno, NULL, "cannot make a terminal: %s", strerror(errno));
    snprintf(name, sizeof(name), "%d", number);
    init->terminal = openat(init->root.devpts, name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (init->terminal < 0 || tcsetattr(init->terminal, TCSANOW, &stdio->termios) < 0 ||
        ioctl(init->terminal, TIOCSWINSZ, &stdio->winsize) < 0 || ioctl(init->terminal, TIOCSCTTY, 0) < 0 ||
        fchown(init->terminal, init->root.uid, init->root.gid) < 0)
        return fail(failure, errno, NULL, "cannot prepare the terminal: %s", strerror(errno));
    return message_send(init->socket, &message, NULL, &master, 1) < 0
               ? fail(failure, errno, NULL, "cannot hand over the terminal: %s", strerror(errno))
               : 0;
}

/* --- life ----------------------------------------------------------------------------------- */

static int watch_children(struct init *init)
{
    sigset_t children;

    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    sigprocmask(SIG_SETMASK, &children, NULL);
    init->children = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
    return init->children;
}

static void start_one_shot(struct init *init, struct command_stdio *stdio, struct failure *failure)
{
    const struct record *argv = plan_find(init->plan, KIND_ARGV);

    if (!argv)
        return;
    if (stdio->pty && open_terminal(init, stdio, failure) < 0)
        report_failure(init, failure);
    if (commands_start_first(init, argv, stdio, failure) < 0)
        report_failure(init, failure);
}

/* The supervisor's end of the socket closing means that it died: so does everything here. */
static _Noreturn void serve(struct init *init)
{
    struct pollfd polls[2 + MAX_COMMANDS];

    for (;;) {
        unsigned count = commands_poll(init, polls);
        if (poll(polls, count, -1) < 0 && errno != EINTR)
            _exit(EXIT_OURS);
        if (polls[1].revents)
            commands_reap(init);
        commands_read_channels(init, polls, count);
        if (polls[0].revents)
            commands_message(init);
    }
}

_Noreturn void init_main(const struct plan *plan, const struct command_stdio *given, int socket)
{
    struct command_stdio stdio = given ? *given : (struct command_stdio){.fd = {-1, -1, -1}};
    struct failure failure = {0};
    struct message ready = {.type = MSG_READY};
    static struct init init;
    sigset_t none;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    hide_arguments();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGTTOU, SIG_IGN);
    init.plan = plan;
    init.socket = socket;
    init.null = init.terminal = init.children = -1;
    init.root = (struct root){.fd = -1, .pool = -1, .proc = -1, .devpts = -1, .scratch = -1, .kept = -1, .parent = {.fd = -1}};
    setsid();
    if (!plan)
        let_go_of_broker(&init);
    raise_descriptor_limit(&init);
    wait_for_maps(&init, &stdio);
    if (keep_descriptors(&init, &stdio) < 0) {
        fail(&failure, EMFILE, NULL, "cannot arrange descriptors: the limit on open files is %llu",
             (unsigned long long)init.files.rlim_max);
        report_failure(&init, &failure);
    }
    if (set_up(&init, &failure) < 0 || listen_open(&init.listening, init.plan, &failure) < 0)
        report_failure(&init, &failure);
    if (watch_children(&init) < 0) {
        fail(&failure, errno, NULL, "cannot watch children: %s", strerror(errno));
        report_failure(&init, &failure);
    }
    look_end(&init);
    if (init_waits(init.plan))
        wait_for_release(&init);
    message_send(init.socket, &ready, NULL, NULL, 0);
    start_one_shot(&init, &stdio, &failure);
    serve(&init);
}
