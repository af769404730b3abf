/* Error texts, descriptors and messages: what every part of the helper uses. */

#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "helper.h"
#include "sys.h"

void close_fd(int *fd)
{
    if (*fd >= 0) {
        int saved = errno;
        close(*fd);
        errno = saved;
    }
    *fd = -1;
}

int fail(struct failure *failure, int error, const struct record *record, const char *format, ...)
{
    va_list arguments;

    failure->error = error;
    failure->record = record;
    va_start(arguments, format);
    vsnprintf(failure->text, sizeof(failure->text), format, arguments);
    va_end(arguments);
    return -1;
}

int64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * SECOND + time.tv_nsec;
}

/* strerrorname_np is glibc's only. The numbers of a sandbox's set-up; others print as a number. */
const char *error_name(int error)
{
    static const struct {
        int number;
        const char *name;
    } names[] = {
        {EPERM, "EPERM"},         {ENOENT, "ENOENT"},       {EIO, "EIO"},
        {ENXIO, "ENXIO"},         {E2BIG, "E2BIG"},         {ENOEXEC, "ENOEXEC"},
        {EBADF, "EBADF"},         {EAGAIN, "EAGAIN"},       {ENOMEM, "ENOMEM"},
        {EACCES, "EACCES"},       {EFAULT, "EFAULT"},       {EBUSY, "EBUSY"},
        {EEXIST, "EEXIST"},       {EXDEV, "EXDEV"},         {ENODEV, "ENODEV"},
        {ENOTDIR, "ENOTDIR"},     {EISDIR, "EISDIR"},       {EINVAL, "EINVAL"},
        {ENFILE, "ENFILE"},       {EMFILE, "EMFILE"},       {ETXTBSY, "ETXTBSY"},
        {EFBIG, "EFBIG"},         {ENOSPC, "ENOSPC"},       {EROFS, "EROFS"},
        {EMLINK, "EMLINK"},       {EPIPE, "EPIPE"},         {ENAMETOOLONG, "ENAMETOOLONG"},
        {ENOSYS, "ENOSYS"},       {ENOTEMPTY, "ENOTEMPTY"}, {ELOOP, "ELOOP"},
        {EPROTO, "EPROTO"},       {EOVERFLOW, "EOVERFLOW"}, {EUSERS, "EUSERS"},
        {EOPNOTSUPP, "EOPNOTSUPP"}, {ESTALE, "ESTALE"},     {EDQUOT, "EDQUOT"},
        {ETOOMANYREFS, "ETOOMANYREFS"}, {EADDRINUSE, "EADDRINUSE"},
        {EADDRNOTAVAIL, "EADDRNOTAVAIL"}, {ETIMEDOUT, "ETIMEDOUT"}, {ECHILD, "ECHILD"},
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (names[i].number == error)
            return names[i].name;
    return "";
}

int write_all(int fd, const void *data, size_t size)
{
    const char *at = data;

    while (size > 0) {
        ssize_t n = write(fd, at, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

bool is_dot(const char *name)
{
    return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0));
}

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

int close_all_but(int *kept, unsigned count)
{
    unsigned next = 3;

    qsort(kept, count, sizeof(kept[0]), by_number);
    for (unsigned i = 0; i < count; i++) {
        if (kept[i] < (int)next)
            continue;
        if (kept[i] > (int)next && sys_close_range(next, (unsigned)kept[i] - 1) < 0)
            return -1;
        next = (unsigned)kept[i] + 1;
    }
    return sys_close_range(next, ~0u);
}

int set_capabilities(uint64_t mask, uint64_t inherited)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    for (int i = 0; i < 64; i++)
        if (!(mask & 1ull << i) && prctl(PR_CAPBSET_DROP, i) < 0 && errno != EINVAL)
            return -1;
    for (int i = 0; i < 2; i++) {
        data[i].effective = data[i].permitted = (uint32_t)(mask >> (32 * i));
        data[i].inheritable = (uint32_t)(inherited >> (32 * i));
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 || syscall(SYS_capset, &header, data) < 0)
        return -1;
    for (int i = 0; i < 64; i++)
        if ((inherited & 1ull << i) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0) < 0)
            return -1;
    return 0;
}

int keep_capabilities(uint64_t mask)
{
    return set_capabilities(mask, mask);
}

