/* Reports. See report.h. */

#include "report.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- texts ---------------------------------------------------------------------------------- */

void text_free(struct text *text)
{
    free(text->data);
    *text = (struct text){0};
}

static bool make_room(struct text *text, size_t more)
{
    size_t capacity = text->capacity ? text->capacity : 1024;
    char *larger;

    if (text->failed)
        return false;
    while (capacity - text->size <= more)
        capacity *= 2;
    if (capacity == text->capacity)
        return true;
    larger = realloc(text->data, capacity);
    if (!larger) {
        text_free(text);
        text->failed = true;
        return false;
    }
    text->data = larger;
    text->capacity = capacity;
    return true;
}

void text_add(struct text *text, const char *format, ...)
{
    va_list arguments;
    int size;

    va_start(arguments, format);
    size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (size < 0 || !make_room(text, (size_t)size))
        return;
    va_start(arguments, format);
    vsnprintf(text->data + text->size, text->capacity - text->size, format, arguments);
    va_end(arguments);
    text->size += (size_t)size;
}

/* How many bytes a well-formed UTF-8 sequence at `at` has (RFC 3629: no overlong forms, no
 * surrogates, nothing above U+10FFFF), or 0. */
static int sequence(const unsigned char *at)
{
    unsigned char low = 0x80, high = 0xbf;
    int more;

    if (at[0] < 0x80)
        return 1;
    if (at[0] < 0xc2 || at[0] > 0xf4)
        return 0;
    more = at[0] < 0xe0 ? 1 : at[0] < 0xf0 ? 2 : 3;
    if (at[0] == 0xe0)
        low = 0xa0;
    else if (at[0] == 0xed)
        high = 0x9f;
    else if (at[0] == 0xf0)
        low = 0x90;
    else if (at[0] == 0xf4)
        high = 0x8f;
    for (int i = 1; i <= more; i++, low = 0x80, high = 0xbf)
        if (at[i] < low || at[i] > high)
            return 0;
    return more + 1;
}

/* C0, DEL and C1: what a terminal would obey. */
static bool is_control(const unsigned char *at)
{
    return at[0] < 0x20 || at[0] == 0x7f || (at[0] == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0);
}

static void add_bytes(struct text *text, const unsigned char *at, int size)
{
    text_add(text, "%.*s", size, (const char *)at);
}

void text_add_string(struct text *text, const char *string)
{
    const unsigned char *at = (const unsigned char *)string;

    text_add(text, "\"");
    while (*at) {
        int size = sequence(at);
        if (size == 0)
            text_add(text, "\\ufffd");
        else if (is_control(at))
            text_add(text, "\\u%04x", size == 1 ? at[0] : at[1]);
        else if (*at == '"' || *at == '\\')
            text_add(text, "\\%c", *at);
        else
            add_bytes(text, at, size);
        at += size ? size : 1;
    }
    text_add(text, "\"");
}

void text_add_visible(struct text *text, const char *string)
{
    const unsigned char *at = (const unsigned char *)string;

    while (*at) {
        int size = sequence(at);
        if (size == 0)
            text_add(text, "\\x%02x", *at);
        else if (is_control(at))
            text_add(text, "\\x%02x", size == 1 ? at[0] : at[1]);
        else
            add_bytes(text, at, size);
        at += size ? size : 1;
    }
}

/* --- quantities ----------------------------------------------------------------------------- */

/* The twin of sandbox.units.format_size: exact where few digits can be, else with one decimal. */
static const char *format_size(char *buffer, size_t size, int64_t bytes)
{
    static const char *const letters[] = {"", "K", "M", "G", "T", "P", "E"};
    int power = 0;

    while (power < 6 && bytes >> (10 * (power + 1)) > 0)
        power++;
    for (int down = power; down >= 0 && down >= power - 1; down--) {
        int64_t unit = (int64_t)1 << (10 * down);
        if (bytes % unit == 0 && bytes / unit < 10000) {
            snprintf(buffer, size, "%lld%s", (long long)(bytes / unit), letters[down]);
            return buffer;
        }
    }
    snprintf(buffer, size, "%.1f%s", (double)bytes / (double)((int64_t)1 << (10 * power)), letters[power]);
    return buffer;
}

