/* The commands that init runs: starting, reaping and ending them. A command's processes are those in its
 * inner user namespace B (or one nested in it), which no process can leave: so a command ends whole,
 * double forks included. Looking at processes is the business of processes.c and measure.c.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "commands.h"
#include "payload.h"
#include "sys.h"

/* --- the table ------------------------------------------------------------------------------ */

static struct command *by_id(struct init *init, int32_t id)
{
    for (unsigned i = 0; i < init->used; i++)
        if (init->commands[i].pid && init->commands[i].id == id)
            return &init->commands[i];
    return NULL;
}

const struct command *command_by_pid(const struct init *init, pid_t pid)
{
    for (unsigned i = 0; i < init->used; i++)
        if (init->commands[i].pid == pid)
            return &init->commands[i];
    return NULL;
}

static struct command *by_pid(struct init *init, pid_t pid)
{
    const struct command *command = command_by_pid(init, pid);

    return command ? &init->commands[command - init->commands] : NULL;
}

static struct command *free_place(struct init *init)
{
    for (unsigned i = 0; i < init->used; i++)
        if (!init->commands[i].pid)
            return &init->commands[i];
    return init->used < MAX_COMMANDS ? &init->commands[init->used++] : NULL;
}

/* --- killing -------------------------------------------------------------------------------- */

static void reap_all(struct init *init);

/* The last resort: everything inside. Returns when it is gone, with children that init did not know of. */
static void kill_all(struct init *init)
{
    const struct timespec pause = {.tv_nsec = 200000};
    siginfo_t info;

    kill(-1, SIGKILL);
    while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0) {
        reap_all(init);
        nanosleep(&pause, NULL);
    }
}

/* Kill what is left of a command until a scan finds nothing; should that never be, or a scan be impossible,
 * everything. One that never had a namespace never had a process but its first. */
static void kill_tree(struct init *init, uint64_t userns)
{
    const struct timespec pause = {.tv_nsec = 200000};

    if (!userns)
        return;
    for (int round = 0; round < 5000; round++) {
        int found = kill_inside(init, userns);
        if (found < 0)
            break;
        reap_all(init);
        if (found == 0)
            return;
        nanosleep(&pause, NULL);
    }
    kill_all(init);
}

/* --- the end of a command ------------------------------------------------------------------- */

static void add_usage(struct command *command, const struct rusage *usage)
{
    int64_t rss = (int64_t)usage->ru_maxrss * 1024;

    command->user += microseconds(usage->ru_utime);
    command->system += microseconds(usage->ru_stime);
    command->max_rss = rss > command->max_rss ? rss : command->max_rss;
}

static void send_exited(struct init *init, const struct command *command, int status)
{
    struct message message = {.type = MSG_EXITED,
                              .id = command->id,
                              .a = status,
                              .b = command->user,
                              .c = command->system,
                              .d = command->max_rss};

    message_send(init->socket, &message, NULL, NULL, 0);
}

/* How full it is now, which a poll may have missed. */
static void send_disk(struct init *init)
{
    struct message usage = {.type = MSG_USAGE, .id = -1};

    measure(init, POLL_DISK, &usage);
    usage.e |= USAGE_UNASKED;
    message_send(init->socket, &usage, NULL, NULL, 0);
}

/* The first command's end is the sandbox's: kill and reap all, so that the usage is complete. */
static _Noreturn void end_one_shot(struct init *init, struct command *command, int status)
{
    struct rusage total;

    kill(-1, SIGKILL);
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
        ;
    getrusage(RUSAGE_CHILDREN, &total);
    command->user = command->system = 0;
    add_usage(command, &total);
    send_disk(init);
    send_exited(init, command, status);
    _exit(0);
}

