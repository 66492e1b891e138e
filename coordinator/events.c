#include "coordinator/events.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/progress.h"
#include "store/message.h"

#define LOOK_EVERY_US 100000
#define PING_SECONDS 15.0

/* One listener. `text` is what is told next. */
typedef struct listener {
    cvx_server *s;
    char job[CVX_ID_MAX], last[48];
    char *text;
    size_t len, at;
    bool over;
    double told;
} listener;

static bool ends(const char *state)
{
    return strcmp(state, "completed") == 0 || strcmp(state, "failed") == 0 ||
           strcmp(state, "cancelled") == 0;
}

/* What an entry of the stream says, as an event's name and data. */
static json_t *data_of(const redisReply *fields, const char **event, bool *over)
{
    const redisReply *data = NULL;
    const char *type = "", *state = "", *cause = "";

    for (size_t i = 0; i + 1 < fields->elements; i += 2) {
        const char *name = fields->element[i]->str;
        const redisReply *v = fields->element[i + 1];
        type = strcmp(name, "type") == 0 ? v->str : type;
        state = strcmp(name, "state") == 0 ? v->str : state;
        cause = strcmp(name, "cause") == 0 ? v->str : cause;
        data = strcmp(name, "data") == 0 ? v : data;
    }
    if (strcmp(type, "state") == 0) {
        *event = "state";
        *over = ends(state);
        return json_pack("{s:s, s:s?}", "status", state, "error", cause[0] != 0 ? cause : NULL);
    }
    json_t *j = NULL;
    if (data != NULL && strcmp(type, "progress") == 0) {
        Cvx__Progress *p = CVX_UNPACK(cvx__progress, data);
        *event = "progress";
        j = p != NULL ? cvx_progress_json(p) : NULL;
        cvx__progress__free_unpacked(p, NULL);
    } else if (data != NULL && strcmp(type, "scores") == 0) {
        Cvx__FrameScores *f = CVX_UNPACK(cvx__frame_scores, data);
        *event = "scores";
        j = f != NULL ? cvx_scores_json(f) : NULL;
        cvx__frame_scores__free_unpacked(f, NULL);
    }
    return j;
}

static void tell(listener *l, const redisReply *entry)
{
    const char *event = "";
    json_t *j = data_of(entry->element[1], &event, &l->over);
    char *text = j != NULL ? json_dumps(j, JSON_COMPACT) : NULL;

    snprintf(l->last, sizeof l->last, "%s", entry->element[0]->str);
    if (text != NULL) {
        size_t room = strlen(text) + strlen(event) + strlen(l->last) + 40;
        char *more = realloc(l->text, l->len + room);
        if (more != NULL) {
            l->text = more;
            l->len += (size_t)snprintf(more + l->len, room, "id: %s\nevent: %s\ndata: %s\n\n",
                                       l->last, event, text);
        }
    }
    free(text);
    json_decref(j);
}

/* Looks for entries behind the last one. */
static void look(listener *l)
{
    cvx_redis *r;
    redisReply *reply;

    if (cvx_server_redis(l->s, &r) != CVX_OK) {
        return; /* it will be back */
    }
    if (cvx_redis_command(r, &reply, "XRANGE cvx:events:%s (%s + COUNT 100", l->job, l->last) ==
        CVX_OK) {
        for (size_t i = 0; i < reply->elements; i++) {
            tell(l, reply->element[i]);
        }
        freeReplyObject(reply);
    }
    cvx_server_release(l->s, r);
}

static ssize_t read_events(void *cls, uint64_t pos, char *buf, size_t max)
{
    listener *l = cls;
    (void)pos;

    while (l->at == l->len) {
        l->at = l->len = 0;
        if (l->over || atomic_load(&l->s->ending)) {
            return MHD_CONTENT_READER_END_OF_STREAM;
        }
        look(l);
        if (l->len == 0 &&
            cvx_now() - l->told > PING_SECONDS) { /* shows whether anybody is there */
            free(l->text);
            l->text = strdup(": ping\n\n");
            l->len = l->text != NULL ? strlen(l->text) : 0;
        }
        if (l->len == 0) {
            usleep(LOOK_EVERY_US);
        }
    }
    size_t n = l->len - l->at < max ? l->len - l->at : max;
    memcpy(buf, l->text + l->at, n);
    l->at += n;
    l->told = cvx_now();
    return (ssize_t)n;
}

static void end_listener(void *cls)
{
    listener *l = cls;

    free(l->text);
    free(l);
}

struct MHD_Response *cvx_events_response(cvx_server *s, const char *job, const char *last)
{
    listener *l = calloc(1, sizeof *l);
    struct MHD_Response *r = NULL;
    bool known = last != NULL && strlen(last) < 40 && strspn(last, "0123456789-") == strlen(last) &&
                 last[0] != 0;

    if (l != NULL) {
        l->s = s;
        l->told = cvx_now();
        snprintf(l->job, sizeof l->job, "%s", job);
        snprintf(l->last, sizeof l->last, "%s", known ? last : "0");
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_events, l,
                                              end_listener);
    }
    if (r != NULL) {
        MHD_add_response_header(r, "Content-Type", "text/event-stream");
        MHD_add_response_header(r, "Cache-Control", "no-store");
    }
    return r;
}