/* Like "%.3f" without what zeros there are at the end. */
static void print_trimmed(char *buffer, size_t size, double value, const char *unit)
{
    char digits[32];

    snprintf(digits, sizeof(digits), "%.3f", value);
    size_t length = strlen(digits);
    while (length > 0 && digits[length - 1] == '0')
        length--;
    if (length > 0 && digits[length - 1] == '.')
        length--;
    snprintf(buffer, size, "%.*s%s", (int)length, digits, unit);
}

/* The twin of sandbox.units.format_duration: 500ms, 1.5s, 1m30s. */
static const char *format_duration(char *buffer, size_t size, int64_t ns)
{
    static const int lengths[] = {86400, 3600, 60, 1};
    int64_t left = (ns + 500000000) / 1000000000;
    size_t used = 0;

    if (ns < 1000000000) {
        print_trimmed(buffer, size, (double)ns / 1e6, "ms");
        return buffer;
    }
    if (ns < 59999500000) {
        print_trimmed(buffer, size, (double)ns / 1e9, "s");
        return buffer;
    }
    for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        if (left >= lengths[i] && used < size)
            used += (size_t)snprintf(buffer + used, size - used, "%lld%c", (long long)(left / lengths[i]),
                                     "dhms"[i]);
        left %= lengths[i];
    }
    return buffer;
}

/* --- the line for people -------------------------------------------------------------------- */

static const char *by_what(const char *mechanism)
{
    if (strcmp(mechanism, "cgroup") == 0)
        return ", by cgroup";
    return strncmp(mechanism, "best-effort", 11) == 0 ? ", by best-effort polling" : "";
}

static int64_t peak(const struct outcome *outcome)
{
    return outcome->counted || outcome->memory > outcome->max_rss ? outcome->memory : outcome->max_rss;
}

static void describe_limit(char *line, size_t size, const struct limits *limits,
                           const struct outcome *outcome, int kind)
{
    char limit[32], used[32];
    int64_t value = kind == LIMIT_TIMEOUT && outcome->timeout > 0 ? outcome->timeout : limits->value[kind];
    const char *how = outcome->fired >= 0 ? "killed" : "failed";

    switch (kind) {
    case LIMIT_TIMEOUT:
        snprintf(line, size, "killed: timeout %s (wall %.1fs)", format_duration(limit, sizeof(limit), value),
                 (double)outcome->wall / 1e9);
        break;
    case LIMIT_CPU_TIME:
        snprintf(line, size, "%s: cpu_time limit %s (used %.1fs%s)", how,
                 format_duration(limit, sizeof(limit), value),
                 (double)(outcome->user + outcome->system) / 1e6, by_what(limits->mechanism[kind]));
        break;
    case LIMIT_MEMORY:
        snprintf(line, size, "%s: memory limit %s (peak %s%s)", how, format_size(limit, sizeof(limit), value),
                 format_size(used, sizeof(used), peak(outcome)), by_what(limits->mechanism[kind]));
        break;
    case LIMIT_PIDS:
        snprintf(line, size, "%s: pids limit %lld was reached%s", how, (long long)value,
                 limits->by_cgroup[kind] ? " (by cgroup)" : "");
        break;
    default:
        if (value < 0)
            snprintf(line, size, "%s: a file system of the sandbox was full", how);
        else
            snprintf(line, size, "%s: %s limit %s%s", how, limit_names[kind],
                     format_size(limit, sizeof(limit), value), outcome->fired >= 0 ? "" : " was reached");
    }
}

void report_message(char *line, size_t size, const struct limits *limits, const struct outcome *outcome)
{
    struct judgement judgement = judge(limits, outcome);

    line[0] = 0;
    if (judgement.limit >= 0)
        describe_limit(line, size, limits, outcome, judgement.limit);
    else if (*outcome->text)
        snprintf(line, size, "%s", outcome->text);
}

/* --- the result ----------------------------------------------------------------------------- */