int child_wait(pid_t pid)
{
    int status = 0;

    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

void child_end(pid_t *pid)
{
    if (*pid > 0) {
        kill(*pid, SIGKILL);
        child_wait(*pid);
    }
    *pid = -1;
}

int64_t microseconds(struct timeval time)
{
    return (int64_t)time.tv_sec * 1000000 + time.tv_usec;
}

/* --- datagrams ------------------------------------------------------------------------------ */

int datagram_send(int socket, struct iovec *parts, size_t count, const int *fds, int nfds, int flags)
{
    union {
        char buffer[CMSG_SPACE(sizeof(int) * MESSAGE_FDS)];
        struct cmsghdr align;
    } control = {{0}};
    struct msghdr header = {.msg_iov = parts, .msg_iovlen = count};

    if (nfds > 0) {
        header.msg_control = control.buffer;
        header.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)nfds);
        struct cmsghdr *item = CMSG_FIRSTHDR(&header);
        item->cmsg_level = SOL_SOCKET;
        item->cmsg_type = SCM_RIGHTS;
        item->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)nfds);
        memcpy(CMSG_DATA(item), fds, sizeof(int) * (size_t)nfds);
    }
    for (;;) {
        if (sendmsg(socket, &header, MSG_NOSIGNAL | flags) >= 0)
            return 0;
        if (errno != EINTR)
            return -1;
    }
}

int introduce(int socket, const char *role)
{
    char json[64];
    int size = snprintf(json, sizeof(json), "{\"event\":\"%s\",\"pid\":%d}", role, getpid());
    struct iovec part = {.iov_base = json, .iov_len = (size_t)size};
    int self cleanup_fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

    if (self >= 0 && datagram_send(socket, &part, 1, &self, 1, MSG_DONTWAIT) == 0)
        return 0;
    return datagram_send(socket, &part, 1, NULL, 0, MSG_DONTWAIT); /* as with too many descriptors on their way */
}

/* More than MESSAGE_FDS can't come: there is no room for them in the buffer. */
static void take_descriptors(struct msghdr *header, int *fds)
{
    for (struct cmsghdr *item = CMSG_FIRSTHDR(header); item; item = CMSG_NXTHDR(header, item)) {
        if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (item->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(item), (count > MESSAGE_FDS ? MESSAGE_FDS : count) * sizeof(int));
    }
}

static void drop_descriptors(int *fds, int value)
{
    for (int i = 0; i < MESSAGE_FDS; i++) {
        close_fd(&fds[i]);
        fds[i] = value;
    }
}

ssize_t datagram_receive(int socket, char *buffer, size_t size, int *fds, int flags)
{
    union {
        char buffer[CMSG_SPACE(sizeof(int) * MESSAGE_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = buffer, .iov_len = size};
    struct msghdr header = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.buffer,
        .msg_controllen = sizeof(control.buffer),
    };
    ssize_t n;

    for (int i = 0; i < MESSAGE_FDS; i++)
        fds[i] = -1;
    /* ECONNRESET: the other end closed with something of ours unread. It is said once, before what the
     * other end sent last can be had, which may be how the command ended (unix(7)). */
    do
        n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC | flags);
    while (n < 0 && (errno == EINTR || errno == ECONNRESET));
    if (n <= 0)
        return n;
    take_descriptors(&header, fds);
    if (header.msg_flags & MSG_CTRUNC)
        drop_descriptors(fds, FDS_LOST);
    if (header.msg_flags & MSG_TRUNC) {
        drop_descriptors(fds, -1);
        errno = EPROTO;
        return -1;
    }
    return n;
}

/* --- messages ------------------------------------------------------------------------------- */

int message_send(int socket, const struct message *message, const void *data, const int *fds, int nfds)
{
    struct iovec parts[2] = {
        {.iov_base = (void *)(uintptr_t)message, .iov_len = sizeof(*message)},
        {.iov_base = (void *)(uintptr_t)data, .iov_len = message->size},
    };

    if (nfds > MESSAGE_FDS || message->size > MESSAGE_MAX - sizeof(*message)) {
        errno = EMSGSIZE;
        return -1;
    }
    return datagram_send(socket, parts, message->size ? 2 : 1, fds, nfds, 0);
}

int message_receive(int socket, char *buffer, int *fds)
{
    const struct message *message = (const struct message *)(const void *)buffer;
    ssize_t size = datagram_receive(socket, buffer, MESSAGE_MAX, fds, 0);

    if (size <= 0)
        return size < 0 ? -1 : 0;
    if ((size_t)size < sizeof(*message) || message->size != (size_t)size - sizeof(*message)) {
        drop_descriptors(fds, -1);
        errno = EPROTO;
        return -1;
    }
    return 1;
}
