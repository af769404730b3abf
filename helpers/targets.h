/* Mount points and names of the root, opened, made and mounted on. All return -1 with errno or with *failure filled. */
#ifndef TARGETS_H
#define TARGETS_H

#include "mounts.h"

/* Say that this step of the plan failed, and why. */
int fail_step(struct failure *failure, int error, const struct record *record);

/* Mount points may be made in this file system; what is written into it is counted, too. 0. */
int remember_device(struct root *root, int fd);
int remember_writable(struct root *root, int mount);

/* Open what there is (O_PATH), flags as M_STRICT. */
int open_inside(const struct root *root, const char *dst, int64_t flags);

/* Make a directory, and with M_CREATE those that lead to it. The directory, opened. */
int make_directory(struct root *root, const char *dst, mode_t mode, int64_t flags);

/* Open dst's parent to make *name in it; errno `refusal` where the file system is not ours. Not to be closed. */
int open_own_parent(struct root *root, const char *dst, int64_t flags, const char **name, int refusal);

/* To be called before anything is mounted on other than a name just made. */
void forget_parent(struct root *root);

/* Put a detached mount on the record's mount point, or make it the root. 0. */
int attach(struct root *root, const struct record *record, int mount, bool directory, struct failure *failure);

/* Whether the mount point dst, opened, is what every sandbox has for itself (/, /dev and its devices, /proc), and what is
 * said of that. -1. */
bool is_needed(const struct root *root, const char *dst, int target);
int fail_needed(struct failure *failure, const struct record *record);

#endif