static void add_value(struct text *text, int kind, int64_t value)
{
    if (kind == LIMIT_TIMEOUT || kind == LIMIT_CPU_TIME)
        text_add(text, "%lld.%09lld", (long long)(value / 1000000000), (long long)(value % 1000000000));
    else
        text_add(text, "%lld", (long long)value);
}

static void add_limit(struct text *text, const struct limits *limits, const struct outcome *outcome, int kind)
{
    int64_t value = kind < 0 ? -1 : limits->value[kind];
    const char *mechanism = kind < 0 ? "" : limits->mechanism[kind];

    if (kind == LIMIT_TIMEOUT && outcome->timeout > 0) {
        value = outcome->timeout;
        mechanism = "clock";
    }
    if (value < 0) {
        text_add(text, "null");
        return;
    }
    text_add(text, "{\"name\":\"%s\",\"value\":", limit_names[kind]);
    add_value(text, kind, value);
    text_add(text, ",\"mechanism\":");
    text_add_string(text, mechanism);
    text_add(text, "}");
}

static void add_hit(struct text *text, unsigned hit)
{
    const char *comma = "";

    text_add(text, "[");
    for (int i = 0; i < LIMIT_KINDS; i++) {
        if (!(hit & 1u << i))
            continue;
        text_add(text, "%s\"%s\"", comma, limit_names[i]);
        comma = ",";
    }
    text_add(text, "]");
}

static void add_measured(struct text *text, const char *name, int64_t value)
{
    if (value < 0)
        text_add(text, ",\"%s\":null", name);
    else
        text_add(text, ",\"%s\":%lld", name, (long long)value);
}

static void add_seconds(struct text *text, const char *name, int64_t us)
{
    text_add(text, "\"%s\":%lld.%06lld", name, (long long)(us / 1000000), (long long)(us % 1000000));
}

static void add_waited(struct text *text, const char *name, int64_t us)
{
    text_add(text, ",");
    if (us < 0)
        text_add(text, "\"%s\":null", name);
    else
        add_seconds(text, name, us);
}

static void add_usage(struct text *text, const struct outcome *outcome)
{
    text_add(text, "{");
    add_seconds(text, "wall", outcome->wall / 1000);
    text_add(text, ",");
    add_seconds(text, "cpu_user", outcome->user);
    text_add(text, ",");
    add_seconds(text, "cpu_system", outcome->system);
    add_measured(text, "memory_peak", peak(outcome));
    add_measured(text, "pids_peak", outcome->tasks);
    add_measured(text, "output", outcome->output);
    add_measured(text, "disk_peak", outcome->disk);
    add_measured(text, "io_read", outcome->read);
    add_measured(text, "io_written", outcome->written);
    add_waited(text, "cpu_throttled", outcome->throttled);
    add_waited(text, "pressure_cpu", outcome->pressure_cpu);
    add_waited(text, "pressure_memory", outcome->pressure_memory);
    add_waited(text, "pressure_io", outcome->pressure_io);
    text_add(text, "}");
}

static bool in_plan(const struct plan *plan, const char *limit)
{
    const struct record *record = NULL;

    while ((record = plan_next(plan, KIND_LIMIT, record)))
        if (strcmp(record_text(record, 0), limit) == 0)
            return true;
    return false;
}

/* Every limit of the plan and what held it, also those that no verdict is about. */
static void add_enforced(struct text *text, const struct plan *plan, const struct limits *limits,
                         const struct outcome *outcome)
{
    const struct record *record = NULL;
    bool clock = outcome->timeout > 0;
    const char *comma = "";

    text_add(text, "{");
    for (int i = 0; i < LIMIT_KINDS; i++) /* set while it ran */
        if (limits->by_cgroup[i] && limits->value[i] >= 0 && !in_plan(plan, limit_names[i])) {
            text_add(text, "%s\"%s\":\"cgroup\"", comma, limit_names[i]);
            comma = ",";
        }
    while ((record = plan_next(plan, KIND_LIMIT, record))) {
        text_add(text, "%s", comma);
        text_add_string(text, record_text(record, 0));
        text_add(text, ":");
        text_add_string(text, record_text(record, 2));
        clock = clock && strcmp(record_text(record, 0), "timeout") != 0;
        comma = ",";
    }
    text_add(text, clock ? "%s\"timeout\":\"clock\"}" : "}", comma);
}

