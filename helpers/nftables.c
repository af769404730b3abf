/* What is kept in tables of nf_tables: sets of all the addresses that the host takes for its own, and counters. The
 * rules there are nft(8)'s (join.c). Formats: rtnetlink(7), include/uapi/linux/netfilter/nf_tables.h.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "helper.h"
#include "netlink.h"
#include "request.h"

/* --- what the host takes for its own ----------------------------------------------------------- */

struct range {
    unsigned char first[16], last[16];
};

/* More than that no host has: it would be refused. One of a cluster has an address for each service there. */
#define MAX_RANGES 65536

struct ranges {
    struct range items[MAX_RANGES];
    size_t count;
    bool failed;
    unsigned size; /* bytes of an address */
};

int host_watch(void)
{
    struct sockaddr_nl groups = {
        .nl_family = AF_NETLINK,
        .nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE,
    };
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

    if (fd >= 0 && bind(fd, (struct sockaddr *)&groups, sizeof(groups)) < 0)
        close_fd(&fd);
    return fd;
}

void host_drain(int watch)
{
    static char ignored[1 << 16];

    while (recv(watch, ignored, sizeof(ignored), MSG_DONTWAIT) > 0 || errno == ENOBUFS || errno == EINTR)
        errno = 0;
}

static void add_range(struct ranges *ranges, const unsigned char *address, unsigned prefix)
{
    if (ranges->count == MAX_RANGES) {
        ranges->failed = true;
        return;
    }
    struct range *range = &ranges->items[ranges->count++];
    memset(range, 0, sizeof(*range));
    for (unsigned i = 0; i < ranges->size; i++) {
        unsigned bits = prefix > i * 8 ? prefix - i * 8 : 0;
        unsigned char host = bits >= 8 ? 0 : (unsigned char)(0xffu >> bits);
        range->first[i] = (unsigned char)(address[i] & ~host);
        range->last[i] = (unsigned char)(address[i] | host);
    }
}

/* The local table, rather than the addresses: the host also takes what a route says is its own (ip-route(8),
 * types local, broadcast and anycast), whichever table that is in. */
static void note_route(const struct nlmsghdr *header, void *data)
{
    struct ranges *ranges = data;
    const struct rtmsg *head = (const void *)PAYLOAD(header);
    unsigned family = ranges->size == 4 ? AF_INET : AF_INET6;
    int size = (int)header->nlmsg_len - (int)NLMSG_LENGTH(sizeof(*head));

    if (header->nlmsg_type != RTM_NEWROUTE || head->rtm_family != family ||
        (head->rtm_type != RTN_LOCAL && head->rtm_type != RTN_BROADCAST && head->rtm_type != RTN_ANYCAST))
        return;
    for (const struct rtattr *at = RTM_RTA(head); RTA_OK(at, size); at = RTA_NEXT(at, size))
        if (at->rta_type == RTA_DST && RTA_PAYLOAD(at) == ranges->size)
            add_range(ranges, RTA_DATA(at), head->rtm_dst_len);
}

static int by_first(const void *a, const void *b)
{
    return memcmp(((const struct range *)a)->first, ((const struct range *)b)->first, 16);
}

/* One behind an address; false behind the last one there is. */
static bool next_address(unsigned char *address, unsigned size)
{
    for (unsigned i = size; i-- > 0;)
        if (++address[i] != 0)
            return true;
    return false;
}

/* A set of intervals takes no two that overlap. */
static void merge(struct ranges *ranges)
{
    size_t kept = 0;

    qsort(ranges->items, ranges->count, sizeof(*ranges->items), by_first);
    for (size_t i = 0; i < ranges->count; i++) {
        struct range *last = kept ? &ranges->items[kept - 1] : NULL, *item = &ranges->items[i];
        unsigned char behind[16];
        bool open = false;
        if (last) {
            memcpy(behind, last->last, 16);
            open = !next_address(behind, ranges->size) || memcmp(item->first, behind, ranges->size) <= 0;
        }
        if (!open)
            ranges->items[kept++] = *item;
        else if (memcmp(item->last, last->last, ranges->size) > 0)
            memcpy(last->last, item->last, 16);
    }
    ranges->count = kept;
}

static int read_host(int route, struct ranges *ranges)
{
    struct request request = {0};
    struct rtmsg head = {.rtm_family = ranges->size == 4 ? AF_INET : AF_INET6};

    request_finish(&request, request_begin(&request, RTM_GETROUTE, NLM_F_DUMP, &head, sizeof(head)));
    int result = request.data ? request_talk(route, &request, note_route, ranges) : -1, error = errno;
    free(request.data);
    errno = ranges->failed ? E2BIG : error;
    if (result < 0 || ranges->failed)
        return -1;
    merge(ranges);
    return 0;
}

/* --- sets ------------------------------------------------------------------------------------- */

