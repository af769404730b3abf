/* An OVERLAY record of the plan, in two steps. Both return 0, or -1 with *failure filled. */
#ifndef OVERLAY_H
#define OVERLAY_H

#include "mounts.h"

/* Open its lower directories, *lowers in their order, with one more for /dev/fuse if it is by a program. */
int open_overlay_sources(struct root *root, const struct record *record, int **lowers, struct failure *failure);

/* Mount it with these, and attach it. */
int mount_overlay(struct root *root, const struct plan *plan, const struct record *record, int *sources,
                  struct failure *failure);

#endif
