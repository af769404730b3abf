/* What a service is kept from, whatever becomes of it. */
#ifndef CONFINE_H
#define CONFINE_H

#include "helper.h"

/* Show this process the paths in `views` fields of the record, from the first on, and no other files, all of them
 * read-only. None: all that there is. 0, or -1 with errno. */
int confine_files(const struct record *service, unsigned first, unsigned views);

/* Take system calls away, for good, and bound what it may have open and allocate. Needs no_new_privs. 0, or -1
 * with errno. */
int confine_calls(void);

#endif
