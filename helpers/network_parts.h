/* What the parts of network.h's implementation share. */
#ifndef NETWORK_PARTS_H
#define NETWORK_PARTS_H

#include "network.h"

/* --- network_ready.c ------------------------------------------------------------------------ */

/* The lease that a field of a record says; one that is none where it says none. */
int *network_lease(struct supervisor *s, const struct record *record, unsigned field);

/* As fail(), by the record's description. */
int network_cannot(struct failure *failure, int error, const struct record *record);

/* All that comes when services are ready. 0, or -1 with the failure filled, as the next one. */
int network_finish(struct supervisor *s);

/* The host's addresses into the rules' sets. */
int network_fill_host(struct supervisor *s);

/* --- network_services.c --------------------------------------------------------------------- */

const char *service_name(const struct service *service);

/* Before the payload runs it is what failed; after that it is told. */
void network_give_up(struct supervisor *s);

void network_on_guard(struct supervisor *s, struct service *service, const struct message *message, char *text);
void network_on_death(struct supervisor *s, struct service *service, const char *how);
void network_tell_death(struct supervisor *s, const char *name, const char *how);

#endif
