#include "coordinator/workers.h"

#include <pthread.h>

#define THREAD_STACK ((size_t)2 << 20)
#define MOST 8

typedef struct lane {
    int threads;
    cvx_task *first, **last;
    pthread_cond_t more;
    pthread_t thread[MOST];
} lane;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static lane lanes[CVX_LANES] = {{.threads = 8}, {.threads = 4}};
static bool closed = true;

static void *work(void *payload)
{
    lane *l = payload;

    pthread_mutex_lock(&lock);
    for (;;) {
        while (l->first == NULL && !closed) {
            pthread_cond_wait(&l->more, &lock);
        }
        cvx_task *t = l->first;
        if (t == NULL) {
            break;
        }
        l->first = t->next;
        l->last = l->first == NULL ? &l->first : l->last;
        pthread_mutex_unlock(&lock);
        struct MHD_Connection *c =
            t->connection; /* the task may be gone once its request goes on */
        t->run(t->payload);
        MHD_resume_connection(c);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

cvx_status cvx_workers_start(void)
{
    pthread_attr_t a;
    cvx_status st = CVX_OK;

    closed = false;
    pthread_attr_init(&a);
    pthread_attr_setstacksize(&a, THREAD_STACK);
    for (int i = 0; i < CVX_LANES; i++) {
        lane *l = &lanes[i];
        l->last = &l->first;
        pthread_cond_init(&l->more, NULL);
        for (int k = 0; k < l->threads && st == CVX_OK; k++) {
            if (pthread_create(&l->thread[k], &a, work, l) != 0) {
                l->threads = k;
                st = cvx_fail(CVX_ENOMEM, "cannot start the threads of the HTTP service");
            }
        }
    }
    pthread_attr_destroy(&a);
    return st;
}

bool cvx_workers_add(cvx_task *t, cvx_lane which)
{
    lane *l = &lanes[which];

    pthread_mutex_lock(&lock);
    bool open = !closed;
    if (open) {
        MHD_suspend_connection(t->connection);
        t->next = NULL;
        *l->last = t;
        l->last = &t->next;
        pthread_cond_signal(&l->more);
    }
    pthread_mutex_unlock(&lock);
    return open;
}

void cvx_workers_stop(void)
{
    pthread_mutex_lock(&lock);
    closed = true;
    for (int i = 0; i < CVX_LANES; i++) {
        pthread_cond_broadcast(&lanes[i].more);
    }
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < CVX_LANES; i++) {
        for (int k = 0; k < lanes[i].threads; k++) {
            pthread_join(lanes[i].thread[k], NULL);
        }
    }
}
