/* What a network policy did not let through: told by services that know names, or by the kernel's rules themselves,
 * and kept for results.
 */

#include "denials.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "netlink.h"
#include "report.h"

#define MAX_TIMES 999999999999999LL

/* The parts of a line; 3 or 4 of them, or it is none. */
struct denied {
    char what[DENIED_LINE], how[DENIED_LINE];
    unsigned port;
    long long times;
};

static int read_line(struct denied *denied, const char *line)
{
    return sscanf(line, "%299s %5u %299s %15lld", denied->what, &denied->port, denied->how, &denied->times);
}

static int find(const struct denials *denials, const char *line)
{
    for (unsigned i = 0; i < denials->count; i++)
        if (strcmp(denials->line[i], line) == 0)
            return (int)i;
    return -1;
}

static int add(struct denials *denials, const char *line)
{
    size_t size = strlen(line);

    if (denials->count == MAX_DENIED || denials->size + size > DENIED_SIZE ||
        !(denials->line[denials->count] = strdup(line)))
        return -1;
    denials->size += size;
    denials->times[denials->count] = 0;
    return (int)denials->count++;
}

void denials_note(struct denials *denials, const char *line)
{
    char known[DENIED_LINE + 2 + 5 + DENIED_LINE];
    struct denied denied;
    int parts, i;

    if (strlen(line) >= DENIED_LINE || (parts = read_line(&denied, line)) < 3)
        return;
    for (const char *at = line; *at; at++)
        if (!((*at >= 'a' && *at <= 'z') || (*at >= '0' && *at <= '9') || strchr(" .:-_?", *at)))
            return;
    snprintf(known, sizeof(known), "%s %u %s", denied.what, denied.port, denied.how);
    if ((i = find(denials, known)) < 0 && (i = add(denials, known)) < 0)
        return;
    if (parts == 4 && denied.times > 0)
        denials->times[i] = denied.times;
    else if (denials->times[i] < MAX_TIMES)
        denials->times[i]++;
}

static void note_refused(void *data, const struct refused *refused)
{
    char line[DENIED_LINE], number[16];
    const char *how = refused->protocol == IPPROTO_TCP ? "tcp" : refused->protocol == IPPROTO_UDP ? "udp" : number;

    if (refused->packets == 0)
        return; /* of what is in the set for good */
    snprintf(number, sizeof(number), "%u", refused->protocol);
    snprintf(line, sizeof(line), "%s %u %s %lld", refused->address, refused->port, how,
             (long long)(refused->packets < MAX_TIMES ? refused->packets : MAX_TIMES));
    denials_note(data, line);
}

void denials_read(struct denials *denials, int nft, const char *table)
{
    refused_read(nft, table, "denied4", note_refused, denials);
    refused_read(nft, table, "denied6", note_refused, denials);
}

#define DENIED_SAID 5 /* at most */

void denials_say(const struct denials *denials)
{
    struct text text cleanup_text = {0};
    struct denied denied;
    unsigned said = 0;

    for (unsigned i = 0; i < denials->count && said < DENIED_SAID; i++) {
        if (read_line(&denied, denials->line[i]) < 3)
            continue;
        text_add(&text, said++ ? ", " : "");
        text_add_visible(&text, denied.what);
        if (denied.port)
            text_add(&text, strchr(denied.what, ':') ? " port %u" : ":%u", denied.port);
        if (strcmp(denied.how, "tcp") != 0) {
            text_add(&text, "/");
            text_add_visible(&text, denied.how);
        }
    }
    if (said && text.data)
        report_say(2, "denied: %s%s", text.data, denials->count > said ? ", ..." : "");
}

void denials_report(const struct denials *denials, struct text *text)
{
    struct denied denied;

    text_add(text, "[");
    for (unsigned i = 0; i < denials->count; i++) {
        if (read_line(&denied, denials->line[i]) < 3)
            continue; /* denials_note() keeps none such */
        text_add(text, "%s{\"name\":", i ? "," : "");
        text_add_string(text, denied.what);
        text_add(text, ",\"port\":%u,\"how\":", denied.port);
        text_add_string(text, denied.how);
        text_add(text, ",\"times\":%lld}", (long long)denials->times[i]);
    }
    text_add(text, "]");
}

void denials_end(struct denials *denials)
{
    while (denials->count > 0)
        free(denials->line[--denials->count]);
    denials->size = 0;
}
