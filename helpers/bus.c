/* Asking systemd for a scope. See bus.h.
 *
 * What is spoken is the least of D-Bus that does it: authentication by the socket's credentials
 * (EXTERNAL), Hello, AddMatch, and StartTransientUnit of org.freedesktop.systemd1.Manager, whose job is
 * done when the signal JobRemoved says so. Formats are the D-Bus specification's ("Message Protocol",
 * "Type System"), little endian. The manager is the user's own, and trusted as such; it is still held
 * to its bounds.
 */

#include "bus.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "sys.h"

/* How long systemd may take. It is far less, but on a machine that swaps, or one that just boots. */
#define PATIENCE_MS 30000

enum { METHOD_CALL = 1, METHOD_RETURN, ERROR_REPLY, SIGNAL };
enum { FIELD_PATH = 1, FIELD_INTERFACE, FIELD_MEMBER, FIELD_ERROR, FIELD_REPLY_SERIAL, FIELD_DESTINATION,
       FIELD_SENDER, FIELD_SIGNATURE };
enum { SERIAL_HELLO = 1, SERIAL_MATCH, SERIAL_START };

#define DBUS "org.freedesktop.DBus"
#define SYSTEMD "org.freedesktop.systemd1"
#define MANAGER "org.freedesktop.systemd1.Manager"

/* --- writing -------------------------------------------------------------------------------- */

/* Only texts of ours and two short numbers go in: it is large enough. */
struct out {
    char data[2048];
    size_t size;
};

static void put(struct out *out, const void *data, size_t size)
{
    if (size > sizeof(out->data) - out->size)
        size = sizeof(out->data) - out->size;
    memcpy(out->data + out->size, data, size);
    out->size += size;
}

static void align(struct out *out, size_t to)
{
    static const char zeros[8];

    put(out, zeros, (to - out->size % to) % to);
}

static void put_byte(struct out *out, int byte)
{
    char c = (char)byte;

    put(out, &c, 1);
}

static void put_u32(struct out *out, uint32_t value)
{
    align(out, 4);
    for (int i = 0; i < 4; i++)
        put_byte(out, (int)(value >> (8 * i) & 0xff));
}

static void put_string(struct out *out, const char *text)
{
    put_u32(out, (uint32_t)strlen(text));
    put(out, text, strlen(text) + 1);
}

static void put_signature(struct out *out, const char *text)
{
    put_byte(out, (int)strlen(text));
    put(out, text, strlen(text) + 1);
}

static void set_u32(struct out *out, size_t at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        out->data[at + (size_t)i] = (char)(value >> (8 * i) & 0xff);
}

/* The length of an array is known when it is complete; it does not count the padding before its first
 * element. */
static size_t begin_array(struct out *out, size_t element)
{
    put_u32(out, 0);
    size_t at = out->size - 4;
    align(out, element);
    return at;
}

static void end_array(struct out *out, size_t at, size_t element)
{
    size_t first = at + 4 + (element - (at + 4) % element) % element;

    set_u32(out, at, (uint32_t)(out->size - first));
}

static void put_field(struct out *out, int code, const char *type, const char *value)
{
    align(out, 8);
    put_byte(out, code);
    put_signature(out, type);
    if (*type == 'g')
        put_signature(out, value);
    else
        put_string(out, value);
}

struct call {
    uint32_t serial;
    const char *destination, *path, *interface, *member, *signature;
};

/* Add a method call; its body is what `body` has, which was begun at an offset of 0. */
static void put_call(struct out *out, const struct call *call, const struct out *body)
{
    struct out message = {.size = 0};

    put(&message, "l\1\0\1", 4); /* little endian, method call, no flags, version 1 */
    put_u32(&message, (uint32_t)body->size);
    put_u32(&message, call->serial);
    size_t fields = begin_array(&message, 8);
    put_field(&message, FIELD_PATH, "o", call->path);
    put_field(&message, FIELD_INTERFACE, "s", call->interface);
    put_field(&message, FIELD_MEMBER, "s", call->member);
    put_field(&message, FIELD_DESTINATION, "s", call->destination);
    if (*call->signature)
        put_field(&message, FIELD_SIGNATURE, "g", call->signature);
    end_array(&message, fields, 8);
    align(&message, 8);
    put(&message, body->data, body->size);
    put(out, message.data, message.size);
}

