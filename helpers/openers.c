/* Files on behalf of the caller: each is opened by a child of init's that has become the payload, and what it
 * opened is handed out. The caller is to have an answer whatever happens to that child.
 */

#include <errno.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>

#include "commands.h"
#include "payload.h"
#include "sys.h"

/* --- answers -------------------------------------------------------------------------------- */

void refuse_file(const struct init *init, int32_t id, int error, const char *why)
{
    struct message message = {.type = MSG_FILE, .id = id, .a = error, .size = (uint32_t)strlen(why) + 1};

    message_send(init->socket, &message, why, NULL, 0);
}

/* Files whose content is the reader's own business: /proc/self would be ours, not the payload's. */
static bool is_kernels_own(int fd)
{
    struct statfs status;

    return fstatfs(fd, &status) < 0 || status.f_type == PROC_SUPER_MAGIC || status.f_type == SYSFS_MAGIC ||
           status.f_type == CGROUP2_SUPER_MAGIC;
}

/* Opened by a child with no more rights than the payload has, inside the root, and only what is a
 * regular file there: a planted link, FIFO or device gives an error, never a wait. */
static int open_file(const struct init *init, const struct record *record, const char **why)
{
    bool writing = record_int(record, 1) != 0;
    uint64_t flags = O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | (writing ? O_WRONLY | O_CREAT : O_RDONLY);
    struct stat status;

    int fd = sys_openat2(init->root.fd, record_text(record, 3), flags,
                         writing ? (uint64_t)record_int(record, 2) & 0777 : 0,
                         K_RESOLVE_IN_ROOT | K_RESOLVE_NO_MAGICLINKS);
    if (fd < 0) {
        *why = errno == ELOOP ? "it is a symbolic link, or leads through too many" : strerror(errno);
        return -1;
    }
    if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode)) {
        *why = "it is not a regular file";
        errno = EINVAL;
    } else if (is_kernels_own(fd)) {
        *why = "it belongs to the kernel (proc or sysfs)";
        errno = EINVAL;
    } else if (writing && ftruncate(fd, 0) < 0) {
        *why = strerror(errno);
    } else {
        return fd;
    }
    close_fd(&fd);
    return -1;
}

/* This user may have too many descriptors on their way already (ETOOMANYREFS, unix(7)): that passes. */
static int send_file(const struct init *init, const struct message *message, const char *why, int fd)
{
    const struct timespec pause = {.tv_nsec = 2000000};
    int result = -1;

    for (int round = 0; round < 5000; round++) {
        result = message_send(init->socket, message, why, &fd, fd < 0 ? 0 : 1);
        if (result == 0 || errno != ETOOMANYREFS)
            break;
        nanosleep(&pause, NULL);
    }
    return result;
}

void open_for_caller(struct init *init, int32_t id, const struct record *record)
{
    struct message message = {.type = MSG_FILE, .id = id};
    const char *why = strerror(EPERM);
    unsigned place = 0;
    pid_t pid;

    while (place < MAX_OPENERS && init->openers[place].pid)
        place++;
    if (place == MAX_OPENERS) {
        refuse_file(init, id, EAGAIN, "too many files are being opened at once");
        return;
    }
    pid = fork();
    if (pid > 0) {
        init->openers[place].pid = pid;
        init->openers[place].id = id;
        return;
    }
    if (pid == 0) {
        int fd = -1;
        if (record->kind != KIND_OPEN || payload_drop_rights(&init->root) < 0)
            errno = EPERM;
        else
            fd = open_file(init, record, &why);
        message.a = fd < 0 ? errno : 0;
        message.size = fd < 0 ? (uint32_t)strlen(why) + 1 : 0;
        if (send_file(init, &message, why, fd) < 0)
            refuse_file(init, id, errno, strerror(errno));
        _exit(0);
    }
    refuse_file(init, id, errno, strerror(errno));
}

/* --- the end of such a child ----------------------------------------------------------------- */

/* A child that opens a file can be stopped or killed by the payload, whose user it is; the caller is to
 * have an answer all the same. */
bool reap_opener(struct init *init, pid_t pid, int status)
{
    for (unsigned i = 0; i < MAX_OPENERS; i++) {
        if (init->openers[i].pid != pid)
            continue;
        if (WIFSTOPPED(status)) {
            kill(pid, SIGKILL);
            return true;
        }
        if (!WIFEXITED(status))
            refuse_file(init, init->openers[i].id, EIO, "something in the sandbox interfered");
        init->openers[i].pid = 0;
        return true;
    }
    return false;
}
