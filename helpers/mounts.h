/* Building the root: the plan's operations, executed by init in its new mount namespace. */
#ifndef MOUNTS_H
#define MOUNTS_H

#include <limits.h>

#include "helper.h"

/* File systems that this sandbox made and the payload can fill (at most; one more is refused). */
#define MAX_WRITABLE 256

/* The directory that something was last made in, since the next thing is often made there, too. */
struct parent {
    int fd; /* O_PATH, or -1 */
    bool ours, strict;
    char path[PATH_MAX];
};

struct root {
    int fd;         /* the new root, O_PATH; -1 until the first operation */
    int pool;       /* the shared tmpfs, a mount attached out of everybody's sight */
    int proc;       /* init's own instance, out of sight with the pool */
    int devpts;
    int scratch;    /* SCRATCH directory on the host, or -1 */
    int kept;       /* the directory of a writable layer that stays, or -1 */
    unsigned names; /* directories made in the pool so far */
    struct parent parent;
    int *sources;   /* per record of the plan: what open_tree or open gave, or -1 */
    int writable[MAX_WRITABLE]; /* for statfs: the pool first */
    unsigned writables;
    uint64_t ours[MAX_WRITABLE]; /* devices of file systems of ours: there mount points may be made */
    unsigned devices;
    pid_t server; /* the last process that makes an overlay; those before it are older; 0: none */
    uid_t uid;    /* the payload's ids inside */
    gid_t gid;
    uid_t maker_uid; /* who makes the root: the payload, or an image's root */
    gid_t maker_gid;
    const struct record *identity; /* with the further groups of the payload */
};

/* Open every mount source, as the caller's own user, before init takes on other ids. */
int root_open_sources(struct root *root, const struct plan *plan, struct failure *failure);

/* Execute all operations. Afterwards root->fd is complete but the old root is still there. */
int root_build(struct root *root, const struct plan *plan, struct failure *failure);

/* Make root->fd the root of this mount namespace and drop the old one. */
int root_enter(struct root *root, struct failure *failure);

#endif
