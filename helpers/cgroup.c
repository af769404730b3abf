/* The cgroup of a sandbox. See cgroup.h. All paths are names below descriptors that we hold. */

#include "cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "bus.h"
#include "helper.h"

#define PREFIX "sandbox-"
#define DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
/* What a payload that may nest can make of it. Each costs the kernel memory that nothing counts. */
#define NESTED_CGROUPS "1000"
#define NESTED_DEPTH "16"
/* How deep a tree may be that we remove. */
#define DEEPEST 64

/* --- files ---------------------------------------------------------------------------------- */

static int write_at(int dir, const char *file, const char *value)
{
    int fd cleanup_fd = openat(dir, file, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return -1;
    return write(fd, value, strlen(value)) == (ssize_t)strlen(value) ? 0 : -1;
}

/* A small file's text; "" when there is none. */
static const char *read_at(int dir, const char *file, char *text, size_t size)
{
    int fd cleanup_fd = openat(dir, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

    text[n > 0 ? n : 0] = 0;
    return text;
}

/* Is a word among those that spaces and newlines part? */
static bool has_word(const char *text, const char *word, size_t size)
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
    long long value = strtoll(read_at(dir, file, text, sizeof(text)), &end, 10);

    return end == text ? -1 : value;
}

/* --- entering ------------------------------------------------------------------------------- */

/* Our own cgroup in the hierarchy of version 2 (cgroups(7)): the line that begins with "0::". */
static int own_cgroup(char *path, size_t size)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[4200];
    bool found = false;

    while (file && !found && fgets(line, sizeof(line), file)) {
        line[strcspn(line, "\n")] = 0;
        found = strncmp(line, "0::", 3) == 0 && (size_t)snprintf(path, size, "%s", line + 3) < size;
    }
    if (file)
        fclose(file);
    return found ? 0 : -1;
}

static bool ends_with(const char *text, const char *end)
{
    size_t size = strlen(text), wanted = strlen(end);

    return size >= wanted && strcmp(text + size - wanted, end) == 0;
}

/* Have systemd put us into a new scope, and find where that is. */
static int enter_by_bus(const struct place *place, const struct record *record, int lifeline, char path[4608],
                        struct failure *failure)
{
    char unit[64], own[4096] = "";

    if (bus_start_scope(place->path, lifeline, record, unit, failure) < 0)
        return -1;
    if (own_cgroup(own, sizeof(own)) < 0 || !ends_with(own, unit))
        return fail(failure, ESRCH, record, "cannot enter the scope %s: we are in %s", unit, own);
    snprintf(path, 4608, "%s%s", place->mount, own);
    return 0;
}

/* Are we in it, and nobody else? */
static bool stands_alone_in(int dir)
{
    char text[64], own[16];

    snprintf(own, sizeof(own), "%d\n", (int)getpid());
    return strcmp(read_at(dir, "cgroup.procs", text, sizeof(text)), own) == 0;
}

/* A cgroup with processes in it hands nothing down, so we go one below. */
static int step_down(const struct scope *scope, struct failure *failure)
{
    if (mkdirat(scope->base, "mgr", 0755) < 0 && errno != EEXIST)
        return fail(failure, errno, scope->record, "cannot make a cgroup for ourselves: %s", strerror(errno));
    if (write_at(scope->base, "mgr/cgroup.procs", "0") < 0)
        return fail(failure, errno, scope->record, "cannot leave our cgroup: %s", strerror(errno));
    return 0;
}

/* Does the plan write a file of this controller's? Then that record. */
static const struct record *needed_by(const struct plan *plan, const char *controller)
{
    const struct record *record = NULL;
    size_t size = strlen(controller);

    while ((record = plan_next(plan, KIND_CGROUP_SET, record)))
        if (strncmp(record_text(record, 0), controller, size) == 0 && record_text(record, 0)[size] == '.' &&
            !record_int(record, 2))
            return record;
    return NULL;
}

