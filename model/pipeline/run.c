#include "model/pipeline/run.h"

#include <stdlib.h>

#include "kernels/memory.h"
#include "kernels/transfer.h"
#include "model/lora.h"

/* Room of the weights arenas: reserved, not used. Packed f32 weights of CogVideoX-5b are 22 GB. */
#define WEIGHTS_RESERVE ((size_t)1 << 38)

const char *const cvx_stage_names[CVX_STAGE_COUNT] = {"encode", "denoise", "decode", "finish"};

void cvx_run_close(cvx_pipeline *p, cvx_part_id id)
{
    cvx_part *x = &p->parts[id];

    switch (id) {
    case CVX_PART_T5: cvx_t5_close(x->model.t5); break;
    case CVX_PART_DIT: cvx_dit_close(x->model.dit); break;
    case CVX_PART_VAE: cvx_vae_close(x->model.vae); break;
    case CVX_PART_COUNT: break;
    }
    if (x->weights != NULL) {
        cvx_ctx_forget(p->ctx);
    }
    cvx_arena_close(&x->arena);
    cvx_weights_close(x->weights);
    *x = (cvx_part){0};
}

static cvx_status merge_loras(cvx_pipeline *p, cvx_part *x)
{
    for (int i = 0; p->opt.lora != NULL && i < p->opt.lora->n; i++) {
        CVX_RETURN_IF(cvx_lora_merge(x->weights, p->opt.lora->item[i]));
    }
    return CVX_OK;
}

/* Whether the transformer's linear weights are kept packed; the VAE's convolutions always are. */
static bool packs(const cvx_pipeline *p)
{
    return p->opt.pack && p->opt.offload != CVX_OFFLOAD_SEQUENTIAL;
}

cvx_status cvx_run_open(cvx_pipeline *p, cvx_part_id id)
{
    static const char *const names[CVX_PART_COUNT] = {"text_encoder", "transformer", "vae"};
    cvx_part *x = &p->parts[id];
    char dir[CVX_PATH_MAX];
    cvx_status st = CVX_OK;

    if (x->model.any != NULL) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_checkpoint_part(p->ckpt, dir, names[id]));
    CVX_TRY(st, cvx_weights_open(&x->weights, dir), done);
    CVX_TRY(st, cvx_ctx_arena(p->ctx, &x->arena, "weights", WEIGHTS_RESERVE), done);
    cvx_load load = {.ctx = p->ctx,
                     .arena = &x->arena,
                     .weights = x->weights,
                     .pack = packs(p),
                     .fp8 = id == CVX_PART_DIT && p->opt.fp8,
                     .sage = p->opt.sage,
                     .mesh = p->opt.mesh};
    if (id == CVX_PART_T5) {
        load.pack = false; /* read once or twice a job: packing would cost more than it gives */
        CVX_TRY(st, cvx_t5_open(&x->model.t5, &load, &p->ckpt->t5), done);
    } else if (id == CVX_PART_DIT) {
        CVX_TRY(st, merge_loras(p, x), done);
        CVX_TRY(st, cvx_dit_open(&x->model.dit, &load, &p->ckpt->dit), done);
    } else {
        CVX_TRY(st, cvx_vae_open(&x->model.vae, &load, &p->ckpt->vae), done);
    }
done:
    if (st != CVX_OK) {
        cvx_run_close(p, id);
    }
    return st;
}

void cvx_run_counters(const cvx_run *r, cvx_stage_cost *c, int sign)
{
    for (int i = 0; i < CVX_OP_COUNT; i++) {
        c->flops[i] += sign * r->p->ctx->stat[i].flops;
    }
    for (int i = 0; i < CVX_MESH_COMMS; i++) {
        for (int k = 0; k < CVX_COMM_KINDS; k++) {
            const cvx_comm_stat *now = &cvx_mesh_comm(r->p->opt.mesh, i)->stat[k];
            c->comm[i][k].calls += sign * now->calls;
            c->comm[i][k].bytes_sent += sign * now->bytes_sent;
            c->comm[i][k].seconds += sign * now->seconds;
        }
    }
}

cvx_status cvx_run_begin(cvx_run *r, cvx_stage s, int64_t total)
{
    r->cost[s] = (cvx_stage_cost){0};
    cvx_run_counters(r, &r->cost[s], -1);
    r->step.peak = r->step.used;
    cvx_ctx_range(r->p->ctx, cvx_stage_names[s]);
    return cvx_progress_begin(&r->progress, cvx_stage_names[s], total);
}

void cvx_run_end(cvx_run *r, cvx_stage s)
{
    cvx_stage_cost *c = &r->cost[s];

    cvx_run_counters(r, c, 1);
    for (int i = 0; i < CVX_PART_COUNT; i++) {
        const cvx_part *x = &r->p->parts[i];
        c->weights += x->arena.used;
        c->mapped += x->weights != NULL ? (size_t)cvx_weights_in_place(x->weights) : 0;
    }
    cvx_ctx_range(r->p->ctx, NULL);
    c->job = r->arena.used;
    c->step = r->step.peak;
    c->seconds = cvx_progress_end(&r->progress);
    cvx_arena_release(&r->step, r->step.used, true);
    r->step.peak = r->step.used;
}

void cvx_run_done_with(cvx_run *r, cvx_part_id id)
{
    /* the encoder's weights stay where they are mapped: to open it again for the next job costs next to nothing */
    if (id == CVX_PART_T5 || r->p->opt.offload != CVX_OFFLOAD_NONE) {
        cvx_run_close(r->p, id);
    }
}

bool cvx_run_leads(const cvx_run *r)
{
    return r->p->opt.mesh->replica->rank == 0;
}

cvx_status cvx_run_share(cvx_run *r, cvx_status st, const cvx_tensor *t)
{
    cvx_comm *c = r->p->opt.mesh->replica;

    CVX_RETURN_IF(cvx_comm_agree(c, st));
    return cvx_comm_broadcast(c, t->data, cvx_numel(t) * (int64_t)cvx_dtype_size(t->dtype), 0);
}

cvx_status cvx_run_draw(cvx_run *r, const cvx_tensor *t)
{
    int64_t n = cvx_numel(t);

    if (r->p->ctx->measure) {
        return CVX_OK;
    }
    float *f = malloc((size_t)n * sizeof *f);
    if (f == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for %lld values of noise", (long long)n);
    }
    cvx_rng_randn(&r->rng, f, r->job->dtype == CVX_BF16 ? CVX_RNG_BF16 : CVX_RNG_F32, n);
    cvx_upload(r->p->ctx, t, f);
    free(f);
    return CVX_OK;
}
