/* How many bytes per second a device may send and receive. */
#ifndef RATE_H
#define RATE_H

#include <stdint.h>

/* What is received goes through this one. */
#define RATE_DEVICE "rate0"

/* What the kernel needs for both. */
#define RATE_MODULES "ifb sch_tbf sch_ingress cls_u32 act_mirred"

/* Let a device send only so many bytes per second. 0, or -1 with errno. */
int rate_send(int route, const char *device, int64_t rate);

/* And let it receive only so many. What comes goes through RATE_DEVICE, and waits there. 0, or -1 with
 * errno; EOPNOTSUPP, ENOENT: the kernel lacks one of RATE_MODULES. */
int rate_receive(int route, const char *device, int64_t rate);

/* Have the windows of TCP in our network namespace be no larger than what may wait. Where /proc can't be written to
 * they stay as they are. */
void rate_windows(int64_t rate);

#endif
