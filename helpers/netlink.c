/* Netlink, by hand: a dozen messages, of which no library that links statically is worth its size. The formats are
 * rtnetlink(7). Sets and counters of nf_tables are in nftables.c.
 */

#include "netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "helper.h"
#include "request.h"

/* --- addresses ------------------------------------------------------------------------------ */

int address_read(struct address *address, const char *text, uint16_t port)
{
    struct sockaddr_in *four = (struct sockaddr_in *)&address->storage;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&address->storage;

    memset(address, 0, sizeof(*address));
    if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons(port);
        address->size = sizeof(*four);
        return 0;
    }
    if (inet_pton(AF_INET6, text, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons(port);
        address->size = sizeof(*six);
        return 0;
    }
    errno = EINVAL;
    return -1;
}

/* The address's bytes, 4 or 16 of them. */
static unsigned address_bytes(const char *text, unsigned char *bytes)
{
    if (inet_pton(AF_INET, text, bytes) == 1)
        return 4;
    return inet_pton(AF_INET6, text, bytes) == 1 ? 16 : 0;
}

/* --- addresses, routes ------------------------------------------------------------------------ */

static int add_address(int route, int index, const struct record *record)
{
    unsigned char bytes[16];
    unsigned size = address_bytes(record_text(record, 1), bytes);
    struct request request = {0};
    struct ifaddrmsg head = {
        .ifa_family = size == 4 ? AF_INET : AF_INET6,
        .ifa_prefixlen = (uint8_t)record_int(record, 2),
        .ifa_flags = size == 16 ? IFA_F_NODAD : 0, /* nobody else is there */
        .ifa_index = (uint32_t)index,
    };

    ssize_t at = request_begin(&request, RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &head, sizeof(head));
    request_add(&request, IFA_LOCAL, bytes, size);
    request_add(&request, IFA_ADDRESS, bytes, size);
    request_finish(&request, at);
    return request_send(route, &request) < 0 && errno != EEXIST ? -1 : 0;
}

static int bring_up(int route, int index)
{
    struct request request = {0};
    struct ifinfomsg head = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};

    request_finish(&request, request_begin(&request, RTM_NEWLINK, NLM_F_ACK, &head, sizeof(head)));
    return request_send(route, &request);
}

static int add_default_route(int route, int index, const char *gateway)
{
    unsigned char bytes[16];
    unsigned size = address_bytes(gateway, bytes);
    struct request request = {0};
    struct rtmsg head = {
        .rtm_family = size == 4 ? AF_INET : AF_INET6,
        .rtm_table = RT_TABLE_MAIN,
        .rtm_protocol = RTPROT_STATIC,
        .rtm_scope = RT_SCOPE_UNIVERSE,
        .rtm_type = RTN_UNICAST,
    };

    ssize_t at = request_begin(&request, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &head, sizeof(head));
    request_add(&request, RTA_GATEWAY, bytes, size);
    request_add(&request, RTA_OIF, &index, sizeof(index));
    request_finish(&request, at);
    return request_send(route, &request) < 0 && errno != EEXIST ? -1 : 0;
}

static void note_index(const struct nlmsghdr *header, void *data)
{
    if (header->nlmsg_type == RTM_NEWLINK)
        *(int *)data = ((struct ifinfomsg *)(void *)PAYLOAD(header))->ifi_index;
}

int device_index(int route, const char *device)
{
    struct request request = {0};
    struct ifinfomsg head = {0};
    int index = -1;

    ssize_t at = request_begin(&request, RTM_GETLINK, NLM_F_ACK, &head, sizeof(head));
    request_add_text(&request, IFLA_IFNAME, device);
    request_finish(&request, at);
    int result = request.data ? request_talk(route, &request, note_index, &index) : -1, error = errno;
    free(request.data);
    errno = error;
    return result < 0 ? -1 : index;
}

/* None of IPv6 that nobody gave it. */
static int no_addresses(int route, int index)
{
    const uint8_t none = IN6_ADDR_GEN_MODE_NONE;
    struct ifinfomsg head = {.ifi_index = index};
    struct request request = {0};

    ssize_t at = request_begin(&request, RTM_SETLINK, NLM_F_ACK, &head, sizeof(head));
    size_t families = request_open(&request, IFLA_AF_SPEC), six = request_open(&request, AF_INET6);
    request_add(&request, IFLA_INET6_ADDR_GEN_MODE, &none, sizeof(none));
    request_shut(&request, six);
    request_shut(&request, families);
    request_finish(&request, at);
    return request_send(route, &request);
}

/* A machine may have no IPv6. */
int link_start(int route, const char *name)
{
    int index = device_index(route, name);

    if (index < 0 || (no_addresses(route, index) < 0 && errno != EAFNOSUPPORT))
        return -1;
    return bring_up(route, index);
}

