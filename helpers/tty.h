/* The caller's terminal, while a command of ours has a pty behind it. */
#ifndef TTY_H
#define TTY_H

#include "helper.h"

struct terminal {
    int fd;     /* the caller's terminal, or -1 */
    int master; /* of the command's pty, or -1 */
    bool raw;
    bool shared; /* others write to it while it is raw: the rest of a pipeline */
    struct termios saved;
};

/* Fill in termios and winsize for the command's pty, from the caller's terminal (-1: none). */
void terminal_describe(const struct terminal *terminal, struct command_stdio *stdio);

/* Is the terminal ours to read and to change? */
bool terminal_foreground(const struct terminal *terminal);

/* Raw mode, when in the foreground; and back, which any end of the process does too. */
void terminal_raw(struct terminal *terminal);
void terminal_restore(struct terminal *terminal);

/* Hand on the caller's window size. */
void terminal_resize(const struct terminal *terminal);

/* Stop this process as Ctrl-Z would, with its whole process group when `group`, and return when it is
 * continued; at once in a process group that no shell could continue. It is also continued at
 * `deadline` (CLOCK_MONOTONIC, ns; 0: never) and when `lifeline` (or -1) becomes readable: neither a
 * limit nor the caller's death waits for a stopped supervisor. */
void terminal_suspend(bool group, int64_t deadline, int lifeline);

#endif
