/* Weights that stay in host memory (--offload sequential) and come to the device as they are used.
 *
 * A few slots of device memory hold weights. A pass uses them in the same order every time, so each remembers which
 * one came after it, and the next ones are on their way (on the stream for copies) while one is used. A weight that
 * comes back for the third time is kept in pinned memory, from where it needs no processor: the text
 * encoder's, used once or twice, never are. */
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/parts.h"

#define SLOTS 4
/* Uses after which a weight gets its pinned copy. */
#define FAMILIAR 3

typedef struct weight {
    const void *src;
    size_t bytes;
    void *pinned;
    bool unpinnable;
    int uses, next, slot; /* next: the one used after it; slot: where it is; -1: none */
} weight;

typedef struct slot {
    void *data;
    size_t size;
    int holds; /* weight, -1: none */
    int64_t touched;
    cudaEvent_t ready, spent; /* it has come; what used it is done */
} slot;

typedef struct cvx_cuda_weights {
    weight *list;
    int n, room, last; /* last: the weight used before; -1: none */
    slot slots[SLOTS];
    int64_t clock;
} weights;

static cvx_status open_weights(cvx_cuda *s, weights **out)
{
    cvx_cuda_parts *p = cvx_cuda_parts_of(s);
    weights *w = p->streamed;

    if (w == NULL) {
        w = p->streamed = calloc(1, sizeof *w);
        if (w == NULL) {
            return cvx_fail(CVX_ENOMEM, "no memory for a list of weights");
        }
        w->last = -1;
        for (int i = 0; i < SLOTS; i++) {
            w->slots[i].holds = -1;
            CVX_RETURN_IF(cvx_cuda_status((int)cudaEventCreateWithFlags(&w->slots[i].ready,
                                                                        cudaEventDisableTiming),
                                          "an event"));
            CVX_RETURN_IF(cvx_cuda_status((int)cudaEventCreateWithFlags(&w->slots[i].spent,
                                                                        cudaEventDisableTiming),
                                          "an event"));
        }
    }
    *out = w;
    return CVX_OK;
}

void cvx_cuda_forget_weights(cvx_cuda *s)
{
    cvx_cuda_parts *p = cvx_cuda_parts_of(s);
    weights *w = p->streamed;

    if (w == NULL) {
        return;
    }
    cudaStreamSynchronize(s->copies);
    cudaStreamSynchronize(s->stream);
    for (int i = 0; i < w->n; i++) {
        cudaFreeHost(w->list[i].pinned);
    }
    for (int i = 0; i < SLOTS; i++) {
        cudaFree(w->slots[i].data);
        p->in_use -= w->slots[i].size;
        if (w->slots[i].ready != NULL) {
            cudaEventDestroy(w->slots[i].ready);
        }
        if (w->slots[i].spent != NULL) {
            cudaEventDestroy(w->slots[i].spent);
        }
    }
    free(w->list);
    free(w);
    p->streamed = NULL;
}

static cvx_status find_weight(weights *w, const void *src, size_t bytes, int *out)
{
    for (int i = 0; i < w->n; i++) {
        /* most often the one that came after the last one */
        int k = w->last >= 0 && w->list[w->last].next >= 0 ? (w->list[w->last].next + i) % w->n : i;
        if (w->list[k].src == src && w->list[k].bytes == bytes) {
            *out = k;
            return CVX_OK;
        }
    }
    if (w->n == w->room) {
        int room = w->room > 0 ? 2 * w->room : 512;
        weight *more = realloc(w->list, (size_t)room * sizeof *more);
        if (more == NULL) {
            return cvx_fail(CVX_ENOMEM, "no memory for a list of weights");
        }
        w->list = more;
        w->room = room;
    }
    w->list[w->n] = (weight){.src = src, .bytes = bytes, .next = -1, .slot = -1};
    *out = w->n++;
    return CVX_OK;
}