static void put_property(struct out *out, const char *name, const char *type)
{
    align(out, 8);
    put_string(out, name);
    put_signature(out, type);
}

static void put_properties(struct out *out)
{
    size_t properties = begin_array(out, 8);

    put_property(out, "Description", "s");
    put_string(out, "sandbox");
    put_property(out, "Delegate", "b");
    put_u32(out, 1);
    put_property(out, "CollectMode", "s"); /* nothing of it stays in the manager's lists */
    put_string(out, "inactive-or-failed");
    put_property(out, "TasksMax", "t"); /* the manager's default is for one program */
    align(out, 8);
    put(out, "\377\377\377\377\377\377\377\377", 8);
    put_property(out, "PIDs", "au");
    size_t pids = begin_array(out, 4);
    put_u32(out, 0); /* whoever sends this, in whichever pid namespace that may be */
    end_array(out, pids, 4);
    end_array(out, properties, 8);
}

static void put_requests(struct out *out, const char *unit)
{
    static const struct call hello = {SERIAL_HELLO, DBUS, "/org/freedesktop/DBus", DBUS, "Hello", ""};
    static const struct call match = {SERIAL_MATCH, DBUS, "/org/freedesktop/DBus", DBUS, "AddMatch", "s"};
    static const struct call start = {SERIAL_START, SYSTEMD, "/org/freedesktop/systemd1", MANAGER,
                                      "StartTransientUnit", "ssa(sv)a(sa(sv))"};
    struct out body = {.size = 0};
    char rule[256];

    put_call(out, &hello, &body);
    snprintf(rule, sizeof(rule), "type='signal',interface='" MANAGER "',member='JobRemoved',arg2='%s'", unit);
    put_string(&body, rule);
    put_call(out, &match, &body); /* before the call: its job may be done at once */
    body.size = 0;
    put_string(&body, unit);
    put_string(&body, "fail");
    put_properties(&body);
    size_t auxiliary = begin_array(&body, 8);
    end_array(&body, auxiliary, 8);
    put_call(out, &start, &body);
}

/* --- reading -------------------------------------------------------------------------------- */

/* What is left of a message, whose alignment counts from `start`. */
struct in {
    const char *start, *at, *end;
    bool big; /* endian, as the sender chose */
    bool bad;
};

static void skip_to(struct in *in, size_t alignment)
{
    size_t gap = (alignment - (size_t)(in->at - in->start) % alignment) % alignment;

    if (gap > (size_t)(in->end - in->at))
        in->bad = true;
    else
        in->at += gap;
}

static const char *take(struct in *in, size_t size)
{
    const char *data = in->at;

    if (in->bad || size > (size_t)(in->end - in->at)) {
        in->bad = true;
        return NULL;
    }
    in->at += size;
    return data;
}

static uint32_t take_u32(struct in *in)
{
    skip_to(in, 4);
    const unsigned char *b = (const unsigned char *)take(in, 4);
    uint32_t value = 0;

    for (int i = 0; b && i < 4; i++)
        value |= (uint32_t)b[in->big ? 3 - i : i] << (8 * i);
    return value;
}

/* A text with the NUL that ends it; "" when there is none. */
static const char *take_text(struct in *in, size_t size)
{
    const char *text = size == SIZE_MAX ? NULL : take(in, size + 1);

    if (!text || text[size] || memchr(text, 0, size)) {
        in->bad = true;
        return "";
    }
    return text;
}

static const char *take_string(struct in *in)
{
    uint32_t size = take_u32(in);

    return in->bad ? "" : take_text(in, size);
}

static const char *take_signature(struct in *in)
{
    const char *size = take(in, 1);

    return size ? take_text(in, (unsigned char)*size) : "";
}