#define NFT(type) (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_##type)
#define ELEMENTS 400 /* of one message: an attribute has at most 64 KiB */
#define BATCH 65536  /* bytes, and then one more message: an ordinary user's socket takes 208 KiB at once */
/* The first of a record's fields that name sets, one for each family: two pairs, which take turns. */
#define HOST_SETS 1
#define HOST_SETS_SPARE 3

static ssize_t begin_nft(struct request *request, unsigned type, unsigned flags, unsigned family, unsigned resource)
{
    struct nfgenmsg head = {
        .nfgen_family = (uint8_t)family, .version = NFNETLINK_V0, .res_id = htons((uint16_t)resource)};

    return request_begin(request, type, flags, &head, sizeof(head));
}

static void mark_batch(struct request *request, unsigned type)
{
    request_finish(request, begin_nft(request, type, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
}

static void add_element(struct request *request, const unsigned char *key, unsigned size, uint32_t flags)
{
    uint32_t wire = htonl(flags);
    size_t element = request_open(request, NFTA_LIST_ELEM);
    size_t nest = request_open(request, NFTA_SET_ELEM_KEY);

    request_add(request, NFTA_DATA_VALUE, key, size);
    request_shut(request, nest);
    if (flags)
        request_add(request, NFTA_SET_ELEM_FLAGS, &wire, sizeof(wire));
    request_shut(request, element);
}

static ssize_t begin_elements(struct request *request, unsigned type, unsigned flags, const struct record *record,
                              unsigned set)
{
    ssize_t at = begin_nft(request, type, flags, NFPROTO_INET, 0);

    request_add_text(request, NFTA_SET_ELEM_LIST_TABLE, record_text(record, 0));
    request_add_text(request, NFTA_SET_ELEM_LIST_SET, record_text(record, set));
    return at;
}

static void clear_set(struct request *request, const struct record *record, unsigned set)
{
    request_finish(request, begin_elements(request, NFT(DELSETELEM), 0, record, set)); /* all of them */
}

/* What is put together is answered only as far as it is asked for, or wrong: errors come in order, so that the last
 * message's answer says that all is well. */
static int send_batch(int nft, struct request *request, ssize_t last)
{
    if (request->data && last >= 0)
        ((struct nlmsghdr *)(void *)(request->data + last))->nlmsg_flags |= NLM_F_ACK;
    mark_batch(request, NFNL_MSG_BATCH_END);
    return request_send(nft, request);
}

/* More ranges of a set from *i on, with as few messages as there can be. The offset of the last one. */
static ssize_t add_elements(struct request *request, const struct record *record, unsigned set,
                            const struct ranges *ranges, size_t *i)
{
    ssize_t at = begin_elements(request, NFT(NEWSETELEM), NLM_F_CREATE, record, set);
    size_t list = request_open(request, NFTA_SET_ELEM_LIST_ELEMENTS);

    for (unsigned n = 0; n < ELEMENTS && *i < ranges->count; n++, ++*i) {
        struct range range = ranges->items[*i];
        add_element(request, range.first, ranges->size, 0);
        if (next_address(range.last, ranges->size))
            add_element(request, range.last, ranges->size, NFT_SET_ELEM_INTERVAL_END);
    }
    request_shut(request, list);
    request_finish(request, at);
    return at;
}

/* Into the sets that are not in use, then out of those that are: with the last batch, which is the only one where
 * there is little. Whatever fails, what was closed stays so. */
static int send_sets(int nft, const struct record *record, unsigned used, const struct ranges *four,
                     const struct ranges *six)
{
    const struct ranges *families[] = {four, six};
    unsigned other = used == HOST_SETS ? HOST_SETS_SPARE : HOST_SETS;
    struct request request = {0};
    ssize_t last = -1;

    mark_batch(&request, NFNL_MSG_BATCH_BEGIN);
    for (unsigned family = 0; family < 2; family++) {
        clear_set(&request, record, other + family);
        for (size_t i = 0; i < families[family]->count;) {
            if (request.size > BATCH) {
                if (send_batch(nft, &request, last) < 0)
                    return -1;
                mark_batch(&request, NFNL_MSG_BATCH_BEGIN);
            }
            last = add_elements(&request, record, other + family, families[family], &i);
        }
    }
    for (unsigned family = 0; family < 2; family++) {
        last = (ssize_t)request.size;
        clear_set(&request, record, used + family);
    }
    return send_batch(nft, &request, last);
}

int host_fill(const struct record *record, int nft, unsigned *used)
{
    static struct ranges four, six;
    const struct timeval patience = {.tv_sec = 10};
    int route cleanup_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), result = -1;

    four.count = six.count = 0;
    four.failed = six.failed = false;
    four.size = 4;
    six.size = 16;
    if (*used == 0)
        *used = HOST_SETS_SPARE; /* all are empty */
    if (route >= 0) {
        setsockopt(route, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        if (read_host(route, &four) == 0 && read_host(route, &six) == 0)
            result = send_sets(nft, record, *used, &four, &six);
    }
    if (result == 0)
        *used = *used == HOST_SETS ? HOST_SETS_SPARE : HOST_SETS;
    return result;
}

/* --- counters --------------------------------------------------------------------------------- */

/* What of attributes is yet to be looked at; the kernel's, but never past their end. */
struct attributes {
    const char *at, *end;
};

static const struct nlattr *next_attribute(struct attributes *in)
{
    const struct nlattr *attribute = (const void *)in->at;
    size_t left = (size_t)(in->end - in->at);

    if (left < NLA_HDRLEN || attribute->nla_len < NLA_HDRLEN || attribute->nla_len > left)
        return NULL;
    in->at += NLMSG_ALIGN(attribute->nla_len) < left ? NLMSG_ALIGN(attribute->nla_len) : left;
    return attribute;
}

/* What is in one; nothing in none. */
static struct attributes inside(const struct nlattr *attribute)
{
    const char *at = (const char *)attribute;

    return attribute ? (struct attributes){at + NLA_HDRLEN, at + attribute->nla_len} : (struct attributes){"", ""};
}

static struct attributes find_attribute(struct attributes in, unsigned type)
{
    const struct nlattr *attribute;

    while ((attribute = next_attribute(&in)) && (attribute->nla_type & NLA_TYPE_MASK) != type)
        ;
    return inside(attribute);
}

static struct attributes attributes_of(const struct nlmsghdr *header)
{
    const char *at = PAYLOAD(header) + NLMSG_ALIGN(sizeof(struct nfgenmsg)), *end = (const char *)header + header->nlmsg_len;

    return at < end ? (struct attributes){at, end} : inside(NULL);
}

/* A counter's, or -1. */
static int64_t packets_of(struct attributes counter)
{
    struct attributes packets = find_attribute(counter, NFTA_COUNTER_PACKETS);
    uint64_t found = 0;

    if (packets.end - packets.at != sizeof(found))
        return -1;
    for (; packets.at < packets.end; packets.at++)
        found = found << 8 | (unsigned char)*packets.at;
    return (int64_t)found;
}

static void note_counter(const struct nlmsghdr *header, void *data)
{
    if (header->nlmsg_type == NFT(NEWOBJ))
        *(int64_t *)data = packets_of(find_attribute(attributes_of(header), NFTA_OBJ_DATA));
}

int64_t counter_read(int nft, const char *table, const char *name)
{
    const uint32_t type = htonl(NFT_OBJECT_COUNTER);
    struct request request = {0};
    int64_t packets = -1;

    ssize_t at = begin_nft(&request, NFT(GETOBJ), NLM_F_ACK, NFPROTO_INET, 0);
    request_add_text(&request, NFTA_OBJ_TABLE, table);
    request_add_text(&request, NFTA_OBJ_NAME, name);
    request_add(&request, NFTA_OBJ_TYPE, &type, sizeof(type));
    request_finish(&request, at);
    if (request.data && request_talk(nft, &request, note_counter, &packets) < 0)
        packets = -1;
    free(request.data);
    return packets;
}

/* --- what was refused ------------------------------------------------------------------------- */

struct visit {
    void (*refused)(void *data, const struct refused *refused);
    void *data;
};

/* Keys are an address, a protocol and a port, each in whole words. */
static void note_element(struct attributes element, const struct visit *visit)
{
    struct attributes key = find_attribute(find_attribute(element, NFTA_SET_ELEM_KEY), NFTA_DATA_VALUE);
    struct attributes expression = find_attribute(element, NFTA_SET_ELEM_EXPR);
    size_t size = (size_t)(key.end - key.at), address = size == 12 ? 4 : 16;
    struct refused refused;

    if (size != 12 && size != 24)
        return;
    refused.packets = packets_of(find_attribute(expression, NFTA_EXPR_DATA));
    refused.protocol = (unsigned char)key.at[address];
    refused.port = (unsigned char)key.at[address + 4] << 8 | (unsigned char)key.at[address + 5];
    inet_ntop(size == 12 ? AF_INET : AF_INET6, key.at, refused.address, sizeof(refused.address));
    visit->refused(visit->data, &refused);
}

static void note_elements(const struct nlmsghdr *header, void *data)
{
    struct attributes list = find_attribute(attributes_of(header), NFTA_SET_ELEM_LIST_ELEMENTS);
    const struct nlattr *element;

    while (header->nlmsg_type == NFT(NEWSETELEM) && (element = next_attribute(&list)))
        note_element(inside(element), data);
}

void refused_read(int nft, const char *table, const char *set, void (*each)(void *, const struct refused *), void *data)
{
    struct visit visit = {each, data};
    struct request request = {0};

    ssize_t at = begin_nft(&request, NFT(GETSETELEM), NLM_F_DUMP, NFPROTO_INET, 0);
    request_add_text(&request, NFTA_SET_ELEM_LIST_TABLE, table);
    request_add_text(&request, NFTA_SET_ELEM_LIST_SET, set);
    request_finish(&request, at);
    if (request.data)
        request_talk(nft, &request, note_elements, &visit);
    free(request.data);
}