static void add_status(struct text *text, const struct outcome *outcome)
{
    if (outcome->exec_status)
        text_add(text, ",\"exit_code\":%d,\"signal\":null", outcome->exec_status);
    else if (WIFSIGNALED(outcome->status))
        text_add(text, ",\"exit_code\":null,\"signal\":%d", WTERMSIG(outcome->status));
    else
        text_add(text, ",\"exit_code\":%d,\"signal\":null", WEXITSTATUS(outcome->status));
}

void report_result(struct text *text, const struct plan *plan, int32_t id, const struct outcome *outcome,
                   const struct limits *limits, const char *more)
{
    struct judgement judgement = judge(limits, outcome);
    char line[1200];

    report_message(line, sizeof(line), limits, outcome);
    text_add(text, "{\"event\":\"result\",\"id\":%d", id);
    text_add(text, ",\"verdict\":\"%s\"", verdict_names[judgement.verdict]);
    add_status(text, outcome);
    text_add(text, ",\"limit\":");
    add_limit(text, limits, outcome, judgement.limit);
    text_add(text, ",\"hit\":");
    add_hit(text, judgement.hit);
    text_add(text, ",\"usage\":");
    add_usage(text, outcome);
    text_add(text, ",\"enforced\":");
    add_enforced(text, plan, limits, outcome);
    text_add(text, "%s,\"message\":", more ? more : "");
    text_add_string(text, line);
    text_add(text, "}");
}

/* --- failures ------------------------------------------------------------------------------- */

static const char *origin_of(const struct failure *failure)
{
    return failure->record ? record_origin(failure->record) : "";
}

/* "cannot make namespaces: why" is about "make namespaces". */
const char *report_operation(const struct failure *failure, char *buffer, size_t size)
{
    const char *from = failure->text;

    if (failure->record && *record_description(failure->record))
        return record_description(failure->record);
    if (strncmp(from, "cannot ", 7) == 0)
        from += 7;
    snprintf(buffer, size, "%.*s", (int)strcspn(from, ":"), from);
    return buffer;
}

#define ANY_ERROR 0
#define ANY_KIND 0
#define ANY_MOUNT 1 /* an operation on the root */

static bool is_about(const struct record *record, int kind)
{
    int own = record ? record->kind : ANY_KIND;

    return kind == ANY_KIND || kind == own || (kind == ANY_MOUNT && own >= KIND_TMPFS && own < KIND_ARGV);
}

/* Only constant texts: a profile may be somebody else's, and a mend is something to be typed. The first that
 * fits; what is about the machine as a whole is for `doctor` to mend. */
