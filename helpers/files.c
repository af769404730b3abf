/* Files of a layer. See files.h. */

#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "helper.h"
#include "sys.h"

#define IN 0
#define OUT 1
#define ROOT 3
#define SOURCE 4
#define BUFFER (1u << 18)
#define WINDOW (1ull << 26) /* of what is copied from, as much as is mapped at once */
#define MOST_PATH (1u << 16)
#define STEP 4000 /* of a path that is walked at once: PATH_MAX is 4096 */

struct input {
    size_t at, end;
    char data[BUFFER];
};

static struct input input;
static char directory_path[MOST_PATH];
static int directory = -1;

/* --- what is told --------------------------------------------------------------------------- */

/* `size` bytes in a row, good until the next call; NULL at the end, or when that is more than we hold. */
static char *take(size_t size)
{
    if (size > BUFFER)
        return NULL;
    if (input.end - input.at < size && input.at > 0) {
        memmove(input.data, input.data + input.at, input.end - input.at);
        input.end -= input.at;
        input.at = 0;
    }
    while (input.end - input.at < size) {
        ssize_t n = read(IN, input.data + input.end, BUFFER - input.end);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return NULL;
        input.end += (size_t)n;
    }
    input.at += size;
    return input.data + input.at - size;
}

static bool take_struct(void *into, size_t size)
{
    const char *found = take(size);

    if (found)
        memcpy(into, found, size);
    return found != NULL;
}

/* A text of `size` bytes, the last of which is null, and no other. */
static char *take_text(size_t size)
{
    char *found = size > 0 ? take(size) : NULL;

    return found && strnlen(found, size) == size - 1 ? found : NULL;
}

/* --- what is said --------------------------------------------------------------------------- */

static int answer(const struct file_answer *said, const char *name, const char *xattr)
{
    if (write_all(OUT, said, sizeof(*said)) < 0 || write_all(OUT, directory_path, said->directory) < 0 ||
        write_all(OUT, name, said->name) < 0 || write_all(OUT, xattr, said->xattr) < 0)
        return -1;
    return 0;
}

static int done_so_far(void)
{
    struct file_answer said = {0};

    return answer(&said, "", "");
}

/* What could not be done, with errno. */
static int failed(const struct file_head *head, const char *name)
{
    struct file_answer said = {.error = errno, .uid = head->uid, .gid = head->gid};

    said.directory = (uint32_t)strlen(directory_path);
    said.name = (uint32_t)strlen(name);
    answer(&said, name, "");
    return -1;
}

static int failed_xattr(const char *name, const struct file_xattr *size, const char *xattr)
{
    struct file_answer said = {.error = errno, .value = size->value, .xattr = size->name - 1};

    said.directory = (uint32_t)strlen(directory_path);
    said.name = (uint32_t)strlen(name);
    answer(&said, name, xattr);
    return -1;
}

/* --- what is done --------------------------------------------------------------------------- */

/* Open `directory_path` below the root, in steps that the kernel takes; no link is followed. */
static int enter(void)
{
    struct k_open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                             .resolve = K_RESOLVE_BENEATH | K_RESOLVE_NO_SYMLINKS | K_RESOLVE_NO_MAGICLINKS};
    size_t left = strlen(directory_path);
    const char *at = directory_path;
    char step[STEP + 1];

    close_fd(&directory);
    directory = fcntl(ROOT, F_DUPFD_CLOEXEC, 5);
    while (directory >= 0 && left > 0) {
        size_t size = left;
        int next;

        if (size > STEP)
            for (size = STEP; size > 1 && at[size] != '/'; size--)
                continue;
        memcpy(step, at, size);
        step[size] = 0;
        at += size;
        left -= size;
        for (; left > 0 && *at == '/'; at++)
            left--;
        next = (int)syscall(SYS_openat2, directory, step, &how, sizeof(how));
        close_fd(&directory);
        directory = next;
    }
    return directory < 0 ? -1 : 0;
}

