/* The caller's terminal. See tty.h. */

#include "tty.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Who would leave the terminal raw by dying unexpectedly. */
static struct terminal *rescued;

/* As stty(1) has "sane": what a terminal is without anybody's changes. */
static void make_sane(struct termios *termios)
{
    termios->c_iflag |= BRKINT | ICRNL | IMAXBEL | IXON;
    termios->c_iflag &= ~(tcflag_t)(IGNBRK | INLCR | IGNCR | IXOFF);
    termios->c_oflag |= OPOST | ONLCR;
    termios->c_lflag |= ISIG | ICANON | IEXTEN | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE;
    termios->c_lflag &= ~(tcflag_t)(NOFLSH | TOSTOP);
    termios->c_cflag |= CREAD | CS8;
    if (!termios->c_cc[VINTR]) {
        static const cc_t usual[][2] = {{VINTR, 3},   {VQUIT, 28},   {VERASE, 127}, {VKILL, 21},
                                        {VEOF, 4},    {VSTART, 17},  {VSTOP, 19},   {VSUSP, 26},
                                        {VREPRINT, 18}, {VWERASE, 23}, {VLNEXT, 22},  {VMIN, 1}};
        for (unsigned i = 0; i < sizeof(usual) / sizeof(usual[0]); i++)
            termios->c_cc[usual[i][0]] = usual[i][1];
    }
}

void terminal_describe(const struct terminal *terminal, struct command_stdio *stdio)
{
    stdio->termios = (struct termios){.c_cflag = B38400 | CS8 | CREAD};
    stdio->winsize = (struct winsize){.ws_row = 24, .ws_col = 80};
    if (terminal->fd >= 0) {
        tcgetattr(terminal->fd, &stdio->termios);
        ioctl(terminal->fd, TIOCGWINSZ, &stdio->winsize);
    }
    /* In the background the shell's line editor may have changed it for itself. */
    if (terminal->fd < 0 || !terminal_foreground(terminal))
        make_sane(&stdio->termios);
}

/* ENOTTY: it is not our controlling terminal, so there are no foreground and background for us. */
bool terminal_foreground(const struct terminal *terminal)
{
    pid_t group = tcgetpgrp(terminal->fd);

    return group < 0 || group == getpgrp();
}

/* A fatal signal that nobody expected: leave a terminal that can be used. */
static void rescue(int number)
{
    if (rescued)
        terminal_restore(rescued);
    raise(number); /* SA_RESETHAND: this time it is fatal */
}

static void rescue_at_exit(void)
{
    if (rescued)
        terminal_restore(rescued);
}

static void arrange_rescue(struct terminal *terminal)
{
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE,    SIGILL, SIGABRT,
                                SIGSYS,  SIGXCPU, SIGVTALRM, SIGPROF};
    struct sigaction action = {.sa_handler = rescue, .sa_flags = (int)SA_RESETHAND | SA_NODEFER};

    if (!rescued) {
        for (unsigned i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
            sigaction(fatal[i], &action, NULL);
        atexit(rescue_at_exit);
    }
    rescued = terminal;
}

void terminal_raw(struct terminal *terminal)
{
    struct termios raw;

    if (terminal->fd < 0 || !terminal_foreground(terminal))
        return;
    /* Already raw, after somebody stopped us the hard way: the shell may have changed it since. */
    if (!terminal->raw && tcgetattr(terminal->fd, &terminal->saved) < 0)
        return;
    arrange_rescue(terminal);
    raw = terminal->saved;
    cfmakeraw(&raw);
    if (terminal->shared)
        raw.c_oflag = terminal->saved.c_oflag; /* or their lines would run down like stairs */
    terminal->raw = true;
    tcsetattr(terminal->fd, TCSANOW, &raw);
}

/* TCSANOW: with the output held by Ctrl-S, waiting for it to drain could last. In the background it is
 * somebody else's by now. */
void terminal_restore(struct terminal *terminal)
{
    if (terminal->raw && terminal_foreground(terminal))
        tcsetattr(terminal->fd, TCSANOW, &terminal->saved);
    terminal->raw = false;
}

void terminal_resize(const struct terminal *terminal)
{
    struct winsize size;

    if (terminal->fd >= 0 && terminal->master >= 0 && ioctl(terminal->fd, TIOCGWINSZ, &size) == 0)
        ioctl(terminal->master, TIOCSWINSZ, &size);
}

/* A child that continues us in time. It blocks what we block, so Ctrl-Z does not stop it. */
static pid_t start_watchdog(int64_t deadline, int lifeline)
{
    struct pollfd polled = {.fd = lifeline, .events = POLLIN};
    pid_t parent = getpid(), pid;

    if (!deadline && lifeline < 0)
        return -1;
    pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (getppid() == parent) {
        int64_t left = deadline ? deadline - now() : INT64_MAX;
        struct timespec wait = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        if (left > 0 && ppoll(&polled, 1, deadline ? &wait : NULL, NULL) <= 0)
            continue;
        kill(parent, SIGCONT); /* until it notices: it may not have stopped yet */
        poll(NULL, 0, 20);
    }
    _exit(0);
}

void terminal_suspend(bool group, int64_t deadline, int lifeline)
{
    pid_t watchdog = start_watchdog(deadline, lifeline);
    sigset_t stop;

    sigemptyset(&stop);
    sigaddset(&stop, SIGTSTP);
    kill(group ? 0 : getpid(), SIGTSTP);
    sigprocmask(SIG_UNBLOCK, &stop, NULL); /* here we stop */
    sigprocmask(SIG_BLOCK, &stop, NULL);
    child_end(&watchdog);
}
