/* From init to the command: one fork, the inner user namespace, and exec. */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include "helper.h"
#include "listen.h"
#include "mounts.h"

/* What the child says on its channel: this before exec; end of file behind it means that exec succeeded,
 * and without it that the child was killed before. */
#define PAYLOAD_READY "x"

/* And this when it could not become the command. */
struct payload_error {
    int32_t error;  /* errno */
    int32_t status; /* 125: set-up; 126, 127: exec */
    int32_t record; /* index in the plan, -1: none */
    char text[1024];
};

/* One command to start. Strings belong to whoever fills it. */
struct payload {
    int32_t id;
    const struct plan *plan;
    char *const *argv;
    char *const *envp;
    const char *workdir;
    int stdio[3];
    int terminal; /* the pty's slave, or -1 */
    const struct listening *listening; /* sockets for it */
};

struct started {
    pid_t pid;
    int channel;     /* end of file: executed; struct payload_error: not */
    uint64_t userns; /* inode of B, which marks every process of the command */
};

/* Fork, make B and its maps, and let the child go on to exec. */
int payload_start(const struct payload *payload, const struct root *root, struct started *started,
                  struct failure *failure);

/* In a child of init: give up every right over A and become the payload's user (for file access on
 * behalf of the caller). 0 or -1. */
int payload_drop_rights(const struct root *root);

/* Say why a program could not be executed, best guess (execve(2) says ENOENT for three causes). */
void explain_exec(const char *path, int error, char *text, size_t size);

#endif