/* What is to be handed down: what limits need, and what only counts where that can be had. */
static const struct controller {
    const char *name;
    bool counts;
} controllers[] = {{"memory", true}, {"pids", true}, {"cpu", true}, {"io", true}, {"cpuset", false}};

static bool is_wanted(const struct scope *scope, const struct plan *plan, const struct controller *controller)
{
    char there[256], given[256];

    read_at(scope->base, "cgroup.controllers", there, sizeof(there));
    read_at(scope->base, "cgroup.subtree_control", given, sizeof(given));
    if (has_word(given, controller->name, strlen(controller->name)))
        return false;
    return needed_by(plan, controller->name) ||
           (controller->counts && has_word(there, controller->name, strlen(controller->name)));
}

static int hand_down(const struct scope *scope, const struct plan *plan, struct failure *failure)
{
    char word[16];

    for (unsigned i = 0; i < sizeof(controllers) / sizeof(controllers[0]); i++) {
        const char *name = controllers[i].name;
        const struct record *needed = needed_by(plan, name);
        if (!is_wanted(scope, plan, &controllers[i]))
            continue;
        snprintf(word, sizeof(word), "+%s", name);
        if (write_at(scope->base, "cgroup.subtree_control", word) < 0 && needed)
            return fail(failure, errno, needed, "cannot %s: the %s controller can't be had: %s",
                        record_description(needed), name, strerror(errno));
    }
    return 0;
}

/* The top of the whole hierarchy is the machine's, and not ours to change. */
static int divide_top(const struct scope *scope, const struct plan *plan, struct failure *failure)
{
    for (unsigned i = 0; i < sizeof(controllers) / sizeof(controllers[0]); i++) {
        const struct record *needed = needed_by(plan, controllers[i].name);
        if (needed && is_wanted(scope, plan, &controllers[i]))
            return fail(failure, EPERM, needed, "cannot %s: the %s controller is not handed down",
                        record_description(needed), controllers[i].name);
    }
    return 0;
}

int scope_divide(const struct scope *scope, const struct plan *plan, struct failure *failure)
{
    if (scope->base < 0)
        return 0;
    if (faccessat(scope->base, "cgroup.type", F_OK, 0) < 0)
        return divide_top(scope, plan, failure);
    for (unsigned i = 0; i < sizeof(controllers) / sizeof(controllers[0]); i++)
        if (is_wanted(scope, plan, &controllers[i]) && stands_alone_in(scope->base) &&
            step_down(scope, failure) < 0)
            return -1;
    return hand_down(scope, plan, failure);
}

void scope_place(const struct plan *plan, struct place *place)
{
    const struct record *record = plan_find(plan, KIND_CGROUP);

    memset(place, 0, sizeof(*place)); /* it is compared, and written to a pipe */
    if (!record || record_field(record, 1)->size >= sizeof(place->path) ||
        record_field(record, 2)->size >= sizeof(place->mount))
        return;
    snprintf(place->way, sizeof(place->way), "%s", record_text(record, 0));
    snprintf(place->path, sizeof(place->path), "%s", record_text(record, 1));
    snprintf(place->mount, sizeof(place->mount), "%s", record_text(record, 2));
}

bool scope_fits(const struct place *place, const struct plan *plan)
{
    struct place wanted;

    scope_place(plan, &wanted);
    return *wanted.way && memcmp(&wanted, place, sizeof(wanted)) == 0;
}

int scope_open(const struct place *place, const struct record *record, int lifeline, struct scope *scope,
               struct failure *failure)
{
    char path[4608];
    struct statfs status;

    *scope = (struct scope){.base = -1, .record = record};
    snprintf(path, sizeof(path), "%s", place->path);
    if (strcmp(place->way, "bus") == 0 && enter_by_bus(place, record, lifeline, path, failure) < 0)
        return -1;
    scope->base = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (scope->base < 0)
        return fail(failure, errno, record, "cannot open the cgroup %s: %s", path, strerror(errno));
    if (fstatfs(scope->base, &status) == 0 && status.f_type == CGROUP2_SUPER_MAGIC)
        return 0;
    scope_leave(scope);
    return fail(failure, EINVAL, record, "cannot use %s: it is not in a cgroup v2 file system", path);
}

