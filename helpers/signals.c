/* The supervisor's signals: which are watched, and what each means for the command and the caller's terminal,
 * with which both stop and go on. Not what init is told of them: orders.c.
 */

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "supervisor.h"

static sigset_t callers_mask;

/* --- watching ------------------------------------------------------------------------------- */

/* What the caller had us ignore (nohup; a shell's background jobs) stays ignored. */
static void add_unless_ignored(sigset_t *set, int number)
{
    struct sigaction action;

    if (sigaction(number, NULL, &action) == 0 && action.sa_handler != SIG_IGN)
        sigaddset(set, number);
}

int signals_watch(struct supervisor *s, struct failure *failure)
{
    static const int watched[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
    sigset_t set, blocked;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* ignored, there would be nothing to wait for */
    relay_prepare();
    sigemptyset(&set);
    for (unsigned i = 0; i < sizeof(watched) / sizeof(watched[0]); i++)
        add_unless_ignored(&set, watched[i]);
    if (s->one_shot) {
        add_unless_ignored(&set, SIGTSTP);
        sigaddset(&set, SIGCONT);
        sigaddset(&set, SIGWINCH);
    }
    blocked = set;
    sigaddset(&blocked, SIGTTOU); /* writing and tcsetattr(3) from the background may be needed */
    sigaddset(&blocked, SIGTTIN);
    sigprocmask(SIG_BLOCK, &blocked, &callers_mask);
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return s->signals < 0 ? fail(failure, errno, NULL, "cannot watch signals: %s", strerror(errno)) : 0;
}

void signals_give_back(void)
{
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);
    sigprocmask(SIG_SETMASK, &callers_mask, NULL);
}

/* --- stopping and going on ------------------------------------------------------------------ */

struct relay *pty_input(struct supervisor *s)
{
    return s->terminal.master >= 0 && s->count ? &s->jobs[0]->streams.relay[0] : NULL;
}

void supervisor_resume(struct supervisor *s)
{
    struct relay *input = pty_input(s);

    if (s->terminal.fd >= 0 && input) {
        input->paused = !terminal_foreground(&s->terminal);
        terminal_raw(&s->terminal);
        terminal_resize(&s->terminal);
    }
    for (unsigned i = 0; i < s->count; i++) {
        if (s->jobs[i]->stopped)
            job_resume(s, s->jobs[i]);
    }
}

void supervisor_suspend(struct supervisor *s, struct job *job, bool group)
{
    terminal_restore(&s->terminal);
    terminal_suspend(group, job->outcome.fired < 0 ? job->deadline : job->kill_by, s->lifeline);
    supervisor_resume(s);
}

/* Without a pty of ours the caller's terminal stops us, not the command, whose session is another one.
 * It is stopped by SIGSTOP, since a group that nobody in its session could continue ignores SIGTSTP. */
static void stop_with_command(struct supervisor *s, struct job *job)
{
    if (job->state == JOB_STARTED) {
        job_pass_on(s, job, SIGSTOP);
        job->stopped = true;
    }
    supervisor_suspend(s, job, false);
}

/* --- what each means ------------------------------------------------------------------------ */

/* A signal that asks for the end: the command's business while it runs, or is about to (it may run
 * already, with init not having said so); the second time it is ours. SIGTERM is how whoever knows nothing of
 * the command asks, and its image may say what it is to be told then. */
static void on_deadly(struct supervisor *s, int number)
{
    const struct record *stop = number == SIGTERM ? plan_find(s->plan, KIND_STOP_SIGNAL) : NULL;
    int passed = stop ? (int)record_int(stop, 0) : number;
    struct job *job = s->one_shot && s->count ? s->jobs[0] : NULL;
    bool about_to = job && job->state == JOB_WAITING && s->ready && !(job->early >> passed & 1);

    if (about_to || (job && job->state == JOB_STARTED)) {
        job_signal(s, job, passed);
    } else {
        s->ended_by = number;
        supervisor_close(s);
    }
}

static void on_signal(struct supervisor *s, int number)
{
    struct job *job = s->one_shot && s->count ? s->jobs[0] : NULL;

    switch (number) {
    case SIGWINCH:
        terminal_resize(&s->terminal);
        break;
    case SIGCONT:
        if (job && !job->stopped && job->state == JOB_STARTED)
            job_pass_on(s, job, SIGCONT);
        supervisor_resume(s);
        break;
    case SIGTSTP:
        if (job && s->terminal.master < 0)
            stop_with_command(s, job);
        else if (job)
            job_pass_on(s, job, SIGTSTP);
        break;
    case SIGUSR1:
    case SIGUSR2:
        if (job)
            job_signal(s, job, number);
        break;
    default:
        on_deadly(s, number);
    }
}

void signals_read(struct supervisor *s)
{
    struct signalfd_siginfo info;

    while (read(s->signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
        on_signal(s, (int)info.ssi_signo);
}
