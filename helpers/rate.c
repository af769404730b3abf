/* Rates by the kernel's traffic control (tc(8)). What a device sends waits in a token bucket. What it receives has
 * been sent already: it is led to the sending side of an intermediate device (ifb), and waits in a bucket there
 * before it is taken in. To drop it instead would stop senders for seconds, as a user-mode network backend has no
 * more than a timer to notice by.
 */

#include "rate.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "helper.h"
#include "netlink.h"
#include "request.h"

#define INGRESS 0xffff0000u /* the handle that a qdisc of its kind has */

/* How much may go at once: a packet as large as a device takes, and what comes while the kernel's clock does not
 * look (tc-tbf(8)). */
#define BURST_MIN (int64_t)131072
#define BURST_PART 100 /* of what goes in a second */
/* For how long packets may wait, as a part of a second, beside what the bucket has room for: senders within are told
 * when there is no more room, and wait; those beyond lose what comes then. */
#define WAIT_PART 20
#define WAIT_PART_RECEIVED 4

/* Within MIN_RATE and MAX_RATE of sandbox/units.py nothing here overflows. */

/* In ticks of 64 ns, as the kernel counts them whatever its clock is (include/net/pkt_sched.h). */
static uint32_t ticks(int64_t bytes, int64_t rate)
{
    int64_t found = bytes * 15625000 / rate;

    return found > UINT32_MAX ? UINT32_MAX : (uint32_t)found;
}

static uint32_t at_most(int64_t value)
{
    return value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static int add_bucket(int route, int index, int64_t rate, int64_t part)
{
    int64_t burst = rate / BURST_PART > BURST_MIN ? rate / BURST_PART : BURST_MIN;
    const uint64_t whole = (uint64_t)rate;
    const uint32_t size = at_most(burst);
    struct tc_tbf_qopt option = {
        .rate = {.rate = at_most(rate), .linklayer = TC_LINKLAYER_ETHERNET},
        .limit = at_most(rate / part + burst),
        .buffer = ticks(burst, rate),
    };
    struct tcmsg head = {.tcm_ifindex = index, .tcm_parent = TC_H_ROOT};
    struct request request = {0};

    ssize_t at = request_begin(&request, RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &head, sizeof(head));
    request_add_text(&request, TCA_KIND, "tbf");
    size_t options = request_open(&request, TCA_OPTIONS);
    request_add(&request, TCA_TBF_PARMS, &option, sizeof(option));
    request_add(&request, TCA_TBF_BURST, &size, sizeof(size));
    if (rate > UINT32_MAX)
        request_add(&request, TCA_TBF_RATE64, &whole, sizeof(whole));
    request_shut(&request, options);
    request_finish(&request, at);
    return request_send(route, &request);
}

/* Pasta sends whatever the window has room for, and sends all of it anew when a part was lost: with windows of
 * megabytes, as TCP lets them grow, most is lost again. */
void rate_windows(int64_t rate)
{
    int64_t most = rate / WAIT_PART > BURST_MIN ? rate / WAIT_PART : BURST_MIN, least, usual, now;
    int fd cleanup_fd = open("/proc/sys/net/ipv4/tcp_rmem", O_RDWR | O_CLOEXEC); /* of IPv6, too */
    char text[100] = "";

    if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0 ||
        sscanf(text, "%" SCNd64 " %" SCNd64 " %" SCNd64, &least, &usual, &now) != 3 || now <= most)
        return;
    int size = snprintf(text, sizeof(text), "%" PRId64 " %" PRId64 " %" PRId64, least < most ? least : most,
                        usual < most ? usual : most, most);
    if (pwrite(fd, text, (size_t)size, 0) < 0)
        return;
}

int rate_send(int route, const char *device, int64_t rate)
{
    int index = device_index(route, device);

    return index < 0 ? -1 : add_bucket(route, index, rate, WAIT_PART);
}

static int add_between(int route)
{
    struct ifinfomsg head = {0};
    struct request request = {0};

    ssize_t at = request_begin(&request, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &head, sizeof(head));
    request_add_text(&request, IFLA_IFNAME, RATE_DEVICE);
    size_t info = request_open(&request, IFLA_LINKINFO);
    request_add_text(&request, IFLA_INFO_KIND, "ifb");
    request_shut(&request, info);
    request_finish(&request, at);
    return request_send(route, &request) < 0 ? -1 : link_start(route, RATE_DEVICE);
}

static int add_ingress(int route, int index)
{
    struct tcmsg head = {.tcm_ifindex = index, .tcm_parent = TC_H_INGRESS, .tcm_handle = INGRESS};
    struct request request = {0};

    ssize_t at = request_begin(&request, RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &head, sizeof(head));
    request_add_text(&request, TCA_KIND, "ingress");
    request_finish(&request, at);
    return request_send(route, &request);
}

/* Whatever comes to the one leaves by the other. */
static int redirect(int route, int index, int between)
{
    struct tcmsg head = {
        .tcm_ifindex = index, .tcm_parent = INGRESS, .tcm_info = TC_H_MAKE(1u << 16, htons(ETH_P_ALL))};
    struct {
        struct tc_u32_sel selection;
        struct tc_u32_key key; /* of no bits: all have it */
    } all = {.selection = {.flags = TC_U32_TERMINAL, .nkeys = 1}};
    struct tc_mirred mirred = {.action = TC_ACT_STOLEN, .eaction = TCA_EGRESS_REDIR, .ifindex = (uint32_t)between};
    struct request request = {0};

    ssize_t at = request_begin(&request, RTM_NEWTFILTER, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &head, sizeof(head));
    request_add_text(&request, TCA_KIND, "u32");
    size_t options = request_open(&request, TCA_OPTIONS);
    request_add(&request, TCA_U32_SEL, &all, sizeof(all));
    size_t actions = request_open(&request, TCA_U32_ACT), first = request_open(&request, 1);
    request_add_text(&request, TCA_ACT_KIND, "mirred");
    size_t details = request_open(&request, TCA_ACT_OPTIONS);
    request_add(&request, TCA_MIRRED_PARMS, &mirred, sizeof(mirred));
    request_shut(&request, details);
    request_shut(&request, first);
    request_shut(&request, actions);
    request_shut(&request, options);
    request_finish(&request, at);
    return request_send(route, &request);
}

int rate_receive(int route, const char *device, int64_t rate)
{
    int index = device_index(route, device), between = -1;

    if (index < 0 || add_between(route) < 0 || (between = device_index(route, RATE_DEVICE)) < 0)
        return -1;
    if (add_bucket(route, between, rate, WAIT_PART_RECEIVED) < 0 || add_ingress(route, index) < 0)
        return -1;
    return redirect(route, index, between);
}