static int write_at(int fd, const char *data, size_t size, uint64_t offset)
{
    while (size > 0) {
        ssize_t n = pwrite(fd, data, size, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        data += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

/* A part of SOURCE, as much of `size` bytes as there is in a row; NULL with errno. It is mapped, a window after
 * the other: so it is copied once, by what writes it. */
static const char *source(uint64_t at, uint64_t size, size_t *got)
{
    static char *window = MAP_FAILED;
    static uint64_t begin;
    uint64_t offset = at % WINDOW;

    if (window == MAP_FAILED || begin != at - offset) {
        if (window != MAP_FAILED)
            munmap(window, WINDOW);
        begin = at - offset;
        window = mmap(NULL, WINDOW, PROT_READ, MAP_SHARED, SOURCE, (off_t)begin);
        if (window == MAP_FAILED)
            return NULL;
    }
    *got = size < WINDOW - offset ? (size_t)size : (size_t)(WINDOW - offset);
    return window + offset;
}

static int write_copied(int fd, uint64_t offset, uint64_t length, uint64_t at)
{
    struct stat status;

    if (fstat(SOURCE, &status) < 0)
        return -1;
    if (at > (uint64_t)status.st_size || length > (uint64_t)status.st_size - at) {
        errno = ENODATA; /* beyond its end there would be zeros */
        return -1;
    }
    while (length > 0) {
        size_t got;
        const char *data = source(at, length, &got);
        if (!data || write_at(fd, data, got, offset) < 0)
            return -1;
        offset += got;
        at += got;
        length -= got;
    }
    return 0;
}

/* Content of which more is told when there is more of it. 0; -1 with errno; 1: it ended. */
static int write_parts(int fd, uint64_t offset, uint64_t length)
{
    while (length > 0) {
        struct file_part part;

        if (!take_struct(&part, sizeof(part)) || part.length > length)
            return 1;
        if (part.length == 0 && done_so_far() < 0)
            return 1;
        if (write_copied(fd, offset, part.length, part.at) < 0)
            return -1;
        offset += part.length;
        length -= part.length;
    }
    return 0;
}

/* As write_parts. */
static int write_extents(int fd, const struct file_head *head)
{
    uint64_t end = 0;

    for (uint32_t i = 0; i < head->extents; i++) {
        struct file_extent extent;
        int result;

        if (!take_struct(&extent, sizeof(extent)))
            return 1;
        end = extent.offset + extent.length;
        result = extent.at == FILE_PARTS ? write_parts(fd, extent.offset, extent.length)
                                         : write_copied(fd, extent.offset, extent.length, extent.at);
        if (result != 0)
            return result;
    }
    return end < head->size ? ftruncate(fd, (off_t)head->size) : 0;
}

/* What a file has besides its content, in the order in which the kernel lets it stand: chown(2) clears
 * set-user-ID bits and capabilities, write(2) too. */
static int give(int fd, const struct file_head *head)
{
    if ((head->uid != FILE_NOBODY || head->gid != FILE_NOBODY) && fchown(fd, head->uid, head->gid) < 0)
        return -1;
    return head->mode & 07000 ? fchmod(fd, (mode_t)(head->mode & 07777)) : 0;
}

static int set_time(int fd, int64_t mtime)
{
    int64_t rest = (mtime % SECOND + SECOND) % SECOND;
    struct timespec times[2] = {{.tv_sec = (time_t)((mtime - rest) / SECOND), .tv_nsec = (long)rest}};

    times[1] = times[0];
    return futimens(fd, times);
}

/* The attributes come before the content and are set after it, so they are kept until then. */
static char attributes[BUFFER];

struct attribute {
    struct file_xattr size;
    const char *name, *value;
};

#define MOST_XATTRS 1024

/* 1: it ended, or they are more than we hold. */
static int take_attributes(struct attribute *found, uint32_t count)
{
    size_t used = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct file_xattr size;
        const char *name, *value;

        if (!take_struct(&size, sizeof(size)) || (uint64_t)size.name + size.value > BUFFER - used)
            return 1;
        name = take_text(size.name);
        if (!name)
            return 1;
        found[i].size = size;
        found[i].name = memcpy(attributes + used, name, size.name);
        used += size.name;
        value = take(size.value);
        if (!value)
            return 1;
        found[i].value = memcpy(attributes + used, value, size.value);
        used += size.value;
    }
    return 0;
}

/* One file. 0, or -1 when that is the end: the reason has been told, or there is nobody to tell. */
static int make(const struct file_head *head)
{
    static struct attribute found[MOST_XATTRS];
    char name[NAME_MAX + 1];
    const char *text;
    cleanup_fd int fd = -1;
    int result;

    if (head->directory > 0) {
        if (head->directory > MOST_PATH || !(text = take_text(head->directory)))
            return -1;
        memcpy(directory_path, text, head->directory);
    }
    if (head->name > sizeof(name) || !(text = take_text(head->name)) || strchr(text, '/'))
        return -1;
    memcpy(name, text, head->name);
    if (head->directory > 0 && enter() < 0)
        return failed(head, name);
    if (head->xattrs > MOST_XATTRS || take_attributes(found, head->xattrs) != 0)
        return -1;
    fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, head->mode & 0777);
    if (fd < 0)
        return failed(head, name);
    result = write_extents(fd, head);
    if (result > 0)
        return -1;
    if (result < 0 || give(fd, head) < 0)
        return failed(head, name);
    for (uint32_t i = 0; i < head->xattrs; i++)
        if (fsetxattr(fd, found[i].name, found[i].value, found[i].size.value, 0) < 0)
            return failed_xattr(name, &found[i].size, found[i].name);
    return set_time(fd, head->mtime) < 0 ? failed(head, name) : 0;
}

int files_main(void)
{
    struct file_head head;

    if (enter() < 0)
        return EXIT_OURS;
    while (take_struct(&head, sizeof(head)))
        if ((head.name == 0 ? done_so_far() : make(&head)) < 0)
            return EXIT_OURS;
    return 0;
}
