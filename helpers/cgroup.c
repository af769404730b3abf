/* The cgroup of a sandbox. See cgroup.h. All paths are names below descriptors that we hold. */

#include "cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "helper.h"
#include "sys.h"

#define PREFIX "sandbox-"
#define DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
/* What a payload that may nest can make of it. Each costs the kernel memory that nothing counts. */
#define NESTED_CGROUPS "1000"
#define NESTED_DEPTH "16"
/* How deep a tree may be that we remove. */
#define DEEPEST 64
/* How often our own cgroup may have been killed for its processes to be cloned into another one. */
#define MOST_KILLS 1000

/* --- files ---------------------------------------------------------------------------------- */

int cgroup_write(int dir, const char *file, const char *value)
{
    int fd cleanup_fd = openat(dir, file, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return -1;
    return write(fd, value, strlen(value)) == (ssize_t)strlen(value) ? 0 : -1;
}

/* A small file's text; "" when there is none. */
const char *cgroup_read(int dir, const char *file, char *text, size_t size)
{
    int fd cleanup_fd = openat(dir, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

    text[n > 0 ? n : 0] = 0;
    return text;
}

/* Is a word among those that spaces and newlines part? */
bool has_word(const char *text, const char *word, size_t size)
{
    for (const char *at = text; *at;) {
        size_t length = strcspn(at, " \n");
        if (length == size && strncmp(at, word, size) == 0)
            return true;
        at += length;
        at += strspn(at, " \n");
    }
    return false;
}

/* The number behind a key at the beginning of a line, "key 123"; -1 when there is none. */
static int64_t value_of(const char *text, const char *key)
{
    size_t size = strlen(key);

    for (const char *line = text; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
        if (strncmp(line, key, size) == 0 && line[size] == ' ')
            return strtoll(line + size + 1, NULL, 10);
    return -1;
}

/* A file that is one number; -1 when there is none, or no limit. */
static int64_t number_at(int dir, const char *file)
{
    char text[64], *end;
    long long value = strtoll(cgroup_read(dir, file, text, sizeof(text)), &end, 10);

    return end == text ? -1 : value;
}

/* --- removing ------------------------------------------------------------------------------- */

/* Visit all cgroups below one, the deepest first. A payload that may nest makes trees: as deep as its limit
 * lets it, and with names that no ls(1) shows. */
static void walk(int dir, int depth, void (*visit)(int above, const char *name, int dir))
{
    int copy = openat(dir, ".", DIRECTORY);
    DIR *list = copy < 0 ? NULL : fdopendir(copy);
    struct dirent *entry;

    if (!list) {
        close_fd(&copy);
        return;
    }
    while ((entry = readdir(list))) {
        if (is_dot(entry->d_name) || entry->d_type != DT_DIR)
            continue;
        int below cleanup_fd = openat(dir, entry->d_name, DIRECTORY);
        if (below >= 0 && depth < DEEPEST)
            walk(below, depth + 1, visit);
        visit(dir, entry->d_name, below);
    }
    closedir(list);
}

static void remove_one(int above, const char *name, int dir)
{
    (void)dir;
    unlinkat(above, name, AT_REMOVEDIR);
}

/* Lift the limits on what a process takes time for. */
static void hurry_one(int above, const char *name, int dir)
{
    char text[4096], line[96];

    (void)above, (void)name;
    cgroup_write(dir, "cpu.max", "max");
    cgroup_read(dir, "io.max", text, sizeof(text));
    for (const char *at = text; *at; at += strcspn(at, "\n"), at += *at == '\n') {
        snprintf(line, sizeof(line), "%.*s rbps=max wbps=max riops=max wiops=max", (int)strcspn(at, " "), at);
        cgroup_write(dir, "io.max", line);
    }
}

/* The dead leave a moment after they are reaped. */
static void wait_until_empty(int dir)
{
    char text[128];

    for (int round = 0; round < 200; round++) {
        int fd cleanup_fd = openat(dir, "cgroup.events", O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
        text[n > 0 ? n : 0] = 0;
        if (value_of(text, "populated") != 1)
            return;
        struct pollfd change = {.fd = fd, .events = POLLPRI};
        poll(&change, 1, 10);
    }
}

/* Once all of it is about to die nobody can set the payload's own limits again. */
static void kill_all(int dir)
{
    cgroup_write(dir, "cgroup.kill", "1");
    hurry_one(-1, "", dir);
    walk(dir, 0, hurry_one);
}

static void remove_box(int base, int dir, const char *name)
{
    kill_all(dir);
    wait_until_empty(dir);
    walk(dir, 0, remove_one);
    unlinkat(base, name, AT_REMOVEDIR);
}

void box_hurry(const struct box *box)
{
    if (box->dir >= 0)
        hurry_one(-1, "", box->dir);
}

void box_kill(const struct box *box)
{
    if (box->dir >= 0)
        kill_all(box->dir);
}

void box_remove(struct box *box)
{
    if (box->dir >= 0)
        remove_box(box->base, box->dir, box->name);
    close_fd(&box->run);
    close_fd(&box->dir);
}

void scope_sweep(const struct scope *scope)
{
    int copy = scope->base < 0 ? -1 : openat(scope->base, ".", DIRECTORY);
    DIR *list = copy < 0 ? NULL : fdopendir(copy);
    struct dirent *entry;

    if (!list) {
        close_fd(&copy);
        return;
    }
    while ((entry = readdir(list))) {
        if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) != 0 || entry->d_type != DT_DIR)
            continue;
        int dir cleanup_fd = openat(scope->base, entry->d_name, DIRECTORY);
        if (dir >= 0 && flock(dir, LOCK_EX | LOCK_NB) == 0)
            remove_box(scope->base, dir, entry->d_name);
    }
    closedir(list);
}

/* --- making --------------------------------------------------------------------------------- */

/* Whether a process that is cloned into it lives to its first step. Also when none can be made: that is for
 * whoever makes the real one to explain. */
static bool lets_live(int run)
{
    struct k_clone_args args = {.flags = K_CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)run};
    pid_t pid = sys_clone3(&args);
    int status = 0;

    if (pid == 0)
        _exit(0);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return pid < 0 || !WIFSIGNALED(status);
}

/* The kernel kills whoever is cloned into a cgroup that cgroup.kill was not written to as often as to the one of its
 * maker: cgroup_css_set_fork() notes how often that was here, and cgroup_post_fork() compares it with there
 * (kernel/cgroup/cgroup.c, as seen in Linux 6.18). The number can't be read. */
static void make_enterable(int run)
{
    for (int round = 0; round < MOST_KILLS && !lets_live(run); round++)
        cgroup_write(run, "cgroup.kill", "1");
}

/* 1: made; 0: a sweep was quicker than our lock, another name may do; -1 with errno. */
static int try_box(struct box *box)
{
    uint32_t random;

    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return -1;
    snprintf(box->name, sizeof(box->name), PREFIX "%d-%08x", (int)getpid(), random);
    if (mkdirat(box->base, box->name, 0755) < 0)
        return errno == EEXIST ? 0 : -1;
    box->dir = openat(box->base, box->name, DIRECTORY);
    if (box->dir >= 0 && flock(box->dir, LOCK_EX | LOCK_NB) == 0 && mkdirat(box->dir, "run", 0755) == 0)
        box->run = openat(box->dir, "run", DIRECTORY);
    if (box->run >= 0) {
        make_enterable(box->run);
        return 1;
    }
    int error = errno;
    box_remove(box);
    errno = error;
    return error == EWOULDBLOCK || error == ENOENT || error == ENODEV ? 0 : -1;
}

int box_make(const struct scope *scope, struct box *box, struct failure *failure)
{
    *box = (struct box){.base = scope->base, .dir = -1, .run = -1};
    if (scope->base < 0)
        return 0;
    for (int round = 0, made = 0; round < 16; round++) {
        made = try_box(box);
        if (made > 0)
            return 0;
        if (made < 0)
            break;
    }
    return fail(failure, errno, scope->record, "cannot make a cgroup: %s", strerror(errno));
}

/* CPUs that are not ours to use the kernel leaves out in silence, and with none left takes all. */
static bool is_effective(const struct box *box, const char *cpus)
{
    char text[4096];

    cgroup_read(box->dir, "cpuset.cpus.effective", text, sizeof(text));
    text[strcspn(text, "\n")] = 0;
    return strcmp(text, cpus) == 0;
}

int box_write(const struct box *box, const char *file, const char *value)
{
    char before[4096];
    bool cpus = strcmp(file, "cpuset.cpus") == 0;

    if (cpus)
        cgroup_read(box->dir, file, before, sizeof(before));
    if (cgroup_write(box->dir, file, value) < 0)
        return -1;
    if (!cpus || *value == '\n' || is_effective(box, value))
        return 0;
    cgroup_write(box->dir, file, before);
    errno = ENODEV;
    return -1;
}

static int apply(const struct box *box, const struct record *record, struct failure *failure)
{
    const char *file = record_text(record, 0);

    if (box_write(box, file, record_text(record, 1)) == 0 || (errno == ENOENT && record_int(record, 2)))
        return 0;
    return fail(failure, errno, record, "cannot %s: %s", record_description(record),
                errno == ENODEV && strncmp(file, "cpuset.", 7) == 0 ? "not all of these CPUs are ours to use"
                                                                    : strerror(errno));
}

int box_limit(const struct box *box, const struct plan *plan, bool alone, struct failure *failure)
{
    const struct record *record = NULL, *scope = plan_find(plan, KIND_CGROUP);

    if (box->dir < 0)
        return 0;
    while ((record = plan_next(plan, KIND_CGROUP_SET, record))) {
        if (apply(box, record, failure) < 0)
            return -1;
        /* Half a command is no use to anybody: all of it, init too, or what the caller decides. */
        if (alone && strcmp(record_text(record, 0), "memory.max") == 0 &&
            box_write(box, "memory.oom.group", "1") < 0)
            return fail(failure, errno, record, "cannot set memory.oom.group: %s", strerror(errno));
    }
    if (scope && record_int(scope, 3) & CGROUP_NESTED &&
        (box_write(box, "cgroup.max.descendants", NESTED_CGROUPS) < 0 ||
         box_write(box, "cgroup.max.depth", NESTED_DEPTH) < 0))
        return fail(failure, errno, scope, "cannot bound the cgroups inside: %s", strerror(errno));
    return 0;
}

/* Hand down all that a cgroup has. */
static int hand_down_all(int dir)
{
    char there[256], word[32];

    cgroup_read(dir, "cgroup.controllers", there, sizeof(there));
    for (const char *at = there; *at;) {
        int length = (int)strcspn(at, " \n");
        snprintf(word, sizeof(word), "+%.*s", length, at);
        if (length && cgroup_write(dir, "cgroup.subtree_control", word) < 0)
            return -1;
        at += length;
        at += strspn(at, " \n");
    }
    return 0;
}

/* The files that make a cgroup somebody's to divide (/sys/kernel/cgroup/delegate). */
static int give(int dir, uid_t uid, gid_t gid)
{
    static const char *const files[] = {".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"};

    for (unsigned i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        if (fchownat(dir, files[i], uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
            return -1;
    return 0;
}

int box_nest(const struct box *box, const struct plan *plan, pid_t init, uid_t uid, gid_t gid,
             struct failure *failure)
{
    const struct record *record = plan_find(plan, KIND_CGROUP);
    char pid[16];

    if (box->dir < 0 || !record || !(record_int(record, 3) & CGROUP_NESTED))
        return 0;
    snprintf(pid, sizeof(pid), "%d", (int)init);
    if (mkdirat(box->run, "main", 0755) < 0 || cgroup_write(box->run, "main/cgroup.procs", pid) < 0 ||
        hand_down_all(box->dir) < 0 || hand_down_all(box->run) < 0)
        return fail(failure, errno, record, "cannot divide the cgroup for sandboxes inside: %s", strerror(errno));
    int leaf cleanup_fd = openat(box->run, "main", DIRECTORY);
    if (geteuid() == 0 && (leaf < 0 || give(box->run, uid, gid) < 0 || give(leaf, uid, gid) < 0))
        return fail(failure, errno, record, "cannot give the cgroup to the sandbox's user: %s", strerror(errno));
    return 0;
}

/* --- counters ------------------------------------------------------------------------------- */

static void read_cpu(const struct box *box, struct counters *counters)
{
    char text[1024];

    cgroup_read(box->dir, "cpu.stat", text, sizeof(text));
    counters->cpu = value_of(text, "usage_usec");
    counters->user = value_of(text, "user_usec");
    counters->system = value_of(text, "system_usec");
    counters->throttled = value_of(text, "throttled_usec");
}

void box_look(const struct box *box, struct counters *counters)
{
    read_cpu(box, counters);
    counters->memory = number_at(box->dir, "memory.current");
    counters->tasks = number_at(box->dir, "pids.current");
}

static bool is_there(const struct box *box, const char *file)
{
    return faccessat(box->dir, file, F_OK, 0) == 0;
}

bool box_notes_peaks(const struct box *box)
{
    return (is_there(box, "memory.peak") || !is_there(box, "memory.current")) &&
           (is_there(box, "pids.peak") || !is_there(box, "pids.current"));
}

/* Whose limit was hit only the box's own events tell (.local). A kill on the whole machine's behalf, or
 * for a limit that the payload set itself further down, grows the other counter alone. */
void box_events(const struct box *box, struct counters *counters)
{
    char text[512];

    counters->oom = value_of(cgroup_read(box->dir, "memory.events.local", text, sizeof(text)), "oom");
    counters->oom_kill = value_of(cgroup_read(box->dir, "memory.events", text, sizeof(text)), "oom_kill");
    counters->tasks_refused = value_of(cgroup_read(box->dir, "pids.events", text, sizeof(text)), "max");
}

/* Sum what all disks have: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...". */
static void read_io(const struct box *box, struct counters *counters)
{
    char text[16384];
    const struct {
        const char *key;
        int64_t *sum;
    } keys[] = {{"rbytes=", &counters->read},
                {"wbytes=", &counters->written},
                {"rios=", &counters->reads},
                {"wios=", &counters->writes}};

    if (!is_there(box, "io.stat"))
        return;
    cgroup_read(box->dir, "io.stat", text, sizeof(text));
    for (unsigned i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        *keys[i].sum = 0;
        for (const char *at = text; (at = strstr(at, keys[i].key)); at += strlen(keys[i].key))
            if (at == text || at[-1] == ' ')
                *keys[i].sum += strtoll(at + strlen(keys[i].key), NULL, 10);
    }
}

/* "some avg10=0.00 avg60=0.00 avg300=0.00 total=123": how long somebody waited for it, us. */
static int64_t read_pressure(const struct box *box, const char *file)
{
    char text[256];
    const char *total = strstr(cgroup_read(box->dir, file, text, sizeof(text)), "total=");

    return total ? strtoll(total + strlen("total="), NULL, 10) : -1;
}

void box_read(const struct box *box, struct counters *counters)
{
    memset(counters, 0xff, sizeof(*counters)); /* -1 everywhere */
    if (box->dir < 0)
        return;
    box_events(box, counters);
    box_look(box, counters);
    counters->memory_peak = number_at(box->dir, "memory.peak");
    counters->swap = number_at(box->dir, "memory.swap.current");
    counters->tasks_peak = number_at(box->dir, "pids.peak");
    read_io(box, counters);
    counters->pressure_cpu = read_pressure(box, "cpu.pressure");
    counters->pressure_memory = read_pressure(box, "memory.pressure");
    counters->pressure_io = read_pressure(box, "io.pressure");
}
