/* The coordinator's state, and what an HTTP request and its answer are to the handlers. */
#ifndef CVX_COORDINATOR_SERVER_H
#define CVX_COORDINATOR_SERVER_H

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>

#include "store/jobs.h"

#define CVX_REDIS_CONNECTIONS 16
#define CVX_BODY_MAX ((size_t)8 << 20)    /* of JSON, which may hold a picture */
#define CVX_UPLOAD_MAX ((size_t)32 << 20) /* of a picture */
#define CVX_KEYS_MAX 256

typedef struct cvx_api_key {
    char name[64];
    char sha256[65]; /* hex */
    cvx_limits limits;
} cvx_api_key;

typedef struct cvx_server {
    const char *redis_url, *data_dir, *model, *model_name;
    const char *cvx; /* the program's path; NULL: nobody is asked whether a job can be */
    cvx_api_key key[CVX_KEYS_MAX];
    int keys;          /* 0: anybody, on the loopback address */
    cvx_limits limits; /* of a key that has none of its own, and of nobody */
    int64_t started_ms;
    int64_t retention_ms;     /* of ended jobs; 0: for ever */
    const char *lora_dir;     /* NULL: none may be asked for */
    bool local;               /* the pool runs here: what does not fit here fits nowhere */
    char *tls_cert, *tls_key; /* PEM; NULL: plain HTTP */
    int connections, connections_per_address; /* most at once; 0 for the latter: any number */
    double request_seconds;                   /* for a request to come in */
    pthread_mutex_t lock;
    pthread_cond_t freed;
    cvx_redis *redis[CVX_REDIS_CONNECTIONS];
    bool busy[CVX_REDIS_CONNECTIONS];
} cvx_server;

/* A connection to Redis for this thread's request, given back soon. CVX_EIO: Redis is away. */
cvx_status cvx_server_redis(cvx_server *s, cvx_redis **out) CVX_CHECK;
void cvx_server_release(cvx_server *s, cvx_redis *r);

typedef struct cvx_http_request {
    const char *method, *path;
    const char *owner;                                    /* the API key's name */
    const char *idempotency_key, *accept_encoding;        /* NULL: not there */
    const char *after, *limit, *order, *status, *variant; /* of the query; NULL: not there */
    const json_t *fields;                                 /* of the body; NULL: none */
    bool form;         /* the fields came as a form: all of them are texts */
    const char *image; /* a file that came with it, in the data folder; NULL: none */
} cvx_http_request;

/* One of json, text, file, events is set; all are owned by the answer. */
typedef struct cvx_http_answer {
    unsigned status;
    json_t *json;
    char *text, *file;
    const char *type;               /* of text or file */
    char *events;                   /* the job whose events are told */
    int poll_after_ms, retry_after; /* 0: none */
    char *bytes;                    /* of json or text, once they are written; NULL: not yet */
    size_t len;
    bool gzip;
    bool head;                       /* to HEAD, which knows no ranges */
    bool keeps_image;                /* a job has the request's picture now */
    const char *allow;               /* of 405: methods; NULL: none */
    char content_range[64];          /* "": none */
    char what[200], job[CVX_ID_MAX]; /* for the log: the request, and the job that it made; "" */
} cvx_http_answer;

/* An OpenAI error object as the answer. */
void cvx_answer_error(cvx_http_answer *a, unsigned status, const char *param, const char *fmt, ...)
    CVX_PRINTF(4, 5);
/* The thread's last error as the answer: 503 where Redis is away, 400 for the asker's mistakes, else 500. */
void cvx_answer_status(cvx_http_answer *a, cvx_status st, const char *param);

/* Every request behind the key check. */
void cvx_api(cvx_server *s, const cvx_http_request *r, cvx_http_answer *a);

/* Forgets a job that has ended (else *removed is false), and its files. */
cvx_status cvx_keep_remove(const cvx_server *s, cvx_redis *r, const char *id,
                           bool *removed) CVX_CHECK;
/* Forgets some of the jobs that ended longer ago than they are kept. */
cvx_status cvx_keep_sweep(const cvx_server *s, cvx_redis *r) CVX_CHECK;
/* Deletes uploads that have been no job's for an hour, as a coordinator leaves them that is killed amid a request. */
cvx_status cvx_keep_orphans(const cvx_server *s, cvx_redis *r) CVX_CHECK;

/* Jobs, pools and requests as Prometheus reads them. r: NULL where Redis is away. */
void cvx_metrics(cvx_redis *r, cvx_http_answer *a);
/* One more request that was answered; seconds < 0: a stream, whose time says nothing. */
void cvx_metrics_request(unsigned status, double seconds);

/* Seconds until a job that waits begins, by what is before it and how fast the pools' last jobs were, as of a second ago at most; -1:
 * not known, as no pool has run a job yet, none has the memory, or hundreds of jobs are before it. For any thread. */
double cvx_wait_seconds(cvx_redis *r, const char *id);

/* The video object of docs/api.md. wait_seconds: until it begins; < 0: not known. New reference. */
json_t *cvx_video_json(const cvx_server *s, const cvx_job_view *v, double wait_seconds);
/* {"mean", "frames", "drift"}; null where there are none. New reference. */
json_t *cvx_scores_json(const Cvx__FrameScores *f);
/* {"stage", "step", "steps", "progress", "eta_seconds"}. New reference. */
json_t *cvx_progress_json(const Cvx__Progress *p);

/* The settings of a job that asks for none. */
void cvx_spec_defaults(Cvx__JobSpec *spec);
/* Sets the fields of a job that a body names; strings stay the body's. form: numbers and truths are texts. CVX_EINVAL names the
 * field, also in *param: the body's own key or a literal. */
cvx_status cvx_spec_fill(const cvx_server *s, Cvx__JobSpec *spec, const json_t *fields, bool form,
                         const char **param) CVX_CHECK;
/* What else the job asked for, by the fields of a body: windows, a timeline, the best of several... New reference. */
json_t *cvx_spec_options(const Cvx__JobSpec *spec);
/* What cvx_spec_fill has allocated, also when it failed: lora and options, where they are no longer `old`'s (NULL: none). */
void cvx_spec_free(Cvx__JobSpec *spec, const Cvx__JobSpec *old);
/* Asks `cvx plan` whether the job can be, and fills in what the checkpoint decides and, where there is a spec->plan, what it will
 * need. answer (may be NULL): what it said, new reference. param: the field that a refusal names, or NULL. */
cvx_status cvx_spec_plan(const cvx_server *s, Cvx__JobSpec *spec, json_t **answer,
                         const char **param) CVX_CHECK;

/* Begins to listen at host. Requests are served by threads until cvx_http_stop. *port: 0 chooses one, -1 listens nowhere: there
 * are only the connections of cvx_http_adopt. */
cvx_status cvx_http_start(cvx_server *s, const char *host, int *port) CVX_CHECK;
/* Serves a connection that was made elsewhere, and closes it in the end. */
cvx_status cvx_http_adopt(int fd) CVX_CHECK;
void cvx_http_stop(void);

#endif
