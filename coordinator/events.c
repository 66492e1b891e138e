#include "coordinator/events.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/progress.h"
#include "store/message.h"

#define LOOK_EVERY_US 100000
#define PING_SECONDS 15.0
#define STATE_SECONDS 1.0

/* One listener. `text` is what is told next. While its connection is suspended it is the thread's, else the daemon's. */
typedef struct listener {
    struct listener *next; /* that waits */
    struct MHD_Connection *connection;
    char job[CVX_ID_MAX], last[48];
    char *text;
    size_t len, at;
    bool over;
    double told, asked; /* when something was said, and when the state was asked for */
} listener;

static struct {
    pthread_mutex_t lock;
    pthread_t thread;
    listener *waiting;
    bool open;
} streams = {.lock = PTHREAD_MUTEX_INITIALIZER};

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

/* Whether nothing more can come: the job has ended, or is forgotten. */
static bool has_ended(cvx_redis *r, const listener *l)
{
    redisReply *reply;

    if (cvx_redis_command(r, &reply, "HGET cvx:job:%s state", l->job) != CVX_OK) {
        return false;
    }
    bool over =
        reply->type == REDIS_REPLY_NIL || (reply->type == REDIS_REPLY_STRING && ends(reply->str));
    freeReplyObject(reply);
    return over;
}

/* Looks for entries behind the last one. Now and then the state is asked for, before them: whoever comes back behind the last
 * entry of a job, or while it is deleted, hears of no end. False: Redis does not answer. */
static bool look(cvx_redis *r, listener *l)
{
    redisReply *reply;
    bool ended = false;

    if (cvx_now() - l->asked > STATE_SECONDS) {
        ended = has_ended(r, l);
        l->asked = cvx_now();
    }
    cvx_status st =
        cvx_redis_command(r, &reply, "XRANGE cvx:events:%s (%s + COUNT 100", l->job, l->last);
    if (st == CVX_OK) {
        for (size_t i = 0; i < reply->elements; i++) {
            tell(l, reply->element[i]);
        }
        l->over |= ended && reply->elements == 0;
        l->asked = ended && reply->elements > 0 ? 0 : l->asked; /* look again at once */
        freeReplyObject(reply);
    }
    return st != CVX_EIO;
}

/* Shows whether anybody is there: a suspended connection does not tell. */
static void ping(listener *l)
{
    free(l->text);
    l->text = strdup(": ping\n\n");
    l->len = l->text != NULL ? strlen(l->text) : 0;
}

/* Those that have something to tell go on, the others wait again. Where Redis does not answer one, the others do not ask. */
static void serve(cvx_redis *r, listener *list)
{
    listener *next;

    for (listener *l = list; l != NULL; l = next) {
        next = l->next;
        if (r != NULL && !look(r, l)) {
            r = NULL;
        }
        if (l->len == 0 && !l->over && cvx_now() - l->told > PING_SECONDS) {
            ping(l);
        }
        pthread_mutex_lock(&streams.lock);
        if (l->len > 0 || l->over || !streams.open) {
            MHD_resume_connection(l->connection);
        } else {
            l->next = streams.waiting;
            streams.waiting = l;
        }
        pthread_mutex_unlock(&streams.lock);
    }
}

static void *stream_thread(void *payload)
{
    cvx_server *s = payload;
    bool open = true;

    while (open) {
        cvx_redis *r = NULL;
        pthread_mutex_lock(&streams.lock);
        listener *list = streams.waiting;
        streams.waiting = NULL;
        open = streams.open;
        pthread_mutex_unlock(&streams.lock);
        if (list != NULL && open && cvx_server_redis(s, &r) != CVX_OK) {
            r = NULL; /* it will be back */
        }
        serve(r, list);
        if (r != NULL) {
            cvx_server_release(s, r);
        }
        usleep(open ? LOOK_EVERY_US : 0);
    }
    return NULL;
}

cvx_status cvx_events_start(cvx_server *s)
{
    streams.open = true;
    return pthread_create(&streams.thread, NULL, stream_thread, s) == 0
               ? CVX_OK
               : cvx_fail(CVX_ENOMEM, "cannot start the thread of the event streams");
}

void cvx_events_stop(void)
{
    pthread_mutex_lock(&streams.lock);
    streams.open = false;
    pthread_mutex_unlock(&streams.lock);
    pthread_join(streams.thread, NULL);
}

static ssize_t read_events(void *cls, uint64_t pos, char *buf, size_t max)
{
    listener *l = cls;
    ssize_t n = 0;
    (void)pos;

    if (l->at == l->len) {
        l->at = l->len = 0;
        pthread_mutex_lock(&streams.lock);
        if (l->over || !streams.open) {
            n = MHD_CONTENT_READER_END_OF_STREAM;
        } else {
            MHD_suspend_connection(l->connection);
            l->next = streams.waiting;
            streams.waiting = l;
        }
        pthread_mutex_unlock(&streams.lock);
        return n;
    }
    n = (ssize_t)(l->len - l->at < max ? l->len - l->at : max);
    memcpy(buf, l->text + l->at, (size_t)n);
    l->at += (size_t)n;
    l->told = cvx_now();
    return n;
}

static void end_listener(void *cls)
{
    listener *l = cls;

    free(l->text);
    free(l);
}

/* Whether a text is an entry's id, as Redis takes one: MILLISECONDS or MILLISECONDS-NUMBER, of 64 bits each. */
static bool is_entry(const char *text)
{
    for (int i = 0; i < 2; i++) {
        char *end;
        errno = 0;
        (void)strtoull(text, &end, 10);
        if (*text < '0' || *text > '9' || errno != 0) {
            return false;
        }
        if (*end == 0) {
            return end - text < 24; /* without a row of zeros in front */
        }
        if (*end != '-' || end - text >= 24) {
            return false;
        }
        text = end + 1;
    }
    return false;
}

struct MHD_Response *cvx_events_response(struct MHD_Connection *c, const char *job,
                                         const char *last)
{
    listener *l = calloc(1, sizeof *l);
    struct MHD_Response *r = NULL;
    bool known = last != NULL && is_entry(last);

    if (l != NULL) {
        l->connection = c;
        l->told = cvx_now();
        snprintf(l->job, sizeof l->job, "%s", job);
        snprintf(l->last, sizeof l->last, "%s", known ? last : "0");
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_events, l,
                                              end_listener);
    }
    if (r == NULL) {
        free(l);
    } else {
        MHD_add_response_header(r, "Content-Type", "text/event-stream");
        MHD_add_response_header(r, "X-Accel-Buffering", "no"); /* proxies pass it on at once */
        MHD_add_response_header(r, "Cache-Control", "no-store");
    }
    return r;
}
