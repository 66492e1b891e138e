#include "model/stages/queue.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cvx_queue {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t change;
    cvx_status (*write)(void *payload, const uint8_t *frame);
    void *payload;
    uint8_t *frames; /* ring of room */
    size_t bytes;
    int room, first, n; /* n frames from `first` on wait or are being written */
    bool ended;
    cvx_status status; /* the writer's */
    char message[1024];
};

static void *work(void *arg)
{
    cvx_queue *q = arg;

    pthread_mutex_lock(&q->lock);
    for (;;) {
        while (q->n == 0 && !q->ended) {
            pthread_cond_wait(&q->change, &q->lock);
        }
        if (q->n == 0 || q->status != CVX_OK) {
            break;
        }
        const uint8_t *frame = q->frames + (size_t)q->first * q->bytes;
        pthread_mutex_unlock(&q->lock);
        cvx_status st = q->write(q->payload, frame);
        pthread_mutex_lock(&q->lock);
        if (st != CVX_OK) {
            q->status = st;
            snprintf(q->message, sizeof q->message, "%s",
                     cvx_error()); /* it is this thread's own */
        }
        q->first = (q->first + 1) % q->room;
        q->n--;
        pthread_cond_broadcast(&q->change);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

cvx_status cvx_queue_open(cvx_queue **out, size_t bytes, int room,
                          cvx_status (*write)(void *payload, const uint8_t *frame), void *payload)
{
    cvx_queue *q = calloc(1, sizeof *q);

    if (q == NULL || (q->frames = malloc(bytes * (size_t)room)) == NULL) {
        free(q);
        return cvx_fail(CVX_ENOMEM, "no memory for a queue of frames");
    }
    q->write = write;
    q->payload = payload;
    q->bytes = bytes;
    q->room = room;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->change, NULL);
    if (pthread_create(&q->thread, NULL, work, q) != 0) {
        free(q->frames);
        free(q);
        return cvx_fail(CVX_ENOMEM, "no thread for the writer");
    }
    *out = q;
    return CVX_OK;
}

cvx_status cvx_queue_put(cvx_queue *q, const uint8_t *frame)
{
    pthread_mutex_lock(&q->lock);
    while (q->n == q->room && q->status == CVX_OK) {
        pthread_cond_wait(&q->change, &q->lock);
    }
    cvx_status st = q->status;
    if (st == CVX_OK) {
        memcpy(q->frames + (size_t)((q->first + q->n) % q->room) * q->bytes, frame, q->bytes);
        q->n++;
        pthread_cond_broadcast(&q->change);
    }
    pthread_mutex_unlock(&q->lock);
    return st == CVX_OK ? st : cvx_fail(st, "%s", q->message);
}

cvx_status cvx_queue_close(cvx_queue *q)
{
    if (q == NULL) {
        return CVX_OK;
    }
    pthread_mutex_lock(&q->lock);
    q->ended = true;
    pthread_cond_broadcast(&q->change);
    pthread_mutex_unlock(&q->lock);
    pthread_join(q->thread, NULL);
    cvx_status st = q->status == CVX_OK ? CVX_OK : cvx_fail(q->status, "%s", q->message);
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->change);
    free(q->frames);
    free(q);
    return st;
}
