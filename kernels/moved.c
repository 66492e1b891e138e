#include "kernels/moved.h"

/* NULL operands were not given. */
static double bytes(const cvx_tensor *const *t, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++) {
        if (t[i] != NULL) {
            sum += (double)cvx_numel(t[i]) * (double)cvx_dtype_size(t[i]->dtype);
        }
    }
    return sum;
}

/* The operands, what is changed in place twice. */
#define MOVED(op, ...)                                                                             \
    double cvx_moved_##op(const cvx_##op##_args *a)                                                \
    {                                                                                              \
        const cvx_tensor *const t[] = {__VA_ARGS__};                                               \
        return bytes(t, sizeof t / sizeof *t);                                                     \
    }

MOVED(pack, a->dst, a->src)
MOVED(linear, a->y, a->x, a->w, a->b, a->residual, a->gate)
MOVED(layer_norm, a->y, a->x, a->gamma, a->beta, a->scale, a->shift)
MOVED(rms_norm, a->y, a->x, a->gamma)
MOVED(qk_norm_rope, a->x, a->x, a->gamma, a->beta, a->cos, a->sin)
MOVED(attention, a->o, a->lse, a->q, a->k, a->v, a->bias)
MOVED(attention_merge, a->o, a->o, a->lse, a->lse, a->part, a->part_lse)
MOVED(gated_act, a->y, a->a, a->b)
MOVED(add, a->y, a->a, a->b)
MOVED(embed, a->y, a->y) /* of the table the rows that are asked for */
MOVED(patchify, a->y, a->x)
MOVED(unpatchify, a->y, a->x)
MOVED(sched_step, a->prev, a->x0_out, a->sample, a->uncond, a->cond, a->old_x0, a->noise)
MOVED(conv3d, a->y, a->x, a->w, a->b, a->residual)
MOVED(group_norm_stats, a->sums, a->x)
MOVED(group_norm_finish, a->stats, a->sums)
MOVED(group_norm_apply, a->y, a->x, a->stats, a->gamma, a->beta, a->zy, a->zb)
MOVED(avg_pool_time, a->y, a->x)
MOVED(strided_copy, a->y, a->x)
MOVED(blend, a->y, a->y, a->x)
MOVED(conv2d, a->y, a->x, a->w, a->b, a->slope, a->residual, a->outer)
MOVED(resize, a->y, a->x)
MOVED(warp, a->y, a->x, a->flow)
MOVED(sigmoid_mix, a->y, a->a, a->b, a->mask)
MOVED(pixel_shuffle, a->y, a->x, a->base)
MOVED(abs_max, a->x)
MOVED(row_change, a->y, a->a, a->b)

double cvx_moved_combine(const cvx_combine_args *a)
{
    return bytes(&a->y, 1) + bytes(a->x, (size_t)a->n);
}
