/* What a network policy did not let through, as it goes into results. */
#ifndef DENIALS_H
#define DENIALS_H

#include <stddef.h>
#include <stdint.h>

/* So many are kept, so long each, */
#define MAX_DENIED 300
#define DENIED_LINE 300
/* and so many bytes of all: a result is one datagram, for which its reader has a buffer of 64 KiB. */
#define DENIED_SIZE (size_t)32768

struct text;

struct denials {
    char *line[MAX_DENIED]; /* "WHAT PORT HOW" */
    int64_t times[MAX_DENIED];
    unsigned count;
    size_t size;
};

/* Take a line "WHAT PORT HOW [TIMES]" of a program that reads what is hostile: only what we know to be harmless. One
 * that is known already is so often, or without a number once more. */
void denials_note(struct denials *denials, const char *line);

/* Take what the rules of a table noted by themselves. */
void denials_read(struct denials *denials, int nft, const char *table);

/* Say in a line what was denied, if anything was. */
void denials_say(const struct denials *denials);

/* As a JSON list. */
void denials_report(const struct denials *denials, struct text *text);

void denials_end(struct denials *denials);

#endif
