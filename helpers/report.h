/* What is said about a run: JSON for programs, one line for people. Whatever comes from a plan or a
 * payload's arguments is escaped; nothing that a payload wrote gets in.
 */
#ifndef REPORT_H
#define REPORT_H

#include <stddef.h>

#include "helper.h"
#include "verdict.h"

/* A text that grows. When memory ran out, data is NULL at the end. */
struct text {
    char *data;
    size_t size, capacity;
    bool failed;
};

#define cleanup_text __attribute__((cleanup(text_free)))
void text_free(struct text *text);
void text_add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A JSON string, quotes included: control characters escaped, bytes that are no UTF-8 replaced. */
void text_add_string(struct text *text, const char *string);
/* Bare, with control characters made visible: fit for a terminal. */
void text_add_visible(struct text *text, const char *string);

/* The result object, without a newline. `more`: further members, each with a comma before it, or NULL. */
void report_result(struct text *text, const struct plan *plan, int32_t id, const struct outcome *outcome,
                   const struct limits *limits, const char *more);

/* The one line about a result; empty when there is nothing to say. */
void report_message(char *line, size_t size, const struct limits *limits, const struct outcome *outcome);

/* The error object of a set-up failure. */
void report_error(struct text *text, const struct failure *failure);

/* Write a text as one line to fd, or nowhere (-1). */
int report_write(int fd, struct text *text); /* 0, or -1 with errno; fd -1: nothing to do */

/* The operation that failed, for `doctor`; in buffer where no record says it. */
const char *report_operation(const struct failure *failure, char *buffer, size_t size);

/* Print "sandbox: " and a message on fd, each line's control characters made visible. */
void report_say(int fd, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What mends a failure, by its error and record; "" when it is nothing that can be typed. */
const char *report_mend(const struct failure *failure);

/* The failure and its mend, as two such lines. */
void report_say_failure(int fd, const struct failure *failure);

#endif