const char *report_mend(const struct failure *failure)
{
    static const struct {
        int kind, error;
        bool written; /* helps only where somebody wrote what failed: what is ours can't be changed */
        const char *mend;
    } known[] = {
        {KIND_BIND, ENOENT, true, "create what is missing; or, for a source, write optional = true for this mount"},
        {KIND_BIND, EACCES, true, "make it readable for yourself, or mount something else"},
        {KIND_BIND, ELOOP, true, "name its real path: `realpath PATH` prints it"},
        {KIND_OVERLAY, EINVAL, true, "choose another mode for this mount, or another directory"},
        {KIND_WORKDIR, ENOENT, false, "mount it, or choose another directory (--workdir, cwd=)"},
        {KIND_WORKDIR, ENOTDIR, false, "choose a directory (--workdir, cwd=)"},
        {KIND_WORKDIR, EACCES, false, "choose another directory (--workdir, cwd=)"},
        {KIND_WORKDIR, ELOOP, false, "choose another directory (--workdir, cwd=)"},
        {KIND_RLIMIT, EPERM, false, "lower the limit, or raise the caller's hard one (ulimit -H)"},
        {KIND_NPROC, EPERM, false, "lower the limit, or raise the caller's hard one (ulimit -H)"},
        {KIND_NICE, EACCES, true, "choose a process.nice that is not below the caller's"},
        {KIND_KEYRING, EDQUOT, false, "raise the quota (sysctl kernel.keys.maxkeys), or run fewer at once"},
        {KIND_PUBLISH, EADDRINUSE, true, "publish another port; `ss -ltunp` shows who has it"},
        {KIND_PUBLISH, EACCES, true, "publish a port from 1024 on"},
        {KIND_PUBLISH, EADDRNOTAVAIL, true, "publish at an address of this machine; `ip address` shows them"},
        {KIND_DIRECTORY, ENOTDIR, true, "start elsewhere, as by --workdir /; or choose another image"},
        {ANY_MOUNT, EBUSY, false, "mount it on another path, as in /mnt"},
        {ANY_MOUNT, ENOENT, true, "create what is missing"},
        {ANY_MOUNT, ENOTDIR, true, "mount it on another path; what a kept sandbox put there: `sandbox diff NAME`"},
        {ANY_MOUNT, ELOOP, true, "name its real path: `realpath PATH` prints it"},
        {ANY_MOUNT, EROFS, true, "create the mount point in the root"},
        {ANY_MOUNT, ENOSPC, false, "raise limits.disk"},
        {ANY_MOUNT, ENOTDIR, false, "make it a directory in the root, or choose another root"},
        {ANY_MOUNT, ELOOP, false, "make it a directory in the root, and no link, or choose another root"},
        {ANY_KIND, EMFILE, false, "raise the limit on open files (ulimit -Hn), or run fewer at once"},
        {ANY_KIND, ETOOMANYREFS, false, "raise the limit on open files (ulimit -Hn), or run fewer at once"},
        {KIND_CGROUP_SET, ENODEV, true, "name CPUs of /sys/fs/cgroup/cpuset.cpus.effective"},
        {KIND_CGROUP_SET, ENOMEM, true, "raise limits.memory"},
        {KIND_CGROUP_SET, ANY_ERROR, true, "`sandbox doctor` says what can be had here"},
        {KIND_CGROUP, ANY_ERROR, false, "`sandbox doctor` says what can be had here; --cgroup-parent none does without"},
        {ANY_KIND, EAGAIN, false, "raise the limit on processes (ulimit -Hu), or run fewer at once"},
    };
    const struct record *record = failure->record;
    bool written = record && *record_origin(record);

    for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if ((known[i].error == failure->error || known[i].error == ANY_ERROR) && is_about(record, known[i].kind) &&
            (written || !known[i].written))
            return known[i].mend;
    return "";
}

void report_error(struct text *text, const struct failure *failure)
{
    char operation[sizeof(failure->text)];

    text_add(text, "{\"event\":\"error\",\"operation\":");
    text_add_string(text, report_operation(failure, operation, sizeof(operation)));
    text_add(text, ",\"origin\":");
    text_add_string(text, origin_of(failure));
    text_add(text, ",\"errno\":%d,\"errno_name\":\"%s\"", failure->error, error_name(failure->error));
    text_add(text, ",\"message\":");
    text_add_string(text, failure->text);
    text_add(text, ",\"mend\":");
    text_add_string(text, report_mend(failure));
    text_add(text, "}");
}

int report_write(int fd, struct text *text)
{
    text_add(text, "\n");
    if (fd < 0)
        return 0;
    if (!text->data) {
        errno = ENOMEM;
        return -1;
    }
    return write_all(fd, text->data, text->size);
}

void report_say(int fd, const char *format, ...)
{
    struct text line cleanup_text = {0};
    char message[1400];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    text_add(&line, "sandbox: ");
    text_add_visible(&line, message);
    text_add(&line, "\n");
    if (line.data)
        write_all(fd, line.data, line.size);
}

void report_say_failure(int fd, const struct failure *failure)
{
    const char *mend = report_mend(failure), *origin = origin_of(failure);

    if (*origin)
        report_say(fd, "%s (%s)", failure->text, origin);
    else
        report_say(fd, "%s", failure->text);
    if (*mend)
        report_say(fd, "  mend: %s", mend);
}
