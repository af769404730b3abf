/* Sockets that wait for clients inside and are handed to commands: socket activation (sd_listen_fds(3)). */
#ifndef LISTEN_H
#define LISTEN_H

#include "helper.h"

#define MAX_LISTENING 32
#define FIRST_LISTENING 3 /* SD_LISTEN_FDS_START */

struct listening {
    int fd[MAX_LISTENING];
    unsigned count;
};

/* Make them, as LISTEN records say, in the network namespace that we are in. 0, or -1 with *failure filled. */
int listen_open(struct listening *listening, const struct plan *plan, struct failure *failure);

/* In the process that is to be the command: put them where it expects them, and `channel` behind them. Whatever
 * else is there is lost. Where the channel is then, or -1 with errno. */
int listen_place(const struct listening *listening, int channel);

/* And the environment that tells of them, of ours alone. NULL with errno. */
char **listen_environment(const struct listening *listening, const struct plan *plan, char *const *environment);

#endif
