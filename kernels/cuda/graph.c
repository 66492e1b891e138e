/* A step's kernels as one CUDA graph (CVX_CUDA_GRAPH=1).
 *
 * The transformer does the same in every step but for what is uploaded (the timestep's embedding). So the first step
 * runs as usual, the second is captured, and from the third on the model's code runs without queueing anything:
 * each op and copy is compared, by a hash of its operands, with what was captured, uploads go to the pinned memory
 * from which the graph's copies read, and at the end the graph is launched. Where anything differs the step is done
 * once more as usual, and captured anew. */
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/parts.h"

enum { OFF = 0, CAPTURE, REPLAY };

typedef struct upload {
    void *pinned;
    size_t bytes;
} upload;

typedef struct cvx_cuda_graph {
    int mode;
    bool enabled, differs;
    int64_t passes; /* since the last graph was dropped */
    cudaGraphExec_t exec;
    uint64_t *hash;
    int64_t n, room, at; /* ops and copies captured; the one that comes next */
    upload *uploads;
    int n_uploads, next;
} graph;

/* Which words of an op's arguments are tensors; 0: not to be captured. */
static unsigned tensors_of(int op)
{
    switch (op) {
    case CVX_OP_ID_linear: return 0x6f;
    case CVX_OP_ID_layer_norm:
    case CVX_OP_ID_attention: return 0x3f;
    case CVX_OP_ID_qk_norm_rope: return 0x1f;
    case CVX_OP_ID_attention_merge: return 0xf;
    case CVX_OP_ID_rms_norm:
    case CVX_OP_ID_gated_act:
    case CVX_OP_ID_add: return 0x7;
    case CVX_OP_ID_patchify:
    case CVX_OP_ID_unpatchify:
    case CVX_OP_ID_strided_copy: return 0x3;
    default: return 0;
    }
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static uint64_t mix_tensor(uint64_t h, const cvx_tensor *t)
{
    if (t == NULL) {
        return mix(h, 1);
    }
    h = mix(h, (uint64_t)(uintptr_t)t->data);
    h = mix(h, (uint64_t)t->dtype * 64 + (uint64_t)t->layout * 8 + (uint64_t)t->ndim);
    for (int i = 0; i < t->ndim; i++) {
        h = mix(mix(h, (uint64_t)t->dim[i]), (uint64_t)t->stride[i]);
    }
    return h;
}

/* Takes the next one's hash: false if it is to be queued now. */
static bool take(graph *g, uint64_t h)
{
    if (g->mode == REPLAY) {
        g->differs = g->differs || g->at >= g->n || g->hash[g->at] != h;
        g->at++;
        return true;
    }
    if (g->n == g->room) {
        int64_t room = g->room > 0 ? 2 * g->room : 4096;
        uint64_t *more = realloc(g->hash, (size_t)room * sizeof *more);
        if (more == NULL) {
            g->differs = true;
            return false;
        }
        g->hash = more;
        g->room = room;
    }
    g->hash[g->n++] = h;
    return false;
}

static graph *active(const cvx_cuda *s)
{
    graph *g = cvx_cuda_parts_of(s)->graph;
    return g != NULL && g->mode != OFF ? g : NULL;
}

bool cvx_cuda_graph_op(cvx_cuda *s, int op, const void *args, size_t bytes)
{
    graph *g = active(s);
    unsigned mask = tensors_of(op);
    uint64_t h = mix(17, (uint64_t)op), word;

    if (g == NULL) {
        return false;
    }
    g->differs = g->differs || mask == 0;
    for (size_t i = 0; i < bytes / sizeof word; i++) {
        memcpy(&word, (const char *)args + i * sizeof word, sizeof word);
        h = mask >> i & 1 ? mix_tensor(h, (const cvx_tensor *)(uintptr_t)word) : mix(h, word);
    }
    return take(g, h);
}

bool cvx_cuda_graph_move(cvx_cuda *s, const void *dst, const void *src, size_t bytes)
{
    graph *g = active(s);

    return g != NULL &&
           take(g, mix(mix(mix(23, (uint64_t)(uintptr_t)dst), (uint64_t)(uintptr_t)src), bytes));
}

cvx_status cvx_cuda_graph_upload(cvx_cuda *s, void *dst, const void *src, size_t bytes, bool *done)
{
    graph *g = active(s);

    *done = g != NULL;
    if (g == NULL) {
        return CVX_OK;
    }
    if (take(g, mix(mix(29, (uint64_t)(uintptr_t)dst), bytes))) {
        if (g->next < g->n_uploads && g->uploads[g->next].bytes == bytes) {
            memcpy(g->uploads[g->next++].pinned, src, bytes);
        } else {
            g->differs = true;
        }
        return CVX_OK;
    }
    upload *more = realloc(g->uploads, (size_t)(g->n_uploads + 1) * sizeof *more),
           u = {.bytes = bytes};
    if (more == NULL || cudaMallocHost(&u.pinned, bytes) != cudaSuccess) {
        g->uploads = more != NULL ? more : g->uploads;
        g->differs = true;
        return cvx_fail(CVX_ENOMEM, "no pinned memory for a step's graph");
    }
    memcpy(u.pinned, src, bytes);
    g->uploads = more;
    g->uploads[g->n_uploads++] = u;
    return cvx_cuda_status(
        (int)cudaMemcpyAsync(dst, u.pinned, bytes, cudaMemcpyHostToDevice, s->stream), "upload");
}

bool cvx_cuda_graph_spoil(cvx_cuda *s)
{
    graph *g = active(s);

    if (g != NULL) {
        g->differs = true;
    }
    return g != NULL;
}

static void drop(graph *g)
{
    if (g->exec != NULL) {
        cudaGraphExecDestroy(g->exec);
    }
    for (int i = 0; i < g->n_uploads; i++) {
        cudaFreeHost(g->uploads[i].pinned);
    }
    free(g->uploads);
    g->uploads = NULL;
    g->exec = NULL;
    g->n = g->n_uploads = 0;
    g->passes = 0;
}

void cvx_cuda_graph_moved(cvx_cuda *s)
{
    graph *g = cvx_cuda_parts_of(s)->graph;

    if (g != NULL && g->mode == OFF) {
        drop(g);
    }
}

void cvx_cuda_graph_close(cvx_cuda *s)
{
    cvx_cuda_parts *p = cvx_cuda_parts_of(s);

    if (p->graph != NULL) {
        drop(p->graph);
        free(p->graph->hash);
        free(p->graph);
        p->graph = NULL;
    }
}

void cvx_cuda_step_begin(cvx_ctx *ctx)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    cvx_cuda_parts *p = cvx_cuda_parts_of(s);
    const char *wish = getenv("CVX_CUDA_GRAPH");
    graph *g = p->graph;

    if (g == NULL) {
        g = p->graph = calloc(1, sizeof *g);
        if (g == NULL) {
            return; /* without */
        }
        g->enabled = wish != NULL && strcmp(wish, "1") == 0 && !s->managed;
    }
    /* streamed weights wait for another stream, and timed ops for the device: neither can be captured */
    if (!g->enabled || p->streamed != NULL || ctx->timed) {
        return;
    }
    g->at = g->next = 0;
    g->differs = false;
    if (g->exec != NULL) {
        cudaStreamSynchronize(s->stream); /* the last launch has read its uploads */
        g->mode = REPLAY;
    } else if (g->passes > 0) {
        g->n = 0;
        g->mode = cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeRelaxed) == cudaSuccess
                      ? CAPTURE
                      : OFF;
        g->enabled = g->mode == CAPTURE;
    }
}

