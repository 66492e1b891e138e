/* Which kernel attends. */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cudnn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Address and strides of [b, s, h, d] are multiples of `bytes`; strides of single items do not matter. */
static bool aligned(const cvx_tensor *t, int64_t bytes)
{
    int64_t step = bytes / (int64_t)cvx_dtype_size(t->dtype);
    bool ok = (uintptr_t)t->data % (uintptr_t)bytes == 0;

    for (int i = 0; i < 3; i++) {
        ok = ok && (t->dim[i] == 1 || t->stride[i] % step == 0);
    }
    return ok;
}

bool cvx_cuda_flash_of(cvx_flash *f, const cvx_attention_args *a)
{
    const cvx_tensor *t[] = {a->q, a->k, a->v, a->o};
    int64_t *strides[] = {f->qs, f->ks, f->vs, f->os};
    int64_t d = a->q->dim[3];

    for (int i = 0; i < 4; i++) {
        if (t[i]->dtype != CVX_BF16 || !aligned(t[i], i == 3 ? 4 : 16)) {
            return false;
        }
        memcpy(strides[i], t[i]->stride, 3 * sizeof(int64_t));
    }
    if (d > 128 || d % 8 != 0 || a->k->dim[1] == 0 || a->bias != NULL || a->causal ||
        !((float)a->scale > 0)) {
        return false;
    }
    f->q = a->q->data;
    f->k = a->k->data;
    f->v = a->v->data;
    f->o = a->o->data;
    f->b = a->q->dim[0];
    f->sq = a->q->dim[1];
    f->h = a->q->dim[2];
    f->sk = a->k->dim[1];
    f->d = (int)d;
    f->scale = (float)a->scale;
    f->scale2 = (float)(a->scale / log(2.0));
    f->lse = a->lse != NULL ? a->lse->data : NULL;
    f->ls[0] = a->lse != NULL ? a->lse->stride[0] : 0;
    f->ls[1] = a->lse != NULL ? a->lse->stride[1] : 0;
    return true;
}

/* In 8 bits, or an error: whoever asked for that is not given something else. */
static cvx_status run_sage(cvx_cuda *s, const cvx_attention_args *a)
{
    cvx_flash f;

    if (!s->hopper) {
        return cvx_cuda_lacks_hopper(s, "--attention sage");
    }
    if (a->q->dim[3] != 64 || !cvx_cuda_flash_of(&f, a) || f.b * f.h > 65535) {
        return cvx_fail(CVX_EUNSUPPORTED,
                        "--attention sage is for heads of 64 in bf16, not of %lld in %s",
                        (long long)a->q->dim[3], cvx_dtype_name(a->q->dtype));
    }
    return f.b * f.h == 0 || f.sq == 0 ? CVX_OK : cvx_cuda_attention_sage(s, &f);
}

cvx_status cvx_cuda_attention(cvx_cuda *s, const cvx_attention_args *a)
{
    const char *only = getenv("CVX_CUDA_ATTENTION");
    bool done = false;
    cvx_flash f;

    if (a->sage) {
        return run_sage(s, a);
    }
    if ((only != NULL && strcmp(only, "plain") == 0) || !cvx_cuda_flash_of(&f, a)) {
        return cvx_cuda_attention_plain(s, a);
    }
    if (f.b * f.h > 65535) {
        return cvx_fail(CVX_EUNSUPPORTED, "attention of %lld heads in all: at most 65535",
                        (long long)(f.b * f.h));
    }
    if (f.b * f.h == 0 || f.sq == 0) {
        return CVX_OK;
    }
    if (only != NULL && strcmp(only, "cudnn") == 0) {
        CVX_RETURN_IF(cvx_cudnn_attention(s, &f, &done));
        if (done) {
            return CVX_OK;
        }
    }
    if (s->hopper && (only == NULL || strcmp(only, "mma") != 0)) {
        return cvx_cuda_attention_hopper(s, &f);
    }
    return cvx_cuda_attention_mma(s, &f);
}