/* The slot that was touched longest ago, with room for the weight. */
static cvx_status free_slot(cvx_cuda *s, weights *w, size_t bytes, slot **out)
{
    cvx_cuda_parts *p = cvx_cuda_parts_of(s);
    slot *x = &w->slots[0];

    for (int i = 1; i < SLOTS; i++) {
        x = w->slots[i].touched < x->touched ? &w->slots[i] : x;
    }
    if (x->holds >= 0) {
        w->list[x->holds].slot = -1;
        x->holds = -1;
    }
    if (x->size < bytes) {
        CVX_RETURN_IF(cvx_cuda_status((int)cudaStreamSynchronize(s->stream), "a slot for weights"));
        cudaFree(x->data);
        p->in_use -= x->size;
        x->data = NULL;
        x->size = 0;
        CVX_RETURN_IF(cvx_cuda_status((int)cudaMalloc(&x->data, bytes), "a slot for weights"));
        x->size = bytes;
        p->in_use += bytes;
        p->most = p->in_use > p->most ? p->in_use : p->most;
    }
    *out = x;
    return CVX_OK;
}

/* Weight k on its way into a slot. */
static cvx_status bring(cvx_cuda *s, weights *w, int k)
{
    slot *x = NULL;

    CVX_RETURN_IF(free_slot(s, w, w->list[k].bytes, &x));
    weight *e = &w->list[k];
    CVX_RETURN_IF(
        cvx_cuda_status((int)cudaStreamWaitEvent(s->copies, x->spent, 0), "weights on their way"));
    if (e->uses >= FAMILIAR && e->pinned == NULL && !e->unpinnable) {
        e->unpinnable = cudaMallocHost(&e->pinned, e->bytes) != cudaSuccess;
        if (e->unpinnable) {
            cudaGetLastError(); /* without: through the staging halves, as before */
            e->pinned = NULL;
        } else {
            memcpy(e->pinned, e->src, e->bytes);
        }
    }
    if (e->pinned != NULL) {
        CVX_RETURN_IF(cvx_cuda_status((int)cudaMemcpyAsync(x->data, e->pinned, e->bytes,
                                                           cudaMemcpyHostToDevice, s->copies),
                                      "weights on their way"));
    } else {
        CVX_RETURN_IF(cvx_cuda_to_device(s, s->copies, x->data, e->src, e->bytes));
    }
    CVX_RETURN_IF(
        cvx_cuda_status((int)cudaEventRecord(x->ready, s->copies), "weights on their way"));
    e->slot = (int)(x - w->slots);
    x->holds = k;
    x->touched = ++w->clock;
    return CVX_OK;
}

cvx_status cvx_cuda_streamed_weight(cvx_cuda *s, const void *src, size_t bytes, const void **out)
{
    weights *w = NULL;
    int k = -1;

    CVX_RETURN_IF(open_weights(s, &w));
    CVX_RETURN_IF(find_weight(w, src, bytes, &k));
    if (w->last >= 0) {
        w->list[w->last].next = k;
        int was = w->list[w->last].slot;
        if (was >= 0) { /* everything that used it is queued by now */
            CVX_RETURN_IF(
                cvx_cuda_status((int)cudaEventRecord(w->slots[was].spent, s->stream), "weights"));
        }
    }
    if (w->list[k].slot < 0) {
        CVX_RETURN_IF(bring(s, w, k));
    }
    slot *x = &w->slots[w->list[k].slot];
    x->touched = ++w->clock;
    w->list[k].uses++;
    w->last = k;
    CVX_RETURN_IF(cvx_cuda_status((int)cudaStreamWaitEvent(s->stream, x->ready, 0), "weights"));
    *out = x->data;
    /* the next ones, as far as they are known; the one in use is not the oldest, so it stays */
    for (int i = 0, f = w->list[k].next; i < SLOTS - 2 && f >= 0 && f != k;
         i++, f = w->list[f].next) {
        if (w->list[f].slot < 0) {
            CVX_RETURN_IF(bring(s, w, f));
        } else {
            w->slots[w->list[f].slot].touched = ++w->clock;
        }
    }
    return CVX_OK;
}
