/* Removing directories that payloads filled.
 *
 * Neither a command's end nor the next one's beginning waits long for it: what takes longer than a moment
 * is left to a process of its own. A directory's name says whose it is (sandbox/launch/scratch.py): first
 * the launcher's, then the remover's, so that what a remover that was killed left is found by the next one.
 */
#ifndef SCRATCH_H
#define SCRATCH_H

/* Remove the directory and all it holds, never following a link, however deep it is, and what launches
 * that were killed have left beside it. Files of ids that only the user namespace `userns` (a descriptor,
 * or -1) maps are removed by a child that entered it. Nothing may run any more that could write there.
 * 0: it is gone, or somebody is at it; or -1 with errno. */
int scratch_remove(const char *path, int userns);

/* Remove what launches that were killed have left in the directory, as far as a moment and the caller's ids
 * go: it makes room for the next one, which does the rest at its end. */
void scratch_sweep(const char *parent);

#endif
