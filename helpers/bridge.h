/* Private networks: the bridge of one, and how a sandbox gets to it. */
#ifndef BRIDGE_H
#define BRIDGE_H

#include "plan.h"

/* Make the bridge of a BRIDGE record in the network namespace that the socket is of. 0, or -1 with errno. */
int bridge_add(int route, const struct record *record);

/* Make the pair of devices of a VETH record: its port in the network's namespace, which `there` is a socket of, and
 * the sandbox's device in `netns`, which `here` is a socket of; with the limits of rate that the record has. A port
 * of the same name is what a sandbox left that ended just now. 0, or -1 with errno. */
int veth_add(int there, int here, int netns, const struct record *record);

#endif
