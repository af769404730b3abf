/* What guards tell of services, and what services themselves say: of their end, and of what was denied. */

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "network_parts.h"
#include "report.h"
#include "supervisor.h"

const char *service_name(const struct service *service)
{
    return record_text(service->record, 0);
}

/* Before the payload runs it is what failed; after that it is told. */
void network_give_up(struct supervisor *s)
{
    if (!s->network.released) {
        s->failed = true;
        kill_init(s);
    } else {
        supervisor_give_up(s, s->failure.text);
    }
}

static void describe_end(char *buffer, size_t size, int64_t status, const char *text)
{
    if (WIFSIGNALED((int)status))
        snprintf(buffer, size, "killed by signal %d%s%.500s", WTERMSIG((int)status), *text ? ": " : "", text);
    else
        snprintf(buffer, size, "ended with status %d%s%.500s", WEXITSTATUS((int)status), *text ? ": " : "", text);
}

static void one_line(char *text)
{
    for (; *text; text++)
        if (*text == '\n')
            *text = ';';
}

void network_tell_death(struct supervisor *s, const char *name, const char *how)
{
    struct text text cleanup_text = {0};

    text_add(&text, "{\"event\":\"service\",\"name\":");
    text_add_string(&text, name);
    text_add(&text, ",\"ended\":");
    text_add_string(&text, how);
    text_add(&text, "}");
    control_send(s, text.data, text.size, -1);
    if (s->one_shot && s->verbosity >= 1)
        report_say(2, "%s, which the network needs, was lost: %s", name, how);
}

void network_on_death(struct supervisor *s, struct service *service, const char *how)
{
    struct network *network = &s->network;

    service->dead = true;
    guard_end(&service->guard);
    if (s->closing || s->init_dead || s->failed) /* what failed first tells why */
        return;
    if (!network->released) {
        fail(&s->failure, 0, service->record, "cannot %s: it %s", record_description(service->record), how);
        network_give_up(s);
        return;
    }
    if (!network->died) {
        network->died = service_name(service);
        snprintf(network->why, sizeof(network->why), "%s", how);
    }
    network_tell_death(s, service_name(service), how);
    if (record_int(service->record, 1) & SERVICE_NEEDED) {
        char text[300];
        snprintf(text, sizeof(text), "killed: %s, which holds its network policy, was lost", service_name(service));
        supervisor_give_up(s, text);
    }
}

static bool tells(const struct service *service)
{
    return record_int(service->record, 1) & SERVICE_TELLS && service->ready && !service->dead;
}

static void ask(const struct supervisor *s, struct service *service)
{
    if (service->asking || service->told == s->network.round)
        return;
    service->asking = s->network.round;
    guard_ask(&service->guard);
}

static void on_told(const struct supervisor *s, struct service *service)
{
    if (!service->asking)
        return; /* nobody asked */
    service->told = service->asking;
    service->asking = 0;
    ask(s, service);
}

static void tell_said(struct supervisor *s, struct service *service, const char *line)
{
    if (record_int(service->record, 1) & SERVICE_TELLS) {
        if (strcmp(line, "told") == 0) {
            on_told(s, service);
            return;
        }
        if (strncmp(line, "denied ", 7) == 0)
            denials_note(&s->network.denials, line + 7);
    }
    if (control_is_behind(s))
        return;
    struct text text cleanup_text = {0};

    text_add(&text, "{\"event\":\"service\",\"name\":");
    text_add_string(&text, service_name(service));
    text_add(&text, ",\"said\":");
    text_add_string(&text, line);
    text_add(&text, "}");
    control_send(s, text.data, text.size, -1);
}

void network_on_guard(struct supervisor *s, struct service *service, const struct message *message, char *text)
{
    char how[700];

    switch (message->type) {
    case MSG_SERVICE_READY:
        service->ready = true;
        break;
    case MSG_SERVICE_SAID:
        tell_said(s, service, text);
        break;
    case MSG_SERVICE_ENDED:
        one_line(text);
        describe_end(how, sizeof(how), message->a, text);
        network_on_death(s, service, how);
        break;
    default:
        snprintf(how, sizeof(how), "can't be guarded: %.500s", text);
        network_on_death(s, service, how);
    }
}

/* --- asking ------------------------------------------------------------------------------------ */

unsigned network_ask(struct supervisor *s)
{
    struct network *network = &s->network;

    if (!++network->round)
        network->round++;
    for (unsigned i = 0; i < network->count; i++)
        if (tells(&network->services[i]))
            ask(s, &network->services[i]);
    return network->round;
}

bool network_has_told(const struct supervisor *s, unsigned round)
{
    for (unsigned i = 0; i < s->network.count; i++)
        if (tells(&s->network.services[i]) && (int)(s->network.services[i].told - round) < 0)
            return false;
    return true;
}