/* What the child wrote on its channel before exec failed; nothing when exec went well. */
static void read_channel(struct init *init, struct command *command)
{
    struct payload_error error;
    struct message message = {.id = command->id};
    ssize_t n = recv(command->channel, &error, sizeof(error), MSG_DONTWAIT);

    if (n == 1) {
        command->ready = true;
        n = recv(command->channel, &error, sizeof(error), MSG_DONTWAIT);
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    close_fd(&command->channel);
    if (n != (ssize_t)sizeof(error) && command->ready) {
        message.type = MSG_STARTED;
        message.a = command->pid;
        message_send(init->socket, &message, NULL, NULL, 0);
        return;
    }
    if (n != (ssize_t)sizeof(error)) {
        error = (struct payload_error){.error = ECANCELED, .status = EXIT_OURS, .record = -1};
        snprintf(error.text, sizeof(error.text), "cannot start the command: it was killed before it began");
    }
    error.text[sizeof(error.text) - 1] = 0;
    /* Killed before its exec it may have been by a limit, and then that is how it ended: no failure of ours. */
    bool ours = error.status == EXIT_OURS && error.error != ECANCELED;
    message.type = ours && init->one_shot ? MSG_FAILED : MSG_EXEC_FAILED;
    message.a = error.error;
    message.b = message.type == MSG_FAILED ? error.record : error.status;
    message.c = error.record;
    message.size = (uint32_t)strlen(error.text) + 1;
    message_send(init->socket, &message, error.text, NULL, 0);
    if (message.type == MSG_FAILED)
        _exit(EXIT_OURS);
}

static void end_command(struct init *init, struct command *command, int status)
{
    if (command->channel >= 0)
        read_channel(init, command);
    if (init->one_shot)
        end_one_shot(init, command, status);
    send_disk(init);
    kill_tree(init, command->userns);
    send_exited(init, command, status);
    close_fd(&command->channel);
    command->pid = 0;
}

/* --- reaping -------------------------------------------------------------------------------- */

/* Orphans end up here. They are still zombies, and a zombie still tells its user namespace. */
static struct command *owner_of(struct init *init, pid_t pid)
{
    struct command *command = by_pid(init, pid);

    for (unsigned i = 0; !command && i < init->used; i++)
        if (init->commands[i].pid && in_namespace(init, pid, init->commands[i].userns) > 0)
            command = &init->commands[i];
    return command;
}

/* A command that stops before it began was stopped by another: it would hold its caller for ever. */
static void tell_stopped(struct init *init, struct command *command, int signal_number)
{
    struct message message = {.type = MSG_STOPPED, .a = signal_number};

    if (command && command->channel >= 0)
        read_channel(init, command);
    if (command && command->channel >= 0 && !command->ready)
        kill(command->pid, SIGKILL);
    if (!command || init->terminal < 0)
        return;
    message.id = command->id;
    message_send(init->socket, &message, NULL, NULL, 0);
}

/* Reap one child; false when there is none to reap. *ended is set when it was a command. */
static bool reap_one(struct init *init, struct command **ended, int *status)
{
    siginfo_t info = {0};
    struct rusage usage;

    *ended = NULL;
    if (waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0)
        return false;
    struct command *command = init->one_shot ? by_pid(init, info.si_pid) : owner_of(init, info.si_pid);
    if (command && command->pid == info.si_pid && info.si_code != CLD_STOPPED)
        measure_tasks(init);
    if (wait4(info.si_pid, status, WNOHANG | WUNTRACED, &usage) <= 0)
        return false;
    if (reap_opener(init, info.si_pid, *status))
        return true;
    if (!WIFSTOPPED(*status) && info.si_pid <= init->root.server) { /* made before any command */
        struct message message = {.type = MSG_LOST, .id = -1};
        message_send(init->socket, &message, NULL, NULL, 0);
        return true;
    }
    if (WIFSTOPPED(*status)) {
        tell_stopped(init, by_pid(init, info.si_pid), WSTOPSIG(*status));
        return true;
    }
    if (command)
        add_usage(command, &usage);
    if (command && command->pid == info.si_pid)
        *ended = command;
    return true;
}

/* A command that ends while another one's tree is being killed is taken note of, and ended later. */
static struct {
    struct command *command;
    int status;
} pending[MAX_COMMANDS];
static unsigned pending_count;

static void reap_all(struct init *init)
{
    struct command *ended;
    int status;

    while (reap_one(init, &ended, &status)) {
        if (!ended || pending_count == MAX_COMMANDS)
            continue;
        pending[pending_count].command = ended;
        pending[pending_count++].status = status;
    }
}

void commands_reap(struct init *init)
{
    struct signalfd_siginfo ignored;

    while (read(init->children, &ignored, sizeof(ignored)) > 0)
        ;
    reap_all(init);
    for (unsigned i = 0; i < pending_count; i++) /* the count may grow on the way */
        end_command(init, pending[i].command, pending[i].status);
    pending_count = 0;
}

/* --- starting ------------------------------------------------------------------------------- */

static int remember(struct init *init, int32_t id, const struct started *started)
{
    struct command *command = free_place(init);

    if (!command)
        return -1;
    *command = (struct command){
        .id = id, .pid = started->pid, .channel = started->channel, .userns = started->userns};
    return 0;
}

/* Pointers to `count` texts of a record from field `first` on, NULL behind them. */
static char **texts(const struct record *record, unsigned first, unsigned count)
{
    char **list = calloc(count + 1u, sizeof(*list));

    for (unsigned i = 0; list && i < count; i++)
        list[i] = (char *)(uintptr_t)record_text(record, first + i);
    return list;
}

static char **plan_environment(const struct plan *plan)
{
    const struct record *record = plan_find(plan, KIND_ENVIRONMENT);

    return record ? texts(record, 0, record_extra(record)) : calloc(1, sizeof(char *));
}

static const char *plan_workdir(const struct plan *plan)
{
    const struct record *record = plan_find(plan, KIND_WORKDIR);

    return record ? record_text(record, 0) : "/";
}

int commands_start_first(struct init *init, const struct record *argv, const struct command_stdio *stdio,
                         struct failure *failure)
{
    struct started started;
    struct payload payload = {
        .plan = init->plan,
        .argv = texts(argv, 0, record_extra(argv)),
        .envp = plan_environment(init->plan),
        .workdir = plan_workdir(init->plan),
        .terminal = init->terminal,
        .listening = &init->listening,
    };

    init->one_shot = true;
    if (!payload.argv || !payload.argv[0] || !payload.envp)
        return fail(failure, EINVAL, argv, "cannot start: no command was given");
    for (int i = 0; i < 3; i++)
        payload.stdio[i] = stdio->fd[i] >= 0 || init->terminal >= 0 ? stdio->fd[i] : init->null;
    if (payload_start(&payload, &init->root, &started, failure) < 0)
        return -1;
    for (int i = 0; i < 3; i++)
        if (stdio->fd[i] >= 0)
            close(stdio->fd[i]);
    free((void *)(uintptr_t)payload.argv);
    free((void *)(uintptr_t)payload.envp);
    return remember(init, 0, &started);
}

/* SPAWN: id, nenv, environment, workdir, timeout (the supervisor's), argv. */
static int fill_payload(struct init *init, const struct record *record, struct payload *payload)
{
    int64_t nenv = record_int(record, 1);
    unsigned extra = record_extra(record);
    unsigned count = nenv > 0 ? (unsigned)nenv : 0;

    if (record->kind != KIND_SPAWN || nenv < -1 || nenv > (int64_t)extra || count + 5 > extra)
        return -1;
    payload->id = (int32_t)record_int(record, 0);
    payload->envp = nenv < 0 ? plan_environment(init->plan) : texts(record, 2, count);
    payload->workdir = *record_text(record, 2 + count) ? record_text(record, 2 + count) : plan_workdir(init->plan);
    payload->argv = texts(record, 4 + count, extra - 4 - count);
    return payload->envp && payload->argv && payload->argv[0] ? 0 : -1;
}

static void refuse(struct init *init, int32_t id, int error, const char *text)
{
    struct message message = {.type = MSG_EXEC_FAILED,
                              .id = id,
                              .a = error,
                              .b = EXIT_OURS,
                              .c = -1,
                              .size = (uint32_t)strlen(text) + 1};
    struct command nothing = {.id = id};

    message_send(init->socket, &message, text, NULL, 0);
    send_exited(init, &nothing, EXIT_OURS << 8);
}

static void spawn(struct init *init, int32_t id, const struct record *record, const int *fds)
{
    struct payload payload = {.plan = init->plan, .terminal = -1, .listening = &init->listening};
    struct failure failure = {0};
    struct started started;

    if (fill_payload(init, record, &payload) < 0) {
        refuse(init, id, EINVAL, "cannot start the command: the request is malformed");
    } else {
        for (int i = 0; i < 3; i++)
            payload.stdio[i] = fds[i] >= 0 ? fds[i] : init->null;
        if (payload_start(&payload, &init->root, &started, &failure) < 0)
            refuse(init, id, failure.error, failure.text);
        else if (remember(init, id, &started) < 0) {
            kill_tree(init, started.userns);
            close_fd(&started.channel);
            refuse(init, id, ECANCELED, "cannot start the command: too many are ending in this sandbox");
        }
    }
    free((void *)(uintptr_t)payload.argv);
    free((void *)(uintptr_t)payload.envp);
}

/* --- messages ------------------------------------------------------------------------------- */

void commands_read_channels(struct init *init, const struct pollfd *polls, unsigned count)
{
    for (unsigned p = 2; p < count; p++)
        for (unsigned i = 0; polls[p].revents && i < init->used; i++)
            if (init->commands[i].pid && init->commands[i].channel == polls[p].fd)
                read_channel(init, &init->commands[i]);
}

unsigned commands_poll(struct init *init, struct pollfd *polls)
{
    unsigned count = 2;

    polls[0] = (struct pollfd){.fd = init->socket, .events = POLLIN};
    polls[1] = (struct pollfd){.fd = init->children, .events = POLLIN};
    for (unsigned i = 0; i < init->used; i++)
        if (init->commands[i].pid && init->commands[i].channel >= 0)
            polls[count++] = (struct pollfd){.fd = init->commands[i].channel, .events = POLLIN};
    return count;
}

static void signal_command(struct init *init, int32_t id, int number)
{
    struct command *command = by_id(init, id);
    pid_t group = command ? command->pid : 0;

    if (command && init->terminal >= 0 && tcgetpgrp(init->terminal) > 1)
        group = tcgetpgrp(init->terminal);
    if (group > 1 && number > 0 && number <= 64)
        kill(-group, number);
}

static void continue_command(struct init *init, int32_t id)
{
    struct command *command = by_id(init, id);

    if (!command)
        return;
    if (init->terminal >= 0)
        tcsetpgrp(init->terminal, command->pid);
    kill(-command->pid, SIGCONT);
}

static void kill_command(struct init *init, int32_t id)
{
    struct command *command = by_id(init, id);

    if (id < 0)
        kill(-1, SIGKILL);
    else if (command) {
        kill(command->pid, SIGKILL); /* undumpable before exec, so that a scan could miss it */
        kill_tree(init, command->userns);
    }
    /* the reaping that follows ends it, and what it finds pending */
    for (unsigned i = 0; i < pending_count; i++)
        end_command(init, pending[i].command, pending[i].status);
    pending_count = 0;
}

/* SPAWN and OPEN carry a plan of one record: in the message, or in a memfd that comes first. */
static int parse_request(const char *data, uint32_t size, int *fds, struct plan *request)
{
    const char *why;

    if (size == 0) {
        int result = plan_read(fds[0], request, &why);
        close_fd(&fds[0]);
        memmove(&fds[0], &fds[1], sizeof(int) * (MESSAGE_FDS - 1));
        fds[MESSAGE_FDS - 1] = -1;
        return result == 0 && request->count == 1 ? 0 : -1;
    }
    char *copy = malloc(size);
    if (!copy)
        return -1;
    memcpy(copy, data, size);
    return plan_parse(copy, size, request, &why) == 0 && request->count == 1 ? 0 : -1;
}

static void refuse_request(struct init *init, const struct message *message, int error, const char *why)
{
    char text[128];

    snprintf(text, sizeof(text), "cannot start the command: %s", why);
    if (message->type == MSG_SPAWN)
        refuse(init, message->id, error, text);
    else
        refuse_file(init, message->id, error, why);
}

static void handle_request(struct init *init, const struct message *message, const char *data, int *fds)
{
    struct plan request = {0};
    bool spawning = message->type == MSG_SPAWN;

    if (fds[0] == FDS_LOST) {
        refuse_request(init, message, EMFILE, strerror(EMFILE));
    } else if (parse_request(data, message->size, fds, &request) < 0) {
        refuse_request(init, message, EINVAL, "the request is malformed");
    } else if (spawning) {
        spawn(init, message->id, &request.records[0], fds);
    } else {
        open_for_caller(init, message->id, &request.records[0]);
    }
    plan_free(&request);
}

void commands_message(struct init *init)
{
    static char buffer[MESSAGE_MAX];
    struct message message, answer = {.type = MSG_USAGE};
    int fds[MESSAGE_FDS];

    if (message_receive(init->socket, buffer, fds) <= 0)
        _exit(EXIT_OURS); /* the supervisor is gone: the kernel kills everything in here with us */
    memcpy(&message, buffer, sizeof(message));
    switch (message.type) {
    case MSG_SPAWN:
    case MSG_OPEN:
        handle_request(init, &message, buffer + sizeof(message), fds);
        break;
    case MSG_SIGNAL:
        signal_command(init, message.id, (int)message.a);
        break;
    case MSG_CONTINUE:
        continue_command(init, message.id);
        break;
    case MSG_KILL:
        kill_command(init, message.id);
        break;
    case MSG_POLL:
        answer.id = message.id;
        measure(init, message.a, &answer);
        message_send(init->socket, &answer, NULL, NULL, 0);
        break;
    default: /* MSG_CLOSE, or something that can't be */
        _exit(0);
    }
    for (int i = 0; i < MESSAGE_FDS; i++)
        close_fd(&fds[i]);
}
