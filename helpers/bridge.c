/* The devices of private networks. Two network namespaces have a part in a pair of devices, whose user namespaces know
 * nothing of one another. Who made both may act in either, and that is the supervisor, outside: a netlink socket
 * of the one, which somebody made there and passed on, and a descriptor of the other are all that it takes.
 */

#include "bridge.h"

#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "helper.h"
#include "netlink.h"
#include "rate.h"
#include "request.h"

#define MAC_SIZE 6

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
    return request_send(route, &request) < 0 ? -1 : link_start(route, record_text(record, 0));
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
    if (request_send(there, &request) < 0 || link_start(there, port) < 0 || link_start(here, device) < 0)
        return -1;
    int64_t rate = record_int(record, 7);
    return rate > 0 && (rate_send(there, port, rate) < 0 || rate_send(here, device, rate) < 0) ? -1 : 0;
}
