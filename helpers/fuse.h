/* fuse-overlayfs: an overlay by a program, where the kernel makes none. */
#ifndef FUSE_H
#define FUSE_H

#include "helper.h"

struct fuse {
    const char *program;
    int device;        /* an open /dev/fuse, which is closed */
    int pool;          /* where its layers are shown to it */
    unsigned number;   /* among those of this sandbox */
    const int *lowers; /* top first */
    unsigned count;
    const int *upper; /* the layer and its work, two directories of one */
    int64_t uid, gid; /* who the program is in A, and nobody in B can be; -1: as init */
};

/* Have the program show the layers. The detached mount, or -1 with errno. The program is a child of init's,
 * *server: it ends with the sandbox, however that goes. */
int fuse_overlay(const struct fuse *fuse, pid_t *server);

#endif
