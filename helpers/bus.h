/* Asking systemd for a scope, over D-Bus: three messages, no library. */
#ifndef BUS_H
#define BUS_H

#include "helper.h"

/* Ask the manager behind the D-Bus socket at `path` for a transient scope with the calling process in
 * it, delegated to us, and wait until it is there. *unit gets its name. `lifeline` (or -1): when it
 * becomes readable, nobody wants it any more. Returns 0, or -1 with *failure filled; then the
 * process is where it was, or in a scope that ends with it. */
int bus_start_scope(const char *path, int lifeline, const struct record *record, char unit[64],
                    struct failure *failure);

#endif