int address_add(int route, const struct record *record)
{
    int index = device_index(route, record_text(record, 0));

    if (index < 0 || add_address(route, index, record) < 0 || bring_up(route, index) < 0)
        return -1;
    return *record_text(record, 3) ? add_default_route(route, index, record_text(record, 3)) : 0;
}

#define LED_BACK 100 /* a routing table: everything is ours */

static int add_local_route(int route, int family, int index)
{
    unsigned char source[16];
    unsigned size = address_bytes(family == AF_INET ? "127.0.0.1" : "::1", source);
    struct request request = {0};
    struct rtmsg head = {
        .rtm_family = (uint8_t)family,
        .rtm_table = LED_BACK,
        .rtm_protocol = RTPROT_STATIC,
        .rtm_scope = RT_SCOPE_HOST,
        .rtm_type = RTN_LOCAL,
    };

    ssize_t at = request_begin(&request, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &head, sizeof(head));
    request_add(&request, RTA_OIF, &index, sizeof(index));
    request_add(&request, RTA_PREFSRC, source, size); /* else what has no address yet gets that of whom it is for */
    request_finish(&request, at);
    return request_send(route, &request);
}

/* What a rule looks at: a mark, or a protocol and the port that something comes from. */
struct selector {
    uint32_t mark;
    uint8_t protocol;
    struct fib_rule_port_range from;
};

static int add_rule(int route, int family, const struct selector *what)
{
    const uint32_t table = LED_BACK;
    struct request request = {0};
    struct fib_rule_hdr head = {.family = (uint8_t)family, .table = LED_BACK, .action = FR_ACT_TO_TBL};

    ssize_t at = request_begin(&request, RTM_NEWRULE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &head, sizeof(head));
    if (what->mark) {
        request_add(&request, FRA_FWMARK, &what->mark, sizeof(what->mark));
    } else {
        request_add(&request, FRA_IP_PROTO, &what->protocol, sizeof(what->protocol));
        request_add(&request, FRA_SPORT_RANGE, &what->from, sizeof(what->from));
    }
    request_add(&request, FRA_TABLE, &table, sizeof(table));
    request_finish(&request, at);
    return request_send(route, &request) < 0 && errno != EEXIST ? -1 : 0;
}

static int lead_back(int route, const struct selector *what)
{
    static const int families[] = {AF_INET, AF_INET6};
    int index = device_index(route, "lo");

    if (index < 0 || bring_up(route, index) < 0)
        return -1;
    for (unsigned i = 0; i < 2; i++)
        if ((add_local_route(route, families[i], index) < 0 || add_rule(route, families[i], what) < 0) &&
            !(i == 1 && (errno == EAFNOSUPPORT || errno == EOPNOTSUPP || errno == EACCES || errno == EINVAL)))
            return -1;
    return 0;
}

int route_marked(int route, unsigned mark)
{
    const struct selector what = {.mark = mark};

    return lead_back(route, &what);
}

int route_port(int route, bool datagrams, uint16_t port)
{
    const struct selector what = {.protocol = datagrams ? IPPROTO_UDP : IPPROTO_TCP, .from = {port, port}};

    return lead_back(route, &what);
}

/* --- what went through ------------------------------------------------------------------------ */

static void note_traffic(const struct nlmsghdr *header, void *data)
{
    const struct ifinfomsg *head = (const void *)PAYLOAD(header);
    int size = (int)header->nlmsg_len - (int)NLMSG_LENGTH(sizeof(*head));
    struct traffic *traffic = data;
    struct rtnl_link_stats64 stats;

    if (header->nlmsg_type != RTM_NEWLINK)
        return;
    for (const struct rtattr *at = IFLA_RTA(head); RTA_OK(at, size); at = RTA_NEXT(at, size)) {
        if (at->rta_type != IFLA_STATS64 || RTA_PAYLOAD(at) < 4 * sizeof(uint64_t))
            continue;
        memset(&stats, 0, sizeof(stats));
        memcpy(&stats, RTA_DATA(at), RTA_PAYLOAD(at) < sizeof(stats) ? RTA_PAYLOAD(at) : sizeof(stats));
        traffic->received = (int64_t)stats.rx_bytes;
        traffic->sent = (int64_t)stats.tx_bytes;
    }
}

void traffic_read(int route, const char *device, struct traffic *traffic)
{
    struct request request = {0};
    struct ifinfomsg head = {0};

    *traffic = (struct traffic){-1, -1};
    ssize_t at = request_begin(&request, RTM_GETLINK, NLM_F_ACK, &head, sizeof(head));
    request_add_text(&request, IFLA_IFNAME, device);
    request_finish(&request, at);
    if (request.data)
        request_talk(route, &request, note_traffic, traffic);
    free(request.data);
}
