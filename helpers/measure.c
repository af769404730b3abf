/* What a sandbox uses, measured from inside by init, for limits that the kernel doesn't hold for us.
 * Not accounting: what lives shorter than the distance of two scans is missed.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "commands.h"

struct tally {
    int64_t wanted;
    int64_t memory, cpu, tasks;
    int64_t tick; /* us per clock tick */
    bool blind;   /* something could not be looked at */
    /* memfds seen in this scan, so that a shared one counts once; when full, each further one counts */
    uint64_t memfds[256];
    unsigned memfd_count;
};

/* What can't be looked at, for another reason than having ended, was not measured. */
static void note_failure(struct tally *tally, int error)
{
    tally->blind |= !is_gone(error);
}

/* "Name:   123 kB" in bytes. */
static int64_t kilobytes(const char *text, const char *name)
{
    const char *at = strstr(text, name);

    return at ? strtoll(at + strlen(name), NULL, 10) * 1024 : 0;
}

/* What anybody may know: all that is resident, files included (statm, second column). For programs that
 * may be executed and not read, which init may look no further into. */
static int64_t resident(const struct init *init, pid_t pid, struct tally *tally)
{
    char text[128];
    long long pages;

    if (read_process(init, pid, "statm", text, sizeof(text)) < 0)
        note_failure(tally, errno);
    return sscanf(text, "%*d %lld", &pages) == 1 ? pages * sysconf(_SC_PAGESIZE) : 0;
}

/* Page tables, of which every page that is read somewhere in an empty mapping makes some, and which no resource
 * limit bounds. The list of groups comes before them, and is as long as the payload likes. */
static int64_t page_tables(const struct init *init, pid_t pid)
{
    static const char name[] = "\nVmPTE:";
    char path[48], text[4096 + 1];
    size_t kept = 0;
    ssize_t n;

    snprintf(path, sizeof(path), "%d/status", pid);
    int fd cleanup_fd = openat(init->root.proc, path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && (n = read(fd, text + kept, sizeof(text) - 1 - kept)) > 0) {
        size_t size = kept + (size_t)n;
        text[size] = 0;
        const char *at = strstr(text, name);
        if (at && strchr(at + 1, '\n'))
            return kilobytes(at, name);
        kept = size < 64 ? size : 64; /* the line may go on in the next part */
        memmove(text, text + size - kept, kept);
    }
    return 0;
}

/* Anonymous and shared-memory pages, each process's share of them, and what is swapped out: what
 * the sandbox can't be made to give back. Files of the host, read or mapped, are cache. */
static int64_t process_memory(const struct init *init, pid_t pid, struct tally *tally)
{
    char text[2048];

    if (read_process(init, pid, "smaps_rollup", text, sizeof(text)) <= 0)
        return resident(init, pid, tally);
    return kilobytes(text, "\nPss_Anon:") + kilobytes(text, "\nPss_Shmem:") + kilobytes(text, "\nSwapPss:");
}

/* Fields 14 to 17 and 20 of stat, counted behind the name, which may hold anything. */
static void add_stat(const struct init *init, pid_t pid, struct tally *tally)
{
    char text[1024];
    unsigned long long user, system;
    long long child_user, child_system, threads;

    if (read_process(init, pid, "stat", text, sizeof(text)) < 0)
        note_failure(tally, errno);
    const char *rest = strrchr(text, ')');
    if (!rest || sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %lld %lld %*d %*d %lld",
                        &user, &system, &child_user, &child_system, &threads) != 5)
        return;
    tally->cpu += (int64_t)(user + system + (unsigned long long)(child_user + child_system)) * tally->tick;
    tally->tasks += pid > init->root.server ? threads : 0; /* those before are ours, and in no limit */
}

static bool seen_before(struct tally *tally, uint64_t inode)
{
    for (unsigned i = 0; i < tally->memfd_count; i++)
        if (tally->memfds[i] == inode)
            return true;
    if (tally->memfd_count < sizeof(tally->memfds) / sizeof(tally->memfds[0]))
        tally->memfds[tally->memfd_count++] = inode;
    return false;
}

