/* The encoded plan, as the helper reads it: the twin of sandbox/wire.py, which
 * describes the format. Not a parser of anything a user wrote.
 */
#ifndef PLAN_H
#define PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLAN_MAX_SIZE ((size_t)64 << 20)

enum kind {
    KIND_NAMESPACES = 1,
    KIND_IDMAP,
    KIND_IDTOOL,
    KIND_IDENTITY,
    KIND_HOSTNAME,
    KIND_RLIMIT,
    KIND_NPROC,
    KIND_CAPABILITIES,
    KIND_SECCOMP,
    KIND_ENVIRONMENT,
    KIND_WORKDIR,
    KIND_UMASK,
    KIND_NICE,
    KIND_LIMIT,
    KIND_LOOPBACK,
    KIND_TTY,
    KIND_KEYRING,
    KIND_USERNS_MAX,
    KIND_POOL,
    KIND_PIDS_PEAK,
    KIND_CGROUP,
    KIND_CGROUP_SET,
    KIND_AFFINITY,
    KIND_SERVICE,
    KIND_SOCKET,
    KIND_NFT,
    KIND_ADDRESS,
    KIND_SYSCTL,
    KIND_HOST_SETS,
    KIND_FUSE,
    KIND_PUBLISH,

    KIND_TMPFS = 32,
    KIND_BIND,
    KIND_OVERLAY,
    KIND_PROC,
    KIND_DEVPTS,
    KIND_MQUEUE,
    KIND_FILE,
    KIND_DIRECTORY,
    KIND_SYMLINK,
    KIND_MASK,
    KIND_READONLY,
    KIND_PIN,
    KIND_CGROUP2,

    KIND_ARGV = 64,
    KIND_STDIO,
    KIND_CONTROL,
    KIND_LIFELINE,
    KIND_REPORT,
    KIND_VERBOSITY,
    KIND_DIAGNOSE,
    KIND_SCRATCH,
    KIND_SPAWN,
    KIND_SIGNAL,
    KIND_OPEN,
    KIND_CLOSE,
    KIND_STATS,
    KIND_FREEZE,
    KIND_SET,
    KIND_LEASE,
    KIND_FORWARD,
    KIND_UNFORWARD,
    KIND_PCAP,
    KIND_LOG,
    KIND_DOOR,

    KIND_LISTEN = 96,
    KIND_STOP_SIGNAL,
    KIND_BRIDGE,
    KIND_VETH,
    KIND_RATE,
};

enum mount_flag {
    M_READONLY = 1,
    M_NOSUID = 2,
    M_NODEV = 4,
    M_NOEXEC = 8,
    M_RECURSIVE = 16,
    M_CREATE = 32,
    M_OPTIONAL = 64,
    M_STRICT = 128,
    M_OWNED = 256,
    M_FUSE = 512,
};

enum service_flag {
    SERVICE_RIGHTS = 1,
    SERVICE_NEEDED = 2,
    SERVICE_FILTERS = 4,
    SERVICE_TELLS = 8,
};

enum service_ready {
    READY_AT_ONCE,
    READY_WRITES,
    READY_FORKS,
};

enum socket_type {
    SOCKET_STREAM = 1,
    SOCKET_DATAGRAM,
    SOCKET_ROUTE,
    SOCKET_NETFILTER,
    SOCKET_GIVEN,
};

/* One field: bytes that stay valid as long as the plan, followed by a NUL. */
struct field {
    const char *data;
    uint32_t size;
};

/* One record. fields[0] is the description, fields[1] the origin, the rest as the kind says. */
struct record {
    uint16_t kind;
    uint16_t nfields;
    struct field *fields;
};

struct plan {
    char *buffer;
    size_t size;
    struct record *records;
    uint32_t count;
    struct field *fields; /* of all records */
};

/* Read a whole plan from fd (a memfd, file or pipe) or from memory. Returns 0, or -1 with *why set
 * to a static text. plan_parse takes ownership of a malloc'd buffer. plan_free releases all. */
int plan_read(int fd, struct plan *plan, const char **why);
int plan_parse(char *buffer, size_t size, struct plan *plan, const char **why);
void plan_free(struct plan *plan);

/* The first record of a kind, or NULL; the next one after a record. */
const struct record *plan_find(const struct plan *plan, enum kind kind);
const struct record *plan_next(const struct plan *plan, enum kind kind, const struct record *after);

/* Field i counted from behind the description and origin. text() has no inner NUL, checked by
 * plan_parse for all but SECCOMP and FILE contents. Out of range: "" and 0. */
const char *record_text(const struct record *record, unsigned i);
int64_t record_int(const struct record *record, unsigned i);
const struct field *record_field(const struct record *record, unsigned i);
unsigned record_extra(const struct record *record); /* fields behind description and origin */

static inline const char *record_description(const struct record *record)
{
    return record->fields[0].data;
}

static inline const char *record_origin(const struct record *record)
{
    return record->fields[1].data;
}

#endif
