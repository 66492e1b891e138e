/* First-block cache (diffusers hooks/first_block_cache.py; ParaAttention): a pass in which the first block does to the
 * stream about what it did in the last full one takes what the other blocks added then. */
#include "kernels/transfer.h"
#include "model/dit/parts.h"

#include <stdlib.h>

/* This rank's video rows of item i of the stream: what the head reads. */
static cvx_tensor video_rows(const cvx_dit_pass *p, int64_t i)
{
    return cvx_slice(&p->x, 0, i * p->s + p->text, p->video);
}

/* kept <- the stream, or (minus) stream - kept; all [b, video, c]. */
static cvx_status keep(const cvx_dit_pass *p, const cvx_tensor *kept, bool minus)
{
    for (int64_t i = 0; i < p->b && p->video > 0; i++) {
        cvx_tensor x = video_rows(p, i), k = cvx_slice(kept, 0, i, 1);
        k = CVX_RESHAPE(&k, p->video, p->d->c);
        if (minus) {
            cvx_combine_args a = {.y = &k, .x = {&x, &k}, .c = {1, -1}, .n = 2};
            CVX_RETURN_IF(cvx_op_combine(p->d->ctx, &a));
        } else {
            cvx_copy(p->d->ctx, &k, &x);
        }
    }
    return CVX_OK;
}

/* The mean change of what the first block adds, as a share of its mean size; over all rows of all ranks, in their
 * order, so that every rank of any mesh finds the same number. */
static cvx_status change(cvx_dit_pass *p, double *share)
{
    cvx_dit_cache *c = p->job->cache;
    size_t mark = cvx_arena_mark(p->step);
    int64_t rows = p->b * p->video;
    cvx_tensor sums, all, now = CVX_RESHAPE(&c->head[!c->at], rows, p->d->c),
                          last = CVX_RESHAPE(&c->head[c->at], rows, p->d->c);
    double changed = 0, size = 0;

    CVX_RETURN_IF(CVX_ALLOC(p->step, &sums, CVX_F32, rows, 2));
    CVX_RETURN_IF(
        cvx_op_row_change(p->d->ctx, &(cvx_row_change_args){.y = &sums, .a = &now, .b = &last}));
    sums = CVX_RESHAPE(&sums, p->b, p->video, 2);
    CVX_RETURN_IF(cvx_dit_gather_rows(p, &sums, &all));
    int64_t n = cvx_numel(&all);
    float *host = p->d->ctx->measure ? NULL : malloc((size_t)n * sizeof *host);
    if (host == NULL && !p->d->ctx->measure) {
        return cvx_fail(CVX_ENOMEM, "no memory for the changes of %lld rows", (long long)(n / 2));
    }
    if (host != NULL) {
        cvx_download(p->d->ctx, host, &all);
        for (int64_t i = 0; i < n; i += 2) {
            changed += host[i];
            size += host[i + 1];
        }
    }
    free(host);
    cvx_arena_release(p->step, mark, false);
    *share = changed / size;
    return CVX_OK;
}

cvx_status cvx_dit_cache_open(cvx_dit_cache *c, const cvx_dit *d, const cvx_dit_job *job,
                              double threshold, cvx_arena *arena)
{
    cvx_dit_pass p;
    cvx_tensor *kept[] = {&c->head[0], &c->head[1], &c->rest};

    *c = (cvx_dit_cache){.threshold = threshold};
    cvx_dit_place(&p, d, job);
    for (int i = 0; i < 3; i++) {
        CVX_RETURN_IF(CVX_ALLOC(arena, kept[i], CVX_F32, p.b, p.video, d->c));
    }
    return CVX_OK;
}

cvx_status cvx_dit_cache_before(cvx_dit_pass *p)
{
    cvx_dit_cache *c = p->job->cache;

    return c != NULL ? keep(p, &c->head[!c->at], false) : CVX_OK;
}

cvx_status cvx_dit_cache_first(cvx_dit_pass *p, bool *reuse)
{
    cvx_dit_cache *c = p->job->cache;
    double share = 0;

    *reuse = false;
    if (c == NULL) {
        return CVX_OK;
    }
    CVX_RETURN_IF(keep(p, &c->head[!c->at], true));
    if (c->filled || p->d->ctx->measure) { /* a plan is of the passes that compare */
        CVX_RETURN_IF(change(p, &share));
    }
    *reuse = c->filled && share <= c->threshold;
    c->reused = *reuse;
    if (!*reuse) {
        c->at = !c->at;
        return keep(p, &c->rest, false);
    }
    for (int64_t i = 0; i < p->b && p->video > 0; i++) {
        cvx_tensor x = video_rows(p, i), rest = cvx_slice(&c->rest, 0, i, 1);
        rest = CVX_RESHAPE(&rest, p->video, p->d->c);
        CVX_RETURN_IF(cvx_op_add(p->d->ctx, &(cvx_add_args){.y = &x, .a = &x, .b = &rest}));
    }
    return CVX_OK;
}

cvx_status cvx_dit_cache_after(cvx_dit_pass *p)
{
    cvx_dit_cache *c = p->job->cache;

    if (c == NULL) {
        return CVX_OK;
    }
    c->filled = !p->d->ctx->measure;
    return keep(p, &c->rest, true);
}