/* A memfd that is written to and not mapped shows in no process's PSS, only in its descriptors. */
static void add_memfds(const struct init *init, pid_t pid, struct tally *tally)
{
    char path[32], name[32];
    struct dirent *entry;
    struct stat status;

    snprintf(path, sizeof(path), "%d/fd", pid);
    int fd = openat(init->root.proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (errno != EACCES && errno != EPERM) /* those of a program that may not be read */
            note_failure(tally, errno);
        close_fd(&fd);
        return;
    }
    while ((entry = readdir(dir))) {
        ssize_t n = readlinkat(fd, entry->d_name, name, sizeof(name) - 1);
        if (n < 7 || strncmp(name, "/memfd:", 7) != 0 || fstatat(fd, entry->d_name, &status, 0) < 0 ||
            seen_before(tally, status.st_ino))
            continue;
        tally->memory += (int64_t)status.st_blocks * 512;
    }
    closedir(dir);
}

static void add_process(const struct init *init, pid_t pid, void *data)
{
    struct tally *tally = data;

    if (tally->wanted & (POLL_CPU | POLL_TASKS))
        add_stat(init, pid, tally);
    if (tally->wanted & POLL_MEMORY) {
        tally->memory += process_memory(init, pid, tally);
        tally->memory += page_tables(init, pid);
        add_memfds(init, pid, tally);
    }
}

/* System V segments that nobody has attached are in no process either: column 14, rss in bytes. */
static int64_t unattached_segments(const struct init *init, struct tally *tally)
{
    int fd cleanup_fd = openat(init->root.proc, "sysvipc/shm", O_RDONLY | O_CLOEXEC);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "re");
    char line[512];
    int64_t sum = 0;

    if (!file) {
        note_failure(tally, errno); /* ENOENT: a kernel without them */
        return 0;
    }
    fd = -1;
    while (fgets(line, sizeof(line), file)) {
        unsigned long long attached, rss;
        if (sscanf(line, "%*d %*d %*o %*u %*d %*d %llu %*u %*u %*u %*u %*u %*u %*u %llu", &attached, &rss) == 2 &&
            attached == 0)
            sum += (int64_t)rss;
    }
    fclose(file);
    return sum;
}

/* Bytes used in the tmpfs of ours, and whether one of them is full, of bytes or of inodes. */
static int measure_disk(const struct init *init, struct message *answer)
{
    struct statvfs status;

    for (unsigned i = 0; i < init->root.writables; i++) {
        if (fstatvfs(init->root.writable[i], &status) < 0)
            return -1;
        answer->d += (int64_t)(status.f_blocks - status.f_bfree) * (int64_t)status.f_frsize;
        if ((status.f_blocks && !status.f_bfree) || (status.f_files && !status.f_ffree))
            answer->e |= USAGE_FULL;
    }
    return 0;
}

void measure(struct init *init, int64_t wanted, struct message *answer)
{
    struct tally tally = {.wanted = wanted, .tick = 1000000 / sysconf(_SC_CLK_TCK)};
    struct rusage reaped = {0};

    look_begin(init);
    if ((wanted & (POLL_MEMORY | POLL_CPU | POLL_TASKS)) && each_process(init, add_process, &tally) < 0)
        tally.blind = true;
    if (wanted & POLL_MEMORY)
        tally.memory += unattached_segments(init, &tally);
    look_end(init);
    getrusage(RUSAGE_CHILDREN, &reaped);
    if (wanted & (POLL_DISK | POLL_MEMORY)) {
        bool measured = measure_disk(init, answer) == 0;
        wanted = measured ? wanted | POLL_DISK : wanted & ~(int64_t)(POLL_DISK | POLL_MEMORY);
    }
    if (tally.blind)
        wanted &= POLL_DISK;
    answer->a = tally.memory + answer->d;
    answer->b = tally.cpu + microseconds(reaped.ru_utime) + microseconds(reaped.ru_stime);
    answer->c = tally.tasks;
    answer->e |= wanted;
}

/* Whether as many tasks as the limit can have been there at once: so many numbers were given out (the last
 * field is of the reader's own namespace; fs/proc/loadavg.c). Where that can't be told, they may. */
static bool may_be_full(const struct init *init, int64_t limit)
{
    int fd cleanup_fd = openat(init->root.proc, "loadavg", O_RDONLY | O_CLOEXEC);
    char text[128];
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    long last;

    text[n > 0 ? n : 0] = 0;
    return sscanf(text, "%*s %*s %*s %*s %ld", &last) != 1 || last > limit;
}

void measure_tasks(struct init *init)
{
    const struct record *limit = plan_find(init->plan, KIND_NPROC);
    struct message usage = {.type = MSG_USAGE, .id = -1};

    if (!limit || !may_be_full(init, record_int(limit, 0)))
        return;
    measure(init, POLL_TASKS, &usage);
    usage.e |= USAGE_UNASKED;
    message_send(init->socket, &usage, NULL, NULL, 0);
}
