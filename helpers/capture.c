/* The capture: a process in the network namespace of a sandbox, which has a packet socket (packet(7)) there and the
 * caller's file, and no rights. The payload, in another user and pid namespace, neither sees nor stops it.
 *
 * Devices of all kinds are in one file, so packets have Linux's own header in place of a link's: pcap-savefile(5),
 * LINKTYPE_LINUX_SLL2. What a sandbox can send without end must not fill the user's disk: the room is bounded.
 */

#include "capture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "guard.h"
#include "rate.h"
#include "supervisor.h"
#include "sys.h"

#define MAGIC 0xa1b23c4du /* times have nanoseconds */
#define SNAPLEN 262144u
#define LINKTYPE_LINUX_SLL2 276u
#define BATCH 256                 /* packets, before the supervisor is looked after */
#define QUEUE (16 << 20)          /* bytes of packets that wait; we get what net.core.rmem_max allows */
#define PATIENCE_MS 5000          /* for the end */
#define LAST 4096                 /* packets that still waited then */

struct capture_counts {
    int64_t written, dropped;
    int32_t error; /* errno of what the file refused */
    bool full;
};

struct file_header {
    uint32_t magic;
    uint16_t major, minor;
    uint32_t zone, accuracy, snaplen, linktype;
};

struct packet_header {
    uint32_t seconds, nanoseconds, length, original;
    uint16_t protocol, reserved;
    uint32_t device;
    uint16_t hardware;
    uint8_t type, address_length;
    uint8_t address[8];
} __attribute__((packed));

#define OF_LINK (sizeof(struct packet_header) - 4 * sizeof(uint32_t)) /* is a part of the packet */

struct capturing {
    int file, socket, life;
    int between; /* the device RATE_DEVICE, or 0 */
    int64_t room;
    struct capture_counts *counts;
};

static int write_part(struct capturing *c, const void *data, size_t size)
{
    if (c->counts->full || c->counts->error)
        return -1;
    if ((int64_t)size > c->room) {
        c->counts->full = true;
        return -1;
    }
    c->room -= (int64_t)size;
    if (write_all(c->file, data, size) == 0)
        return 0;
    c->counts->error = errno;
    return -1;
}

static struct timespec time_of(struct msghdr *message)
{
    struct timespec time = {0};

    for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at))
        if (at->cmsg_level == SOL_SOCKET && at->cmsg_type == SO_TIMESTAMPNS)
            memcpy(&time, CMSG_DATA(at), sizeof(time));
    if (!time.tv_sec)
        clock_gettime(CLOCK_REALTIME, &time);
    return time;
}

/* One packet. False: there is none. */
static bool take_one(struct capturing *c)
{
    static char buffer[sizeof(struct packet_header) + SNAPLEN];
    char control[128];
    struct sockaddr_ll from = {0};
    struct iovec part = {.iov_base = buffer + sizeof(struct packet_header), .iov_len = SNAPLEN};
    struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &part, .msg_iovlen = 1,
                             .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t size = recvmsg(c->socket, &message, MSG_DONTWAIT | MSG_TRUNC);

    if (size < 0)
        return errno == EINTR;
    if (from.sll_hatype == ARPHRD_LOOPBACK && from.sll_pkttype == PACKET_OUTGOING)
        return true; /* it will be seen again when it comes in */
    if (c->between && from.sll_ifindex == c->between)
        return true; /* it was seen when it came, and goes through this one to wait */
    struct timespec time = time_of(&message);
    uint32_t kept = size < (ssize_t)SNAPLEN ? (uint32_t)size : SNAPLEN;
    struct packet_header header = {
        .seconds = (uint32_t)time.tv_sec,
        .nanoseconds = (uint32_t)time.tv_nsec,
        .length = kept + (uint32_t)OF_LINK,
        .original = (uint32_t)size + (uint32_t)OF_LINK,
        .protocol = from.sll_protocol,
        .device = htonl((uint32_t)from.sll_ifindex),
        .hardware = htons(from.sll_hatype),
        .type = from.sll_pkttype,
        .address_length = from.sll_halen,
    };
    memcpy(header.address, from.sll_addr, sizeof(header.address));
    memcpy(buffer, &header, sizeof(header));
    if (write_part(c, buffer, sizeof(header) + kept) == 0)
        c->counts->written++;
    else
        c->counts->dropped++;
    return true;
}

