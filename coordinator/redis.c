/* The connections to Redis that requests share. */
#include <time.h>

#include "coordinator/server.h"

#define REDIS_PATIENCE 5 /* s for a free connection */

cvx_status cvx_server_redis(cvx_server *s, cvx_redis **out)
{
    int i = 0;

    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += REDIS_PATIENCE;
    pthread_mutex_lock(&s->lock);
    for (int late = 0;; i = 0) {
        while (i < CVX_REDIS_CONNECTIONS && s->busy[i]) {
            i++;
        }
        if (i < CVX_REDIS_CONNECTIONS) {
            break;
        }
        if (late != 0) { /* it does not answer those who have one */
            pthread_mutex_unlock(&s->lock);
            return cvx_fail(CVX_EIO, "Redis is too slow: no connection to it became free");
        }
        late = pthread_cond_timedwait(&s->freed, &s->lock, &until);
    }
    s->busy[i] = true;
    pthread_mutex_unlock(&s->lock);
    cvx_status st = s->redis[i] != NULL ? CVX_OK : cvx_redis_open(&s->redis[i], s->redis_url);
    *out = s->redis[i];
    if (st != CVX_OK) {
        pthread_mutex_lock(&s->lock);
        s->busy[i] = false;
        pthread_cond_signal(&s->freed);
        pthread_mutex_unlock(&s->lock);
    }
    return st;
}

void cvx_server_release(cvx_server *s, cvx_redis *r)
{
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < CVX_REDIS_CONNECTIONS; i++) {
        if (s->redis[i] == r) {
            s->busy[i] = false;
        }
    }
    pthread_cond_signal(&s->freed);
    pthread_mutex_unlock(&s->lock);
}
