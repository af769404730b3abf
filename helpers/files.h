/* The role that writes a layer's files: `sandbox-helper files`, started by sandbox.image.layer.files inside of
 * the confined child. It is told what to write, and decides nothing.
 *
 * Descriptor 0: what to write, a file after the other. 1: answers. 3: the root directory. 4: where content is
 * copied from. Numbers are the machine's own.
 *
 *     struct file_head
 *     the directory's path below the root, with its null byte, unless it is the same as before
 *     the name, with its null byte
 *     for each attribute: struct file_xattr, its name with the null byte, its value
 *     for each extent: struct file_extent, and where `at` is FILE_PARTS as many struct file_part as make it up
 *
 * A head without a name asks for an answer: everything told so far is done. So does a part of no length. An answer with an error comes
 * unasked, and is the last.
 */
#ifndef FILES_H
#define FILES_H

#include <stdint.h>

#define FILE_PARTS UINT64_MAX
#define FILE_NOBODY UINT32_MAX /* chown(2)'s: leave it */

struct file_head {
    uint64_t size;      /* bytes, holes included */
    int64_t mtime;      /* nanoseconds since 1970 */
    uint32_t directory; /* bytes of the path; 0: the same as before */
    uint32_t name;      /* bytes of the name; 0: answer */
    uint32_t mode, uid, gid;
    uint32_t xattrs, extents;
    uint32_t unused;
};

struct file_xattr {
    uint32_t name, value; /* bytes */
};

struct file_extent {
    uint64_t offset, length; /* bytes; of the file */
    uint64_t at;             /* where they are in what is copied from */
};

struct file_part {
    uint64_t at, length; /* bytes */
};

struct file_answer {
    int32_t error; /* errno, 0: none */
    uint32_t uid, gid;
    uint32_t directory, name; /* bytes of the path and the name that follow, without null bytes */
    uint32_t xattr;           /* bytes of the name of an attribute that could not be set, 0: it was no attribute */
    uint32_t value;           /* bytes of its value, which does not follow */
};

/* Ends when there is no more: the status of the process. */
int files_main(void);

#endif
