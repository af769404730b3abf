/* Removing a directory that a payload filled. */
#ifndef SCRATCH_H
#define SCRATCH_H

/* Remove the directory and all it holds, never following a link, however deep it is. Files of ids that
 * only the user namespace `userns` (a descriptor, or -1) maps are removed by a child that entered it.
 * Nothing may run any more that could write there. 0, or -1 with errno. */
int scratch_remove(const char *path, int userns);

#endif
