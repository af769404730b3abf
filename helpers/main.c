/* The helper's roles: one executable, so that there is one thing to install and to protect. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files.h"
#include "helper.h"
#include "scratch.h"

/* -1 when it is no descriptor's number. */
static int descriptor(const char *text)
{
    char *end;
    long fd = strtol(text, &end, 10);

    return *text && *end == 0 && fd >= 0 && fd < 1 << 20 ? (int)fd : -1;
}

static int read_plan(const char *text, struct plan *plan)
{
    const char *why = "its descriptor is not a number";
    int fd = descriptor(text);

    if (fd >= 0 && plan_read(fd, plan, &why) == 0)
        return 0;
    dprintf(2, "sandbox: cannot read the plan: %s\n", why);
    return -1;
}

static void print_field(const struct field *field)
{
    putchar('"');
    for (uint32_t i = 0; i < field->size; i++)
        printf("%02x", (unsigned char)field->data[i]);
    putchar('"');
}

/* For tests: what was understood of a plan, a line of JSON a record, fields in hexadecimal. */
static int decode(const char *fd)
{
    struct plan plan;

    if (read_plan(fd, &plan) < 0)
        return EXIT_OURS;
    for (uint32_t i = 0; i < plan.count; i++) {
        const struct record *record = &plan.records[i];
        printf("{\"kind\": %d, \"fields\": [", record->kind);
        for (unsigned f = 0; f < record->nfields; f++) {
            if (f)
                printf(", ");
            print_field(&record->fields[f]);
        }
        printf("]}\n");
    }
    plan_free(&plan);
    return fflush(stdout) == 0 ? 0 : EXIT_OURS;
}

static int run(const char *fd)
{
    struct plan plan;
    int status;

    if (read_plan(fd, &plan) < 0)
        return EXIT_OURS;
    struct made_ahead ahead = {
        .plan_fd = -1, .scope = {.base = -1}, .box = {.base = -1, .dir = -1, .run = -1}};
    init_clear(&ahead.init);
    status = supervisor_main(&plan, &ahead);
    plan_free(&plan);
    return status;
}

/* The same for a supervisor that outlives whoever started it: it is nobody's child, and in a session of its own. */
static int run_apart(const char *fd)
{
    pid_t pid = fork();

    if (pid != 0)
        return pid < 0 ? EXIT_OURS : 0;
    return setsid() < 0 || chdir("/") < 0 ? EXIT_OURS : run(fd);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        init_arguments(argv[1], argv[argc - 1] + strlen(argv[argc - 1]));
    if (argc == 3 && strcmp(argv[1], "run") == 0)
        return run(argv[2]);
    if (argc == 3 && strcmp(argv[1], "apart") == 0)
        return run_apart(argv[2]);
    if (argc == 5 && strcmp(argv[1], "broker") == 0 && descriptor(argv[2]) >= 0 && descriptor(argv[3]) >= 0)
        return broker_main(descriptor(argv[2]), descriptor(argv[3]), init_known(strtoll(argv[4], NULL, 10)));
    if (argc == 3 && strcmp(argv[1], "sweep") == 0) {
        scratch_sweep(argv[2]);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "files") == 0)
        return files_main();
    if (argc == 3 && strcmp(argv[1], "decode") == 0)
        return decode(argv[2]);
    if (argc == 2 && strcmp(argv[1], "true") == 0)
        return 0;
    if (argc == 2 && strcmp(argv[1], "version") == 0)
        return puts("sandbox-helper, plan version 1") < 0 || fflush(stdout) != 0 ? EXIT_OURS : 0;
    dprintf(2, "sandbox: the helper is started by sandbox itself; run `sandbox --help`\n");
    return EXIT_OURS;
}
