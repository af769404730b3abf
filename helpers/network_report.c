/* What is told of a network in results. It is found out elsewhere, but for the kernel's counters, which are read
 * here.
 */

#include "network.h"

#include "report.h"
#include "supervisor.h"

/* Nothing is said of what nothing counts. */
static void report_counts(const struct supervisor *s, struct text *text)
{
    static const char *const names[] = {"connections", "refused"};
    const struct record *rules = plan_find(s->plan, KIND_HOST_SETS);
    const struct forward_counts *counts = s->network.forwarder.counts;

    for (unsigned i = 0; i < 2 && rules && s->network.nft >= 0; i++) {
        int64_t packets = counter_read(s->network.nft, record_text(rules, 0), names[i]);
        if (packets >= 0)
            text_add(text, "\"%s\":%lld,", names[i], (long long)packets);
    }
    if (counts)
        text_add(text, "\"accepted\":%lld,", (long long)counts->accepted);
}

/* Where a service tells, it knows names, too. */
static void find_denied(struct supervisor *s)
{
    const struct record *rules = plan_find(s->plan, KIND_HOST_SETS), *service = NULL;

    while ((service = plan_next(s->plan, KIND_SERVICE, service)))
        if (record_int(service, 1) & SERVICE_TELLS)
            return;
    if (rules && s->network.nft >= 0)
        denials_read(&s->network.denials, s->network.nft, record_text(rules, 0));
}

void network_report(struct supervisor *s, struct text *text)
{
    const struct network *network = &s->network;

    if (!network->used)
        return;
    struct traffic traffic = {-1, -1};
    if (network->device && network->route >= 0)
        traffic_read(network->route, network->device, &traffic);
    text_add(text, ",\"network\":{");
    if (traffic.received >= 0)
        text_add(text, "\"received\":%lld,\"sent\":%lld,", (long long)traffic.received, (long long)traffic.sent);
    report_counts(s, text);
    text_add(text, "\"lost\":");
    if (network->died) {
        text_add(text, "{\"name\":");
        text_add_string(text, network->died);
        text_add(text, ",\"why\":");
        text_add_string(text, network->why);
        text_add(text, "}");
    } else {
        text_add(text, "null");
    }
    find_denied(s);
    text_add(text, ",\"denied\":");
    denials_report(&network->denials, text);
    text_add(text, "}");
}
