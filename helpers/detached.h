/* Mounts that are attached nowhere yet, each a descriptor, or -1 with errno. Flags are the plan's M_*. */
#ifndef DETACHED_H
#define DETACHED_H

#include <stdint.h>

/* Make a mount (with M_RECURSIVE: and those below it) read-only and so on. 0, or -1 with errno. */
int set_attributes(int mount, int64_t flags);

/* A copy of the mount at this place, with M_RECURSIVE of those below it, too. */
int clone_tree(int fd, const char *path, int64_t flags);

/* A tmpfs of its own; bytes and inodes 0: the kernel's defaults. */
int new_tmpfs(int64_t bytes, int64_t inodes, int64_t mode, int64_t flags);

/* A file system of a new namespace: proc, devpts, mqueue. Options end with NULL; NULL: none. */
int new_instance(const char *type, const char *const options[][2], int64_t flags);

#endif
