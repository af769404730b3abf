/* The devices of private networks. Two network namespaces have a part in a pair of devices, whose user namespaces know
 * nothing of one another. Who made both may act in either, and that is the supervisor, outside: a netlink socket
 * of the one, which somebody made there and passed on, and a descriptor of the other are all that it takes.
 */

#include "bridge.h"

#include <errno.h>
#include <linux/if_link.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "helper.h"
#include "netlink.h"
#include "request.h"

#define MAC_SIZE 6

/* How much may go at once: a packet as large as a device takes, and what comes while the kernel's clock does not
 * look (tc-tbf(8)); and for how long packets may wait. */
#define BURST_MIN (int64_t)131072
#define BURST_PART 100 /* of what goes in a second */
#define WAIT_PART 20

static int read_mac(const char *text, unsigned char *mac)
{
    unsigned part[MAC_SIZE];

    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x", &part[0], &part[1], &part[2], &part[3], &part[4], &part[5]) != MAC_SIZE) {
        errno = EINVAL;
        return -1;
    }
    for (int i = 0; i < MAC_SIZE; i++)
        mac[i] = (unsigned char)part[i];
    return 0;
}

/* With no addresses of IPv6 that nobody gave it, or up. */
static int change_link(int route, int index, bool up)
{
    const uint8_t none = IN6_ADDR_GEN_MODE_NONE;
    struct ifinfomsg head = {.ifi_index = index, .ifi_flags = up ? IFF_UP : 0, .ifi_change = up ? IFF_UP : 0};
    struct request request = {0};

    ssize_t at = request_begin(&request, RTM_SETLINK, NLM_F_ACK, &head, sizeof(head));
    if (!up) {
        size_t families = request_open(&request, IFLA_AF_SPEC), six = request_open(&request, AF_INET6);
        request_add(&request, IFLA_INET6_ADDR_GEN_MODE, &none, sizeof(none));
        request_shut(&request, six);
        request_shut(&request, families);
    }
    request_finish(&request, at);
    return request_send(route, &request);
}

/* A machine may have no IPv6. */
static int start_link(int route, const char *name)
{
    int index = device_index(route, name);

    if (index < 0 || (change_link(route, index, false) < 0 && errno != EAFNOSUPPORT))
        return -1;
    return change_link(route, index, true);
}

int bridge_add(int route, const struct record *record)
{
    const uint32_t zero = 0, mtu = (uint32_t)record_int(record, 2);
    const uint8_t off = 0;
    unsigned char mac[MAC_SIZE];
    struct ifinfomsg head = {0};
    struct request request = {0};

    if (read_mac(record_text(record, 1), mac) < 0)
        return -1;
    ssize_t at = request_begin(&request, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &head, sizeof(head));
    request_add_text(&request, IFLA_IFNAME, record_text(record, 0));
    request_add(&request, IFLA_ADDRESS, mac, sizeof(mac));
    request_add(&request, IFLA_MTU, &mtu, sizeof(mtu));
    size_t info = request_open(&request, IFLA_LINKINFO);
    request_add_text(&request, IFLA_INFO_KIND, "bridge");
    size_t data = request_open(&request, IFLA_INFO_DATA);
    request_add(&request, IFLA_BR_FORWARD_DELAY, &zero, sizeof(zero));
    request_add(&request, IFLA_BR_MCAST_SNOOPING, &off, sizeof(off)); /* nobody here asks who listens */
    request_shut(&request, data);
    request_shut(&request, info);
    request_finish(&request, at);
    return request_send(route, &request) < 0 ? -1 : start_link(route, record_text(record, 0));
}

static void add_peer(struct request *request, int netns, const struct record *record, const unsigned char *mac)
{
    const uint32_t mtu = (uint32_t)record_int(record, 6);
    const int32_t fd = netns;
    struct ifinfomsg head = {0};

    size_t data = request_open(request, IFLA_INFO_DATA);
    size_t peer = request_open(request, VETH_INFO_PEER);
    request_add_plain(request, &head, sizeof(head)); /* before the attributes, as of a message of its own */
    request_add_text(request, IFLA_IFNAME, record_text(record, 4));
    request_add(request, IFLA_ADDRESS, mac, MAC_SIZE);
    request_add(request, IFLA_MTU, &mtu, sizeof(mtu));
    request_add(request, IFLA_NET_NS_FD, &fd, sizeof(fd));
    request_shut(request, peer);
    request_shut(request, data);
}

static int remove_link(int route, const char *name)
{
    struct ifinfomsg head = {0};
    struct request request = {0};

    ssize_t at = request_begin(&request, RTM_DELLINK, NLM_F_ACK, &head, sizeof(head));
    request_add_text(&request, IFLA_IFNAME, name);
    request_finish(&request, at);
    return request_send(route, &request) < 0 && errno != ENODEV ? -1 : 0;
}

int veth_add(int there, int here, int netns, const struct record *record)
{
    const char *port = record_text(record, 3), *device = record_text(record, 4);
    const uint32_t mtu = (uint32_t)record_int(record, 6);
    int master = device_index(there, record_text(record, 2));
    unsigned char mac[MAC_SIZE];
    struct ifinfomsg head = {0};
    struct request request = {0};

    if (master < 0 || read_mac(record_text(record, 5), mac) < 0 || remove_link(there, port) < 0)
        return -1;
    ssize_t at = request_begin(&request, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &head, sizeof(head));
    request_add_text(&request, IFLA_IFNAME, port);
    request_add(&request, IFLA_MTU, &mtu, sizeof(mtu));
    request_add(&request, IFLA_MASTER, &master, sizeof(master));
    size_t info = request_open(&request, IFLA_LINKINFO);
    request_add_text(&request, IFLA_INFO_KIND, "veth");
    add_peer(&request, netns, record, mac);
    request_shut(&request, info);
    request_finish(&request, at);
    if (request_send(there, &request) < 0 || start_link(there, port) < 0 || start_link(here, device) < 0)
        return -1;
    int64_t rate = record_int(record, 7);
    return rate > 0 && (rate_limit(there, port, rate) < 0 || rate_limit(here, device, rate) < 0) ? -1 : 0;
}

/* --- rate ------------------------------------------------------------------------------------- */

/* Within MIN_RATE and MAX_RATE of sandbox/units.py nothing here overflows. */

/* In ticks of 64 ns, as the kernel counts them whatever its clock is (include/net/pkt_sched.h). */
static uint32_t ticks(int64_t bytes, int64_t rate)
{
    int64_t found = bytes * 15625000 / rate;

    return found > UINT32_MAX ? UINT32_MAX : (uint32_t)found;
}

int rate_limit(int route, const char *device, int64_t rate)
{
    int index = device_index(route, device);
    int64_t burst = rate / BURST_PART > BURST_MIN ? rate / BURST_PART : BURST_MIN;
    const uint64_t whole = (uint64_t)rate;
    const uint32_t size = burst > UINT32_MAX ? UINT32_MAX : (uint32_t)burst;
    int64_t waiting = rate / WAIT_PART + burst;
    struct tc_tbf_qopt option = {
        .rate = {.rate = rate > UINT32_MAX ? UINT32_MAX : (uint32_t)rate, .linklayer = TC_LINKLAYER_ETHERNET},
        .limit = waiting > UINT32_MAX ? UINT32_MAX : (uint32_t)waiting,
        .buffer = ticks(burst, rate),
    };
    struct tcmsg head = {.tcm_ifindex = index, .tcm_parent = TC_H_ROOT};
    struct request request = {0};

    if (index < 0)
        return -1;
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