struct reply {
    int type;
    uint32_t serial; /* of the call that it answers */
    const char *member, *error, *signature;
    struct in body;
};

static void take_field(struct in *in, struct reply *reply)
{
    const char *code = take(in, 1), *type = take_signature(in), *text = "";
    uint32_t number = 0;

    if (strcmp(type, "u") == 0)
        number = take_u32(in);
    else if (strcmp(type, "g") == 0)
        text = take_signature(in);
    else if (strcmp(type, "s") == 0 || strcmp(type, "o") == 0)
        text = take_string(in);
    else
        in->bad = true; /* no field of the specification has another type */
    switch (code ? *code : 0) {
    case FIELD_MEMBER:
        reply->member = text;
        break;
    case FIELD_ERROR:
        reply->error = text;
        break;
    case FIELD_REPLY_SERIAL:
        reply->serial = number;
        break;
    case FIELD_SIGNATURE:
        reply->signature = text;
        break;
    default:
        break;
    }
}

/* Read the message that `data` begins with. Its size; 0 when it is not complete; -1 when it is none. */
static ssize_t take_message(const char *data, size_t size, size_t room, struct reply *reply)
{
    struct in in = {.start = data, .at = data, .end = data + size, .big = size > 0 && data[0] == 'B'};

    *reply = (struct reply){.member = "", .error = "", .signature = ""};
    if (size < 16)
        return 0;
    if ((data[0] != 'l' && data[0] != 'B') || data[3] != 1)
        return -1;
    reply->type = data[1];
    in.at += 4;
    size_t body = take_u32(&in);
    take_u32(&in);
    size_t fields = take_u32(&in), header = (16 + fields + 7) / 8 * 8;
    if (fields > room || body > room || header + body > room)
        return -1;
    if (header + body > size)
        return 0;
    in.end = data + 16 + fields;
    while (in.at < in.end && !in.bad) {
        skip_to(&in, 8);
        if (in.at < in.end)
            take_field(&in, reply);
    }
    reply->body = in;
    reply->body.start = reply->body.at = data + header;
    reply->body.end = data + header + body;
    return in.bad ? -1 : (ssize_t)(header + body);
}

/* --- the conversation ----------------------------------------------------------------------- */

struct bus {
    int fd, lifeline;
    int64_t deadline; /* ms */
    const struct record *record;
    struct failure *failure;
    const char *unit;
    char data[32768];
    size_t size;
};

