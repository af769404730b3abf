/* Why a program can't be executed, in words: execve(2) says ENOENT for a missing file, a missing
 * interpreter and a missing loader alike, and inside a sandbox each has another mend.
 */

#include <elf.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "payload.h"
#include "sys.h"

/* Where a dangling link leads: the name that is missing inside. */
static bool dangling(const char *path, char *target)
{
    struct stat status;
    char current[PATH_MAX], next[PATH_MAX];

    if (stat(path, &status) == 0 || lstat(path, &status) < 0 || !S_ISLNK(status.st_mode))
        return false;
    snprintf(current, sizeof(current), "%s", path);
    for (int depth = 0; depth < 40; depth++) {
        ssize_t n = readlink(current, next, sizeof(next) - 1);
        if (n <= 0)
            break;
        next[n] = 0;
        char *slash = strrchr(current, '/');
        size_t base = slash && next[0] != '/' ? (size_t)(slash - current) + 1 : 0;
        if (base + (size_t)n >= sizeof(current))
            break;
        memcpy(current + base, next, (size_t)n + 1);
    }
    memcpy(target, current, strlen(current) + 1);
    return true;
}

/* The interpreter of a #! line, as the kernel cuts it. */
static bool script_interpreter(const char *head, char *interpreter)
{
    const char *start = head + 2 + strspn(head + 2, " \t");
    size_t length = strcspn(start, " \t\n");

    if (strncmp(head, "#!", 2) != 0 || length == 0 || length >= PATH_MAX)
        return false;
    memcpy(interpreter, start, length);
    interpreter[length] = 0;
    return true;
}

/* PT_INTERP of a 64-bit program of this machine. */
static bool elf_loader(int fd, const char *head, ssize_t size, char *loader)
{
    Elf64_Ehdr header;
    Elf64_Phdr segment;

    if (size < (ssize_t)sizeof(header))
        return false;
    memcpy(&header, head, sizeof(header));
    if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64)
        return false;
    for (unsigned i = 0; i < header.e_phnum && i < 128; i++) {
        off_t at = (off_t)(header.e_phoff + i * sizeof(segment));
        if (pread(fd, &segment, sizeof(segment), at) != (ssize_t)sizeof(segment))
            return false;
        if (segment.p_type != PT_INTERP)
            continue;
        if (segment.p_filesz == 0 || segment.p_filesz >= PATH_MAX ||
            pread(fd, loader, segment.p_filesz, (off_t)segment.p_offset) != (ssize_t)segment.p_filesz)
            return false;
        loader[segment.p_filesz] = 0;
        return true;
    }
    return false;
}

static void explain_missing(const char *path, char *text, size_t size)
{
    char head[sizeof(Elf64_Ehdr) + 192] = {0}, other[PATH_MAX + 1];
    struct stat status;

    if (dangling(path, other)) {
        snprintf(text, size, "%s is a link to %s, which is not in the sandbox; bring its directory in with --bind",
                 path, other);
        return;
    }
    int fd cleanup_fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : pread(fd, head, sizeof(head) - 1, 0);
    if (n < 0) {
        snprintf(text, size, "%s: %s", path, fd < 0 ? strerror(ENOENT) : strerror(EIO));
    } else if (script_interpreter(head, other) && stat(other, &status) < 0) {
        snprintf(text, size, "%s needs the interpreter %s, which is not in the sandbox; bring it in with --bind",
                 path, other);
    } else if (elf_loader(fd, head, n, other) && stat(other, &status) < 0) {
        snprintf(text, size, "%s needs the loader %s, which is not in this root; the root has no C library for it",
                 path, other);
    } else {
        snprintf(text, size, "%s: %s", path, strerror(ENOENT));
    }
}

void explain_exec(const char *path, int error, char *text, size_t size)
{
    struct stat status;

    if (error == ENOENT)
        explain_missing(path, text, size);
    else if (error == EACCES && stat(path, &status) == 0 && S_ISDIR(status.st_mode))
        snprintf(text, size, "%s is a directory", path);
    else if (error == EACCES)
        snprintf(text, size, "%s is not executable (%s)", path, strerror(error));
    else if (error == ENOEXEC)
        snprintf(text, size, "%s is not a program for this machine, nor a script with a #! line", path);
    else
        snprintf(text, size, "%s: %s", path, strerror(error));
}
