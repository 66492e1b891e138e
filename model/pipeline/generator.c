#include "model/pipeline/generator.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/memory.h"

cvx_status cvx_request_ctx(cvx_ctx **out, const cvx_request *r)
{
    CVX_RETURN_IF(cvx_ctx_open(
        out, &(cvx_ctx_options){.backend = r->backend,
                                .isa = r->isa,
                                .threads = (int)r->threads,
                                .compute = strcmp(r->dtype, "bf16") == 0 ? CVX_BF16 : CVX_F32}));
    if (strcmp(r->quantize, "fp8") == 0 && !cvx_ctx_has_device(*out)) {
        cvx_ctx_close(*out);
        *out = NULL;
        return cvx_fail(CVX_EUNSUPPORTED, "--quantize fp8 needs backend \"cuda\" and a Hopper GPU");
    }
    if (strcmp(r->attention, "sage") == 0 && !cvx_ctx_has_device(*out)) {
        cvx_ctx_close(*out);
        *out = NULL;
        return cvx_fail(CVX_EUNSUPPORTED,
                        "--attention sage needs backend \"cuda\" and a Hopper GPU");
    }
    return CVX_OK;
}

cvx_status cvx_generator_open(cvx_generator **out, const cvx_generator_options *opt)
{
    cvx_generator *g = calloc(1, sizeof *g);

    if (g == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a generator");
    }
    g->opt = *opt;
    g->progress = (cvx_progress){.fn = opt->event, .payload = opt->payload};
    *out = g;
    return CVX_OK;
}

cvx_ctx *cvx_generator_ctx(const cvx_generator *g)
{
    return g->ctx;
}

static void close_model(cvx_generator *g)
{
    cvx_pipeline_close(g->pipeline);
    cvx_ctx_close(g->ctx);
    json_decref(g->key);
    g->pipeline = NULL;
    g->ctx = NULL;
    g->key = NULL;
}

void cvx_generator_end_request(cvx_generator *g)
{
    json_decref(g->hashes);
    g->hashes = NULL;
}

void cvx_generator_close(cvx_generator *g)
{
    if (g != NULL) {
        cvx_generator_end_request(g);
        close_model(g);
        free(g);
    }
}

/* What decides which weights are open, and in which form. */
static json_t *model_key(const cvx_request *r)
{
    json_t *lora = json_array();

    for (int i = 0; i < r->lora.n; i++) {
        json_array_append_new(lora, json_string(r->lora.item[i]));
    }
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:o}", "model", r->model, "dtype",
                     r->dtype, "backend", r->backend, "isa", r->isa, "offload", r->offload,
                     "quantize", r->quantize, "attention", r->attention, "threads",
                     (json_int_t)r->threads, "lora", lora);
}

cvx_status cvx_generator_open_model(cvx_generator *g)
{
    json_t *key = model_key(g->request);

    if (g->key != NULL && json_equal(key, g->key)) {
        json_decref(key);
        return CVX_OK;
    }
    close_model(g);
    g->key = key;
    const json_t *lora = json_object_get(key, "lora");
    g->lora.n = (int)json_array_size(lora);
    for (int i = 0; i < g->lora.n; i++) {
        g->lora.item[i] = json_string_value(json_array_get(lora, (size_t)i));
    }
    CVX_RETURN_IF(cvx_checkpoint_open(&g->ckpt, g->request->model));
    return cvx_request_ctx(&g->ctx, g->request);
}

cvx_status cvx_generator_plan(cvx_generator *g, const cvx_job *job, cvx_plan *plan)
{
    bool keep_float = cvx_output_is_tensor(g->request->output);

    CVX_RETURN_IF(cvx_plan_make(plan, g->ctx, &g->ckpt, job, g->opt.mesh, keep_float));
    if (g->pipeline != NULL) {
        size_t held = plan->base_bytes > g->base_bytes ? plan->base_bytes - g->base_bytes : 0;
        plan->base_bytes -= held;
        plan->needed_bytes -= held;
        plan->peak_bytes -= held;
        plan->available_bytes += held;
        if (plan->options.pack == g->options.pack) {
            return CVX_OK;
        }
        cvx_pipeline_close(g->pipeline);
        g->pipeline = NULL;
        CVX_RETURN_IF(cvx_plan_make(plan, g->ctx, &g->ckpt, job, g->opt.mesh, keep_float));
    }
    g->base_bytes = plan->base_bytes;
    return CVX_OK;
}

cvx_status cvx_generator_open_pipeline(cvx_generator *g, const cvx_plan *plan)
{
    if (g->pipeline != NULL) {
        return CVX_OK;
    }
    char what[160]; /* said once the job is known to be sound, so that a refusal is one line */
    if (!g->request->quiet && strcmp(g->request->backend, "auto") == 0 && cvx_cuda_built() &&
        !cvx_cuda_usable(what)) {
        cvx_progress_note(&g->progress, "%s: computing on the CPU", what);
    }
    g->options = plan->options;
    g->options.lora = &g->lora;
    return cvx_pipeline_open(&g->pipeline, g->ctx, &g->ckpt, &g->options);
}