static int64_t milliseconds(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static int refuse(struct bus *bus, int error, const char *why)
{
    return fail(bus->failure, error, bus->record, "cannot ask systemd for a cgroup: %s", why);
}

static int send_all(struct bus *bus, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = send(bus->fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return refuse(bus, errno, strerror(errno));
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

/* Wait for more, and append it. */
static int receive(struct bus *bus)
{
    struct pollfd polls[] = {{.fd = bus->fd, .events = POLLIN}, {.fd = bus->lifeline, .events = POLLIN}};
    int64_t left = bus->deadline - milliseconds();

    if (bus->size == sizeof(bus->data))
        return refuse(bus, EPROTO, "its answer is too long");
    int ready = left > 0 ? poll(polls, 2, (int)left) : 0;
    if (ready < 0 && errno == EINTR)
        return 0;
    if (ready > 0 && polls[1].revents)
        return refuse(bus, ECANCELED, "the caller is gone");
    if (ready <= 0)
        return refuse(bus, ETIMEDOUT, "it does not answer");
    ssize_t n = recv(bus->fd, bus->data + bus->size, sizeof(bus->data) - bus->size, 0);
    if (n < 0)
        return errno == EINTR ? 0 : refuse(bus, errno, strerror(errno));
    if (n == 0)
        return refuse(bus, EPIPE, "the connection was closed");
    bus->size += (size_t)n;
    return 0;
}

static void forget(struct bus *bus, size_t size)
{
    memmove(bus->data, bus->data + size, bus->size - size);
    bus->size -= size;
}

static int authenticate(struct bus *bus)
{
    char text[96] = "AUTH EXTERNAL ", number[16];
    size_t used = strlen(text);
    const char *end;

    snprintf(number, sizeof(number), "%u", (unsigned)geteuid());
    for (const char *digit = number; *digit; digit++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%02x", *digit);
    used += (size_t)snprintf(text + used, sizeof(text) - used, "\r\n");
    if (send_all(bus, "", 1) < 0 || send_all(bus, text, used) < 0)
        return -1;
    while (!(end = memmem(bus->data, bus->size, "\r\n", 2)))
        if (receive(bus) < 0)
            return -1;
    if (bus->size < 3 || memcmp(bus->data, "OK ", 3) != 0)
        return refuse(bus, EACCES, "its D-Bus does not let us in");
    forget(bus, (size_t)(end - bus->data) + 2);
    return send_all(bus, "BEGIN\r\n", 7);
}

/* 1: the job is done; 0: this was something else. */
static int serve(struct bus *bus, struct reply *reply)
{
    char why[512];

    if (reply->type == ERROR_REPLY && reply->serial >= SERIAL_HELLO && reply->serial <= SERIAL_START) {
        const char *text = *reply->signature == 's' ? take_string(&reply->body) : "";
        snprintf(why, sizeof(why), "%s (%s)", *text ? text : "it refuses", reply->error);
        return refuse(bus, EACCES, why);
    }
    if (reply->type != SIGNAL || strcmp(reply->member, "JobRemoved") != 0 ||
        strcmp(reply->signature, "uoss") != 0)
        return 0;
    take_u32(&reply->body);
    take_string(&reply->body);
    const char *unit = take_string(&reply->body), *result = take_string(&reply->body);
    if (reply->body.bad || strcmp(unit, bus->unit) != 0)
        return 0;
    if (strcmp(result, "done") == 0)
        return 1;
    snprintf(why, sizeof(why), "its job for %s ended as \"%s\"", unit, result);
    return refuse(bus, EIO, why);
}

static int wait_for_job(struct bus *bus)
{
    struct reply reply;

    for (;;) {
        ssize_t size = take_message(bus->data, bus->size, sizeof(bus->data), &reply);
        if (size < 0)
            return refuse(bus, EPROTO, "its answer can't be understood");
        if (size == 0) {
            if (receive(bus) < 0)
                return -1;
            continue;
        }
        int result = serve(bus, &reply);
        if (result != 0)
            return result < 0 ? -1 : 0;
        forget(bus, (size_t)size);
    }
}

static int open_bus(struct bus *bus, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(address.sun_path))
        return refuse(bus, ENAMETOOLONG, "the path of its D-Bus is too long");
    strcpy(address.sun_path, path);
    bus->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bus->fd < 0 || connect(bus->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return fail(bus->failure, errno, bus->record, "cannot ask systemd for a cgroup: %s: %s", path,
                    strerror(errno));
    return 0;
}

int bus_start_scope(const char *path, int lifeline, const struct record *record, char unit[64],
                    struct failure *failure)
{
    static struct bus bus;
    struct out requests = {.size = 0};
    uint32_t random = 0;

    bus = (struct bus){.fd = -1, .lifeline = lifeline, .record = record, .failure = failure, .unit = unit};
    bus.deadline = milliseconds() + PATIENCE_MS;
    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return refuse(&bus, errno, strerror(errno));
    snprintf(unit, 64, "sandbox-%d-%08x.scope", (int)getpid(), random);
    put_requests(&requests, unit);
    int result = open_bus(&bus, path);
    if (result == 0)
        result = authenticate(&bus);
    /* From here on we stay until it is done, whoever is gone. A process that has ended and was not reaped yet
     * can still be attached: to no effect, and so the scope would never be seen to become empty. */
    bus.lifeline = -1;
    if (result == 0)
        result = send_all(&bus, requests.data, requests.size);
    if (result == 0)
        result = wait_for_job(&bus);
    close_fd(&bus.fd);
    return result;
}
