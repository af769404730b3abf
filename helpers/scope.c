/* Where cgroups can be made: entering that place, and having it hand down controllers. See cgroup.h. */

#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "bus.h"
#include "helper.h"

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
    return strcmp(cgroup_read(dir, "cgroup.procs", text, sizeof(text)), own) == 0;
}

/* A cgroup with processes in it hands nothing down, so we go one below. */
static int step_down(const struct scope *scope, struct failure *failure)
{
    if (mkdirat(scope->base, "mgr", 0755) < 0 && errno != EEXIST)
        return fail(failure, errno, scope->record, "cannot make a cgroup for ourselves: %s", strerror(errno));
    if (cgroup_write(scope->base, "mgr/cgroup.procs", "0") < 0)
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

    cgroup_read(scope->base, "cgroup.controllers", there, sizeof(there));
    cgroup_read(scope->base, "cgroup.subtree_control", given, sizeof(given));
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
        if (cgroup_write(scope->base, "cgroup.subtree_control", word) < 0 && needed)
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
