/* From init to the command. The child makes the inner user namespace B, whose ids are A's own, so
 * that whatever rights the command has in B, it has none over A, which owns the mounts, the network
 * and the other namespaces. Then it gives away what the plan says and executes.
 */

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "payload.h"
#include "sys.h"

#define LAST_SIGNAL 64
#define MAX_GROUPS 64
#define CHILD_LOOK_MS 50
#define CHILD_PATIENCE 200 /* looks: 10 s, on a machine that has much else to do */

/* --- in the child --------------------------------------------------------------------------- */

static _Noreturn void give_up(int channel, const struct plan *plan, const struct failure *failure, int status)
{
    struct payload_error error = {.error = failure->error, .status = status, .record = -1};

    if (failure->record)
        error.record = (int32_t)(failure->record - plan->records);
    snprintf(error.text, sizeof(error.text), "%s", failure->text);
    while (send(channel, &error, sizeof(error), MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
    _exit(status);
}

static void reset_signals(void)
{
    sigset_t none;

    for (int i = 1; i <= LAST_SIGNAL; i++)
        signal(i, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* A pty's session is led by init, and the command is its foreground group; without a terminal the
 * command leads a session of its own. SIGTTOU would stop a background process that calls tcsetpgrp. */
static int join_session(const struct payload *payload)
{
    sigset_t stop;
    int result;

    if (payload->terminal < 0)
        return setsid() < 0 ? -1 : 0;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTTOU);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    result = setpgid(0, 0) < 0 || tcsetpgrp(payload->terminal, getpgrp()) < 0 ? -1 : 0;
    sigprocmask(SIG_UNBLOCK, &stop, NULL);
    return result;
}

/* The sources are all above 2: init moved them there. */
static int place_stdio(const struct payload *payload)
{
    for (int i = 0; i < 3; i++) {
        int fd = payload->stdio[i] >= 0 ? payload->stdio[i] : payload->terminal;
        if (dup2(fd, i) < 0)
            return -1;
    }
    return 0;
}

/* Those that a root's own group(5) gives to its user; else there are none. */
static int take_groups(const struct root *root)
{
    gid_t groups[MAX_GROUPS];
    unsigned count = root->identity ? record_extra(root->identity) : 0;

    if (count <= 4)
        return 0;
    if (count - 4 > MAX_GROUPS) {
        errno = E2BIG;
        return -1;
    }
    for (unsigned i = 4; i < count; i++)
        groups[i - 4] = (gid_t)record_int(root->identity, i);
    return setgroups(count - 4, groups);
}

static int take_identity(const struct root *root)
{
    gid_t gid = getgid(), egid = getegid();

    if (take_groups(root) < 0)
        return -1;
    if ((gid != root->gid || egid != root->gid) && setresgid(root->gid, root->gid, root->gid) < 0)
        return -1;
    if ((getuid() != root->uid || geteuid() != root->uid) && setresuid(root->uid, root->uid, root->uid) < 0)
        return -1;
    return 0;
}

/* "0-3,6", as sandbox.cgroup writes it. */
static int set_affinity(const struct record *record)
{
    unsigned long mask[1024 / sizeof(unsigned long)] = {0}; /* 8192 CPUs, the most of any kernel */
    unsigned long got[1024 / sizeof(unsigned long)] = {0};
    const unsigned long bits = 8 * sizeof(mask[0]);
    const char *at = record_text(record, 0);

    while (*at) {
        char *end;
        unsigned long first = strtoul(at, &end, 10), last = *end == '-' ? strtoul(end + 1, &end, 10) : first;
        for (unsigned long cpu = first; cpu <= last && cpu < 8 * sizeof(mask); cpu++)
            mask[cpu / bits] |= 1ul << cpu % bits;
        at = *end == ',' ? end + 1 : end;
        if (at == end && *at)
            break;
    }
    /* CPUs that are not the caller's to use are left out in silence. */
    if (syscall(SYS_sched_setaffinity, 0, sizeof(mask), mask) < 0 ||
        syscall(SYS_sched_getaffinity, 0, sizeof(got), got) < 0)
        return -1;
    errno = EINVAL;
    return memcmp(mask, got, sizeof(mask)) == 0 ? 0 : -1;
}

static int set_limits(const struct plan *plan, struct failure *failure)
{
    const struct record *record = NULL;

    while ((record = plan_next(plan, KIND_RLIMIT, record))) {
        struct rlimit limit = {.rlim_cur = (rlim_t)record_int(record, 1), .rlim_max = (rlim_t)record_int(record, 2)};
        if (setrlimit((unsigned)record_int(record, 0), &limit) < 0)
            return fail(failure, errno, record, "cannot %s: %s", record_description(record),
                        errno == EPERM ? "it is above the caller's own hard limit" : strerror(errno));
    }
    record = plan_find(plan, KIND_AFFINITY);
    if (record && set_affinity(record) < 0)
        return fail(failure, errno, record, "cannot %s: %s", record_description(record),
                    errno == EINVAL ? "not all of these CPUs are ours to use" : strerror(errno));
    record = plan_find(plan, KIND_NICE);
    if (record && setpriority(PRIO_PROCESS, 0, (int)record_int(record, 0)) < 0)
        return fail(failure, errno, record, "cannot %s: %s", record_description(record), strerror(errno));
    return 0;
}

/* RLIMIT_NPROC, set before B is made, becomes B's own cap on the tasks of all its ids together
 * (set afterwards it would count each id apart); init is counted with them. Linux 5.14. */
static int enter_inner_namespace(const struct plan *plan, int channel, struct failure *failure)
{
    const struct record *record = plan_find(plan, KIND_NPROC);
    char answer = 0;

    if (record) {
        struct rlimit limit;
        limit.rlim_cur = limit.rlim_max = (rlim_t)record_int(record, 0) + 1;
        if (setrlimit(RLIMIT_NPROC, &limit) < 0)
            return fail(failure, errno, record, "cannot %s: %s", record_description(record),
                        errno == EPERM ? "it is above the caller's own hard limit" : strerror(errno));
    }
    if (unshare(CLONE_NEWUSER) < 0)
        return fail(failure, errno, NULL, "cannot make the inner user namespace: %s", strerror(errno));
    /* Its maps are written by init, and only a dumpable process's can be (proc(5)). */
    if (prctl(PR_SET_DUMPABLE, 1) < 0 || send(channel, "u", 1, MSG_NOSIGNAL) != 1 ||
        recv(channel, &answer, 1, 0) != 1 || answer != 'g' || prctl(PR_SET_DUMPABLE, 0) < 0)
        return fail(failure, errno, NULL, "cannot map the inner user namespace");
    return 0;
}

/* The counts are B's own, and take CAP_SYS_RESOURCE in B to be raised again. The sysctls are those of the
 * process that looks them up (namespaces(7)), so they can't be set from outside. Mount namespaces too:
 * in one of its own a payload could take off what pins a directory in its place. */
static int limit_namespaces(const struct record *record, int proc, struct failure *failure)
{
    static const char *const names[] = {"sys/user/max_user_namespaces", "sys/user/max_mnt_namespaces"};

    for (unsigned i = 0; i < 2; i++) {
        int fd cleanup_fd = openat(proc, names[i], O_WRONLY | O_CLOEXEC);
        if (fd < 0 || dprintf(fd, "%lld\n", (long long)record_int(record, 0)) < 0)
            return fail(failure, errno, record, "cannot %s: %s", record_description(record), strerror(errno));
    }
    return 0;
}

static int load_filter(const struct plan *plan, struct failure *failure)
{
    const struct record *record = plan_find(plan, KIND_SECCOMP);

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return fail(failure, errno, NULL, "cannot set no_new_privs: %s", strerror(errno));
    if (!record)
        return 0;
    const struct field *field = record_field(record, 0);
    if (field->size == 0 || field->size % sizeof(struct sock_filter) ||
        field->size / sizeof(struct sock_filter) > 4096)
        return fail(failure, EINVAL, record, "cannot %s: it is no program", record_description(record));
    struct sock_fprog program = {.len = (unsigned short)(field->size / sizeof(struct sock_filter)),
                                 .filter = (struct sock_filter *)(uintptr_t)field->data};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
        return fail(failure, errno, record, "cannot %s: %s", record_description(record), strerror(errno));
    return 0;
}

/* By descriptor and without magic links: /proc/self/fd/N would be a directory of whoever opened it
 * (runc's CVE-2024-21626). Nothing but the channel is open any more, either. */
static int enter_workdir(const struct payload *payload, struct failure *failure)
{
    int fd cleanup_fd =
        sys_openat2(AT_FDCWD, payload->workdir, O_PATH | O_DIRECTORY, 0, K_RESOLVE_NO_MAGICLINKS);

    if (fd < 0 || fchdir(fd) < 0)
        return fail(failure, errno, plan_find(payload->plan, KIND_WORKDIR),
                    "cannot enter the working directory %s: %s", payload->workdir,
                    errno == ELOOP    ? "it leads through a link of /proc"
                    : errno == EACCES ? "the sandbox's user may not (called by root, that is another user: "
                                        "chmod o+rx it)"
                                      : strerror(errno));
    return 0;
}

/* What needs descriptors or rights that go next. */
static int prepare_rights(const struct payload *payload, const struct root *root, struct failure *failure)
{
    const struct record *keyring = plan_find(payload->plan, KIND_KEYRING);
    const struct record *umask_record = plan_find(payload->plan, KIND_UMASK);
    const struct record *namespaces = plan_find(payload->plan, KIND_USERNS_MAX);

    if (namespaces && limit_namespaces(namespaces, root->proc, failure) < 0)
        return -1;
    if (keyring && syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0)
        return fail(failure, errno, keyring, "cannot %s: %s", record_description(keyring), strerror(errno));
    umask(umask_record ? (mode_t)record_int(umask_record, 0) & 0777 : 022);
    return 0;
}

static int restrict_rights(const struct payload *payload, const struct root *root, struct failure *failure)
{
    const struct record *capabilities = plan_find(payload->plan, KIND_CAPABILITIES);
    uint64_t mask = capabilities ? (uint64_t)record_int(capabilities, 0) : 0;

    if (enter_workdir(payload, failure) < 0)
        return -1;
    if (set_capabilities(mask, root->uid == 0 ? 0 : mask) < 0)
        return fail(failure, errno, capabilities, "cannot set capabilities: %s", strerror(errno));
    return load_filter(payload->plan, failure);
}

static int exec_status(int error)
{
    return error == ENOENT || error == ENOTDIR ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
}

static int try_exec(const char *path, const struct payload *payload, struct failure *failure)
{
    struct stat status;
    int error;

    execve(path, payload->argv, payload->envp);
    error = errno;
    /* The first file that is there, and can't be run for want of something else, is the reason that is told. */
    if (failure->error || lstat(path, &status) < 0)
        return error;
    failure->error = error;
    explain_exec(path, error, failure->text, sizeof(failure->text));
    return error;
}

static const char *find_path(char *const *envp)
{
    for (; *envp; envp++)
        if (strncmp(*envp, "PATH=", 5) == 0)
            return *envp + 5;
    return "/usr/local/bin:/usr/bin:/bin";
}

/* Like execvp(3), but with the command's own PATH, without its shell, and remembering a reason. */
static void search_and_exec(const struct payload *payload, struct failure *failure)
{
    const char *name = payload->argv[0], *from = find_path(payload->envp);
    char path[PATH_MAX];

    if (strchr(name, '/')) {
        int error = try_exec(name, payload, failure);
        if (!failure->error)
            fail(failure, error, NULL, "%s: %s", name, strerror(error));
        return;
    }
    while (*name && strlen(name) < NAME_MAX + 1) {
        size_t length = strcspn(from, ":");
        int n = length ? snprintf(path, sizeof(path), "%.*s/%s", (int)(length < PATH_MAX ? length : PATH_MAX), from, name)
                       : snprintf(path, sizeof(path), "./%s", name);
        if (n > 0 && (size_t)n < sizeof(path))
            try_exec(path, payload, failure);
        if (!from[length])
            break;
        from += length + 1;
    }
    if (!*name)
        fail(failure, ENOENT, NULL, "the command's name is empty");
    else if (!failure->error)
        fail(failure, ENOENT, NULL, "%s: not found in the sandbox's PATH (%s)", name, find_path(payload->envp));
}

/* Nothing else is open any more but stdio. The channel is where it ends up. */
static int place_descriptors(struct payload *payload, int *channel, struct failure *failure)
{
    int last = listen_place(payload->listening, *channel);

    if (last < 0)
        return fail(failure, errno, NULL, "cannot close descriptors: %s", strerror(errno));
    *channel = last;
    if (payload->listening->count == 0)
        return 0;
    payload->envp = listen_environment(payload->listening, payload->plan, payload->envp);
    return payload->envp ? 0 : fail(failure, ENOMEM, NULL, "cannot start the command: %s", strerror(ENOMEM));
}

static _Noreturn void become_payload(const struct payload *given, const struct root *root, int channel)
{
    struct payload own = *given, *payload = &own;
    struct failure failure = {0};

    reset_signals();
    if (join_session(payload) < 0 || place_stdio(payload) < 0 || take_identity(root) < 0) {
        fail(&failure, errno, NULL, "cannot prepare the command: %s", strerror(errno));
        give_up(channel, payload->plan, &failure, EXIT_OURS);
    }
    if (set_limits(payload->plan, &failure) < 0 ||
        enter_inner_namespace(payload->plan, channel, &failure) < 0 ||
        prepare_rights(payload, root, &failure) < 0 || place_descriptors(payload, &channel, &failure) < 0 ||
        restrict_rights(payload, root, &failure) < 0)
        give_up(channel, payload->plan, &failure, EXIT_OURS);
    send(channel, PAYLOAD_READY, 1, MSG_NOSIGNAL);
    search_and_exec(payload, &failure);
    give_up(channel, payload->plan, &failure, exec_status(failure.error));
}

/* --- in init -------------------------------------------------------------------------------- */

struct map_text {
    char *text;
    size_t size, used;
};

/* The ids from `first` on, up to `end`. */
static int map_line(struct map_text *map, long long first, long long end)
{
    if (first >= end)
        return 0;
    size_t left = map->size - map->used;
    int n = snprintf(map->text + map->used, left, "%lld %lld %lld\n", first, first, end - first);
    if (n < 0 || (size_t)n >= left)
        return -1;
    map->used += (size_t)n;
    return 0;
}

/* B's maps are A's, id for id, but for the one that what serves the root runs as: whoever has no such id can't
 * signal it. */
static int identity_map(const struct plan *plan, int which, char *text, size_t size)
{
    struct map_text map = {.text = text, .size = size};
    const struct record *record = NULL, *fuse = plan_find(plan, KIND_FUSE);
    long long server = fuse ? (long long)record_int(fuse, 1u + (unsigned)which) : -1;

    while ((record = plan_next(plan, KIND_IDMAP, record))) {
        long long first = (long long)record_int(record, 1), end = first + (long long)record_int(record, 3);
        bool split = first <= server && server < end;
        if (record_int(record, 0) != which)
            continue;
        if (map_line(&map, first, split ? server : end) < 0 || (split && map_line(&map, server + 1, end) < 0))
            return -1;
    }
    return (int)map.used;
}

static int write_at(int proc, pid_t pid, const char *file, const char *text, size_t size)
{
    char path[48];

    snprintf(path, sizeof(path), "%d/%s", pid, file);
    int fd cleanup_fd = openat(proc, path, O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, text, size) == (ssize_t)size ? 0 : -1;
}

static int map_inner(const struct plan *plan, int proc, pid_t pid)
{
    static const char *const files[] = {"uid_map", "gid_map"};
    char text[8192];

    for (int which = 1; which >= 0; which--) {
        int size = identity_map(plan, which, text, sizeof(text));
        if (size < 0 || write_at(proc, pid, files[which], text, (size_t)size) < 0)
            return -1;
    }
    return 0;
}

/* Wait for the child's first word. Other commands of the sandbox are the same user and can stop it: then
 * it is killed, since init has others to serve. */
static int wait_for_child(const struct started *started)
{
    struct pollfd channel = {.fd = started->channel, .events = POLLIN};

    for (int i = 0; i < CHILD_PATIENCE; i++) {
        siginfo_t info = {0};
        if (poll(&channel, 1, CHILD_LOOK_MS) > 0)
            return 0;
        if (waitid(P_PID, (id_t)started->pid, &info, WSTOPPED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0)
            break;
    }
    errno = ECANCELED;
    return -1;
}

static int finish_inner(const struct payload *payload, const struct root *root, struct started *started,
                        struct failure *failure)
{
    char path[48], word = 0;
    struct stat status;

    if (wait_for_child(started) < 0)
        return fail(failure, errno, NULL, "cannot start the command: something in the sandbox stopped it");
    ssize_t n = recv(started->channel, &word, 1, MSG_PEEK);
    if (n != 1 || word != 'u')
        return 0; /* it failed before: what it says is read as any other failure */
    if (recv(started->channel, &word, 1, 0) != 1)
        return -1;
    snprintf(path, sizeof(path), "%d/ns/user", started->pid);
    if (map_inner(payload->plan, root->proc, started->pid) < 0 || fstatat(root->proc, path, &status, 0) < 0)
        return fail(failure, errno, NULL, "cannot map the inner user namespace: %s", strerror(errno));
    started->userns = status.st_ino;
    if (send(started->channel, "g", 1, MSG_NOSIGNAL) != 1)
        return fail(failure, errno, NULL, "cannot start the command: %s", strerror(errno));
    return 0;
}

int payload_start(const struct payload *payload, const struct root *root, struct started *started,
                  struct failure *failure)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return fail(failure, errno, NULL, "cannot start the command: %s", strerror(errno));
    started->userns = 0;
    started->channel = pair[0];
    started->pid = fork();
    if (started->pid == 0)
        become_payload(payload, root, pair[1]);
    int error = errno;
    close(pair[1]);
    if (started->pid < 0) {
        close_fd(&started->channel);
        return fail(failure, error, NULL, "cannot start the command: %s", strerror(error));
    }
    if (finish_inner(payload, root, started, failure) < 0) {
        kill(started->pid, SIGKILL);
        waitpid(started->pid, NULL, 0);
        close_fd(&started->channel);
        return -1;
    }
    return 0;
}

int payload_drop_rights(const struct root *root)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};

    if (take_identity(root) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0 ||
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return -1;
    return (int)syscall(SYS_capset, &header, none);
}