/* What the kernel had no room for, since it was asked last. */
static void note_dropped(struct capturing *c)
{
    struct tpacket_stats stats = {0};
    socklen_t size = sizeof(stats);

    if (getsockopt(c->socket, SOL_PACKET, PACKET_STATISTICS, &stats, &size) == 0)
        c->counts->dropped += stats.tp_drops;
}

static _Noreturn void loop(struct capturing *c)
{
    for (;;) {
        struct pollfd polls[] = {{.fd = c->life, .events = POLLIN}, {.fd = c->socket, .events = POLLIN}};
        if (poll(polls, 2, -1) < 0 && errno != EINTR)
            _exit(EXIT_OURS);
        for (int i = 0; i < (polls[0].revents ? LAST : BATCH) && take_one(c); i++)
            ;
        if (!polls[0].revents)
            continue;
        note_dropped(c);
        _exit(0);
    }
}

static int open_socket(void)
{
    const int one = 1, size = QUEUE;
    int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ALL));

    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
        setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof(one));
    }
    return fd;
}

static _Noreturn void capture_main(const struct plan *plan, struct capturing c, int userns, int netns)
{
    const struct file_header header = {
        .magic = MAGIC, .major = 2, .minor = 4, .snaplen = SNAPLEN, .linktype = LINKTYPE_LINUX_SLL2};
    int null = open("/dev/null", O_RDWR), kept[] = {userns, netns, c.life, c.file};

    setsid(); /* what is typed at a terminal is not for it */
    for (int i = 0; i < 3; i++)
        dup2(null, i);
    if (null < 0 || close_all_but(kept, 4) < 0 || chdir("/") < 0 || setns(userns, CLONE_NEWUSER) < 0 ||
        setns(netns, CLONE_NEWNET) < 0 || (c.socket = open_socket()) < 0 || take_ids(plan) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || keep_capabilities(0) < 0 ||
        prctl(PR_SET_DUMPABLE, 0) < 0 || /* backends are in A, too, and not to look into us */
        prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || write_part(&c, &header, sizeof(header)) < 0) {
        if (!c.counts->error)
            c.counts->error = errno;
        _exit(EXIT_OURS);
    }
    c.between = (int)if_nametoindex(RATE_DEVICE);
    close_fd(&userns);
    close_fd(&netns);
    if (write(c.life, "r", 1) != 1)
        _exit(EXIT_OURS);
    loop(&c);
}

int capture_start(const struct plan *plan, int file, int64_t room, int userns, int netns, struct capture *capture)
{
    int pair[2];
    char word;
    void *shared =
        mmap(NULL, sizeof(*capture->counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (shared == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -1;
    capture->counts = shared;
    capture->pid = fork();
    if (capture->pid == 0) {
        close(pair[0]);
        capture_main(plan, (struct capturing){.file = file, .life = pair[1], .room = room, .counts = shared}, userns,
                     netns);
    }
    int error = errno;
    close(pair[1]);
    capture->life = pair[0];
    errno = error;
    if (capture->pid > 0 && read(capture->life, &word, 1) == 1)
        return 0;
    if (capture->pid > 0)
        errno = capture->counts->error ? capture->counts->error : ECHILD;
    error = errno;
    capture_end(capture);
    errno = error;
    return -1;
}

void capture_end(struct capture *capture)
{
    struct pollfd life = {.fd = capture->life, .events = POLLIN};

    if (capture->pid <= 0)
        return;
    shutdown(capture->life, SHUT_WR);
    if (poll(&life, 1, PATIENCE_MS) <= 0) /* its end is the socket's */
        kill(capture->pid, SIGKILL);
    close_fd(&capture->life);
    child_wait(capture->pid);
    capture->pid = -1;
}

const char *capture_gap(const struct capture *capture)
{
    if (!capture->counts)
        return NULL;
    if (capture->counts->error)
        return strerror(capture->counts->error);
    if (capture->counts->full)
        return "there is more than there is room for";
    return capture->counts->dropped ? "packets came faster than they could be written" : NULL;
}
