/* Reading an encoded plan: bounds and nothing else. Whether a plan makes sense was decided
 * by whoever made it; here it only has to be impossible to read outside of it.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plan.h"

#define HEADER_SIZE 16u
#define RECORD_SIZE 8u

static const char magic[8] = {'S', 'B', 'X', 'P', 'L', 'A', 'N', 1};

static uint32_t get_u32(const char *at)
{
    const unsigned char *b = (const unsigned char *)at;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint16_t get_u16(const char *at)
{
    const unsigned char *b = (const unsigned char *)at;
    return (uint16_t)(b[0] | b[1] << 8);
}

/* Count records and fields, so that both tables are allocated once and exactly. */
static int count_fields(const char *buffer, uint32_t size, uint32_t count, size_t *total)
{
    uint32_t at = HEADER_SIZE;

    *total = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (size - at < RECORD_SIZE)
            return -1;
        uint32_t length = get_u32(buffer + at + 4);
        if (length < RECORD_SIZE || length > size - at || get_u16(buffer + at + 2) < 2)
            return -1;
        *total += get_u16(buffer + at + 2);
        at += length;
    }
    return at == size ? 0 : -1;
}

/* The padding of a field is 1 to 4 zero bytes: the first is the text's end. */
static int parse_field(const char *buffer, uint32_t *at, uint32_t end, struct field *field)
{
    if (end - *at < 4)
        return -1;
    uint32_t length = get_u32(buffer + *at);
    uint32_t pad = 4 - length % 4;
    *at += 4;
    if (length > end - *at || pad > end - *at - length)
        return -1;
    for (uint32_t i = 0; i < pad; i++)
        if (buffer[*at + length + i])
            return -1;
    field->data = buffer + *at;
    field->size = length;
    *at += length + pad;
    return 0;
}

/* Integers and programs may hold NULs; where a text is expected they would hide its end. */
static bool texts_are_clean(const struct record *record)
{
    for (unsigned i = 0; i < record->nfields; i++) {
        const struct field *field = &record->fields[i];
        bool raw = record->kind == KIND_SECCOMP || record->kind == KIND_FILE || field->size == 8;
        if ((i < 2 || !raw) && memchr(field->data, 0, field->size))
            return false;
    }
    return true;
}

static int parse_records(struct plan *plan)
{
    uint32_t at = HEADER_SIZE;
    struct field *next = plan->fields;

    for (uint32_t i = 0; i < plan->count; i++) {
        struct record *record = &plan->records[i];
        uint32_t end = at + get_u32(plan->buffer + at + 4);
        record->kind = get_u16(plan->buffer + at);
        record->nfields = get_u16(plan->buffer + at + 2);
        record->fields = next;
        at += RECORD_SIZE;
        for (unsigned f = 0; f < record->nfields; f++)
            if (parse_field(plan->buffer, &at, end, next++) < 0)
                return -1;
        if (at != end || !texts_are_clean(record))
            return -1;
    }
    return 0;
}

int plan_parse(char *buffer, size_t size, struct plan *plan, const char **why)
{
    size_t fields;

    memset(plan, 0, sizeof(*plan));
    plan->buffer = buffer;
    plan->size = size;
    *why = "not a plan of this version";
    if (size < HEADER_SIZE || size > PLAN_MAX_SIZE || memcmp(buffer, magic, sizeof(magic)) != 0 ||
        get_u32(buffer + 8) != size)
        goto bad;
    *why = "the plan is damaged";
    plan->count = get_u32(buffer + 12);
    if (plan->count > size / RECORD_SIZE ||
        count_fields(buffer, (uint32_t)size, plan->count, &fields) < 0 || fields > size / 4)
        goto bad;
    plan->records = calloc(plan->count + 1u, sizeof(*plan->records));
    plan->fields = calloc(fields + 1, sizeof(*plan->fields));
    if (!plan->records || !plan->fields) {
        *why = "out of memory";
        goto bad;
    }
    if (parse_records(plan) < 0)
        goto bad;
    *why = NULL;
    return 0;
bad:
    plan_free(plan);
    return -1;
}

/* Read to the end from the start: a memfd's offset may be anywhere, a pipe has none. */
int plan_read(int fd, struct plan *plan, const char **why)
{
    size_t capacity = 16384, size = 0;
    struct stat status;
    char *buffer;

    memset(plan, 0, sizeof(*plan));
    *why = "it can't be read";
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
        if (status.st_size < 0 || (size_t)status.st_size > PLAN_MAX_SIZE || lseek(fd, 0, SEEK_SET) < 0)
            return -1;
        capacity = (size_t)status.st_size + 1;
    }
    buffer = malloc(capacity);
    while (buffer) {
        ssize_t n = read(fd, buffer + size, capacity - size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break;
        if (n == 0)
            return plan_parse(buffer, size, plan, why);
        size += (size_t)n;
        if (size < capacity)
            continue;
        capacity *= 2;
        char *larger = capacity <= 2 * PLAN_MAX_SIZE ? realloc(buffer, capacity) : NULL;
        if (!larger)
            break;
        buffer = larger;
    }
    free(buffer);
    return -1;
}

void plan_free(struct plan *plan)
{
    free(plan->records);
    free(plan->fields);
    free(plan->buffer);
    memset(plan, 0, sizeof(*plan));
}

const struct record *plan_find(const struct plan *plan, enum kind kind)
{
    return plan_next(plan, kind, NULL);
}

const struct record *plan_next(const struct plan *plan, enum kind kind, const struct record *after)
{
    uint32_t i = after ? (uint32_t)(after - plan->records) + 1 : 0;

    for (; i < plan->count; i++)
        if (plan->records[i].kind == kind)
            return &plan->records[i];
    return NULL;
}

unsigned record_extra(const struct record *record)
{
    return record->nfields - 2u;
}

const struct field *record_field(const struct record *record, unsigned i)
{
    static const struct field none = {"", 0};

    return i < record_extra(record) ? &record->fields[i + 2] : &none;
}

const char *record_text(const struct record *record, unsigned i)
{
    return record_field(record, i)->data;
}

int64_t record_int(const struct record *record, unsigned i)
{
    const struct field *field = record_field(record, i);
    uint64_t value = 0;

    if (field->size != 8)
        return 0;
    value = get_u32(field->data) | (uint64_t)get_u32(field->data + 4) << 32;
    return (int64_t)value;
}
