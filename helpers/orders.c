/* What init is told of commands: signals, and to kill them; and its own end, when it is not to be waited for.
 * Nothing waits for room in its socket. Why and when is for others to say.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "supervisor.h"

/* How long init gets to kill a command before it is killed itself, with everything. */
#define PATIENCE_ALONE SECOND
#define PATIENCE_SHARED (10 * SECOND)

static uint64_t bit(int number)
{
    return (uint64_t)1 << number;
}

#define STOPS (bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU))

int init_send(struct supervisor *s, enum message_type type, int32_t id, int64_t value)
{
    struct message message = {.type = type, .id = id, .a = value};

    if (s->init_dead) {
        errno = EPIPE;
        return -1;
    }
    if (message_send(s->init.socket, &message, NULL, NULL, 0) == 0)
        return 0;
    s->init_full |= errno == EAGAIN;
    return -1;
}

static bool can_wait(int error)
{
    return error == EAGAIN || error == ENOBUFS || error == ENOMEM;
}

static bool must_wait(struct supervisor *s, enum message_type type, int32_t id, int64_t value)
{
    return init_send(s, type, id, value) < 0 && can_wait(errno);
}

/* Everything that a command's init is told goes out through here. */
void send_owed(struct supervisor *s, struct job *job)
{
    struct owed *owed = &job->owed;

    owed->kill = owed->kill && must_wait(s, MSG_KILL, s->one_shot ? -1 : job->id, 0);
    owed->resume = owed->resume && must_wait(s, MSG_CONTINUE, job->id, 0);
    for (int number = 1; number < 64; number++)
        if ((owed->signals & bit(number)) && !must_wait(s, MSG_SIGNAL, job->id, number))
            owed->signals &= ~bit(number);
}

/* As in the kernel, what stops and what continues undo each other as long as neither has arrived. */
void job_pass_on(struct supervisor *s, struct job *job, int number)
{
    if (bit(number) & STOPS) {
        job->owed.signals &= ~bit(SIGCONT);
        job->owed.resume = false;
    } else if (number == SIGCONT) {
        job->owed.signals &= ~STOPS;
    }
    job->owed.signals |= bit(number);
    send_owed(s, job);
}

void job_resume(struct supervisor *s, struct job *job)
{
    job->stopped = false;
    job->owed.signals &= ~STOPS;
    job->owed.resume = true;
    send_owed(s, job);
}

void send_kill(struct supervisor *s, struct job *job)
{
    job->owed = (struct owed){.kill = true};
    send_owed(s, job);
}

/* Init kills, so that it can still tell what was used: whoever dies with init is not accounted for. */
static void kill_job(struct supervisor *s, struct job *job)
{
    if (job->state == JOB_EXITED || job->kill_by)
        return;
    if (control_withdraw(s, job->id)) { /* init never heard of it */
        job->state = JOB_EXITED;
        job->outcome.status = SIGKILL;
        job->outcome.wall = now() - job->began;
        streams_close(&job->streams);
        return;
    }
    if (s->one_shot)
        box_hurry(&s->box);
    send_kill(s, job);
    job->kill_by = now() + (s->one_shot ? PATIENCE_ALONE : PATIENCE_SHARED);
}

void kill_init(struct supervisor *s)
{
    syscall(SYS_pidfd_send_signal, s->init.pidfd, SIGKILL, NULL, 0);
    box_kill(&s->box);
}

void supervisor_close(struct supervisor *s)
{
    s->closing = true;
    for (unsigned i = 0; i < s->count; i++)
        if (s->jobs[i]->state != JOB_EXITED && s->jobs[i]->outcome.fired < 0)
            s->jobs[i]->outcome.killed = true;
    if (!s->init_dead)
        kill_init(s);
}

void supervisor_give_up(struct supervisor *s, const char *why)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->jobs[i]->state != JOB_EXITED && !*s->jobs[i]->outcome.text)
            snprintf(s->jobs[i]->outcome.text, sizeof(s->jobs[i]->outcome.text), "%s", why);
    supervisor_close(s);
}

void job_fire(struct supervisor *s, struct job *job, enum limit_kind kind)
{
    if (job->outcome.fired < 0)
        job->outcome.fired = (int)kind;
    kill_job(s, job);
}

void job_signal(struct supervisor *s, struct job *job, int number)
{
    if (number <= 0 || number >= 64 || job->state == JOB_EXITED)
        return;
    job->outcome.sent |= bit(number);
    if (number == SIGKILL) {
        kill_job(s, job);
    } else if (number == SIGCONT && job->stopped) {
        job_resume(s, job);
    } else if (job->state == JOB_WAITING) {
        job->early |= bit(number);
    } else {
        job_pass_on(s, job, number);
    }
}

void deliver_early(struct supervisor *s, struct job *job)
{
    for (int number = 1; number < 64; number++)
        if (job->early & bit(number))
            job_pass_on(s, job, number);
    job->early = 0;
}