int scope_enter(const struct plan *plan, int lifeline, struct scope *scope, struct failure *failure)
{
    const struct record *record = plan_find(plan, KIND_CGROUP);
    struct place place;

    *scope = (struct scope){.base = -1, .record = record};
    if (!record)
        return 0;
    scope_place(plan, &place);
    if (!*place.way)
        return fail(failure, ENAMETOOLONG, record, "cannot enter a cgroup: its path is too long");
    if (scope_open(&place, record, lifeline, scope, failure) < 0)
        return -1;
    if (scope_divide(scope, plan, failure) == 0)
        return 0;
    scope_leave(scope);
    return -1;
}

void scope_leave(struct scope *scope)
{
    close_fd(&scope->base);
}

/* --- removing ------------------------------------------------------------------------------- */

/* Remove what is below a cgroup. A payload that may nest makes trees: as deep as its limit lets it. */
static void remove_below(int dir, int depth)
{
    int copy = openat(dir, ".", DIRECTORY);
    DIR *list = copy < 0 ? NULL : fdopendir(copy);
    struct dirent *entry;

    if (!list) {
        close_fd(&copy);
        return;
    }
    while ((entry = readdir(list))) {
        if (entry->d_name[0] == '.' || entry->d_type != DT_DIR)
            continue;
        int below cleanup_fd = openat(dir, entry->d_name, DIRECTORY);
        if (below >= 0 && depth < DEEPEST)
            remove_below(below, depth + 1);
        unlinkat(dir, entry->d_name, AT_REMOVEDIR);
    }
    closedir(list);
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

static void remove_box(int base, int dir, const char *name)
{
    write_at(dir, "cgroup.kill", "1");
    wait_until_empty(dir);
    remove_below(dir, 0);
    unlinkat(base, name, AT_REMOVEDIR);
}

void box_kill(const struct box *box)
{
    if (box->dir >= 0)
        write_at(box->dir, "cgroup.kill", "1");
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
    if (box->run >= 0)
        return 1;
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

    read_at(box->dir, "cpuset.cpus.effective", text, sizeof(text));
    text[strcspn(text, "\n")] = 0;
    return strcmp(text, cpus) == 0;
}

int box_write(const struct box *box, const char *file, const char *value)
{
    char before[4096];
    bool cpus = strcmp(file, "cpuset.cpus") == 0;

    if (cpus)
        read_at(box->dir, file, before, sizeof(before));
    if (write_at(box->dir, file, value) < 0)
        return -1;
    if (!cpus || *value == '\n' || is_effective(box, value))
        return 0;
    write_at(box->dir, file, before);
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

    read_at(dir, "cgroup.controllers", there, sizeof(there));
    for (const char *at = there; *at;) {
        int length = (int)strcspn(at, " \n");
        snprintf(word, sizeof(word), "+%.*s", length, at);
        if (length && write_at(dir, "cgroup.subtree_control", word) < 0)
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
    if (mkdirat(box->run, "main", 0755) < 0 || write_at(box->run, "main/cgroup.procs", pid) < 0 ||
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

    read_at(box->dir, "cpu.stat", text, sizeof(text));
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

    counters->oom = value_of(read_at(box->dir, "memory.events.local", text, sizeof(text)), "oom");
    counters->oom_kill = value_of(read_at(box->dir, "memory.events", text, sizeof(text)), "oom_kill");
    counters->tasks_refused = value_of(read_at(box->dir, "pids.events", text, sizeof(text)), "max");
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
    read_at(box->dir, "io.stat", text, sizeof(text));
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
    const char *total = strstr(read_at(box->dir, file, text, sizeof(text)), "total=");

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