/* Ends the capture; whether there is a graph of all that the step did. */
static bool finish_capture(cvx_cuda *s, graph *g, cvx_status st)
{
    cudaGraph_t made = NULL;
    bool ok = cudaStreamEndCapture(s->stream, &made) == cudaSuccess && made != NULL &&
              st == CVX_OK && !g->differs;

    ok = ok && cudaGraphInstantiate(&g->exec, made, 0) == cudaSuccess;
    if (made != NULL) {
        cudaGraphDestroy(made);
    }
    cudaGetLastError();
    return ok;
}

cvx_status cvx_cuda_step_end(cvx_ctx *ctx, cvx_status st, bool *again)
{
    cvx_cuda *s = cvx_cuda_of(ctx);
    graph *g = cvx_cuda_parts_of(s)->graph;
    int mode = g != NULL ? g->mode : OFF;
    bool good = false;

    *again = false;
    if (mode == OFF) {
        if (g != NULL && st == CVX_OK) {
            g->passes++;
        }
        return st;
    }
    g->mode = OFF;
    if (mode == CAPTURE) {
        good = finish_capture(s, g, st);
        g->enabled = good; /* what cannot be captured once is not tried again */
    } else {
        good = st == CVX_OK && !g->differs && g->at == g->n;
    }
    if (!good) {
        drop(g);
        *again = true;
        return CVX_OK;
    }
    g->passes++;
    return cvx_cuda_status((int)cudaGraphLaunch(g->exec, s->stream), "the step's graph");
}
