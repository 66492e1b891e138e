#include "model/pipeline/finish.h"

#include <string.h>

#include "model/stages/stream.h"

bool cvx_finish_wanted(const cvx_request *r)
{
    return r->interpolate > 0 || r->upscale > 0;
}

static cvx_status model_folder(char *out, bool wanted, const char *given, const char *shipped)
{
    out[0] = 0;
    if (!wanted) {
        return CVX_OK;
    }
    if (given == NULL) {
        return cvx_stages_find_model(out, shipped);
    }
    if (snprintf(out, CVX_PATH_MAX, "%s", given) >= CVX_PATH_MAX) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", given);
    }
    return CVX_OK;
}

cvx_status cvx_finish_models(const cvx_request *r, char *rife, char *esrgan)
{
    CVX_RETURN_IF(model_folder(rife, r->interpolate > 0, r->interpolate_model, "rife-v3.9"));
    return model_folder(esrgan, r->upscale > 0, r->upscale_model, "realesr-animevideov3");
}

static cvx_stages_options options_of(const cvx_request *r, const char *rife, const char *esrgan)
{
    return (cvx_stages_options){.rife = rife[0] != 0 ? rife : NULL,
                                .esrgan = esrgan[0] != 0 ? esrgan : NULL,
                                .factor = r->interpolate,
                                .scale = r->upscale};
}

/* The context of these stages: the same instruction set where ctx is the CPU's. */
static cvx_status open_ctx(cvx_ctx **out, const cvx_ctx *ctx)
{
    const char *name = ctx->ops->name;
    cvx_ctx_options o = {.backend = "cpu", .threads = ctx->threads, .compute = CVX_F32};

    if (strcmp(name, "ref") == 0) {
        o.backend = "ref";
    } else if (strncmp(name, "cpu-", 4) == 0) {
        o.isa = name + 4;
    }
    return cvx_ctx_open(out, &o);
}

static cvx_status input_of(cvx_stages_input *in, int64_t w, int64_t h, double fps)
{
    *in = (cvx_stages_input){.w = w, .h = h};
    return cvx_fps_from_double(&in->fps, fps);
}

cvx_status cvx_finish_measure(cvx_stages_plan *out, const cvx_ctx *ctx, const cvx_request *r,
                              int64_t w, int64_t h, double fps)
{
    char rife[CVX_PATH_MAX], esrgan[CVX_PATH_MAX];
    cvx_stages_input in;
    cvx_ctx *own = NULL;

    if (cvx_output_is_tensor(r->output)) {
        return cvx_fail(CVX_EINVAL,
                        "%s: --interpolate and --upscale make frames for a video; a .safetensors "
                        "file holds those of the model",
                        r->output);
    }
    CVX_RETURN_IF(cvx_finish_models(r, rife, esrgan));
    CVX_RETURN_IF(input_of(&in, w, h, fps));
    CVX_RETURN_IF(open_ctx(&own, ctx));
    const cvx_stages_options o = options_of(r, rife, esrgan);
    cvx_status st = cvx_stages_measure(out, own, &o, &in);
    cvx_ctx_close(own);
    return st;
}

/* The finished key frames as a source, a media writer as the end. */
typedef struct finish {
    const cvx_output *o;
    int64_t next;
    cvx_media_writer *writer;
} finish;

static cvx_status read_frame(void *payload, uint8_t *rgb, bool *got)
{
    finish *f = payload;
    size_t bytes = (size_t)(f->o->w * f->o->h * 3);

    *got = f->next < f->o->n;
    if (*got) {
        memcpy(rgb, f->o->rgb + (size_t)f->next++ * bytes, bytes);
    }
    return CVX_OK;
}

static cvx_status write_frame(void *payload, const uint8_t *rgb)
{
    return cvx_media_writer_frame(((finish *)payload)->writer, rgb);
}

static cvx_status run(finish *f, cvx_stages *s, const cvx_job *job, const char *path,
                      cvx_comm *comm, cvx_progress *progress, int64_t *frames)
{
    const cvx_stages_plan *p = cvx_stages_plan_of(s);
    cvx_media_writer_opts opts = {.w = p->w, .h = p->h, .fps = p->fps, .title = job->title};
    bool leads = comm->rank == 0;
    cvx_stream stream = {.read = read_frame,
                         .read_payload = f,
                         .write = write_frame,
                         .write_payload = f,
                         .progress = progress,
                         .resumes = job->request->checkpoint_dir != NULL};
    const char *stage = job->request->interpolate > 0 ? "interpolate" : "upscale";

    CVX_RETURN_IF(
        cvx_comm_agree(comm, leads ? cvx_media_writer_open(&f->writer, path, &opts) : CVX_OK));
    CVX_RETURN_IF(cvx_comm_agree(comm, leads ? cvx_progress_begin(progress, stage, job->out_frames)
                                             : CVX_OK));
    CVX_RETURN_IF(cvx_stream_run(&stream, s, comm, frames));
    CVX_RETURN_IF(cvx_comm_agree(comm, leads ? cvx_media_writer_commit(&f->writer) : CVX_OK));
    if (leads) {
        cvx_progress_end(progress);
    }
    return CVX_OK;
}

static cvx_status open_stages(cvx_stages **out, cvx_ctx **own, const cvx_ctx *ctx,
                              const cvx_job *job)
{
    char rife[CVX_PATH_MAX], esrgan[CVX_PATH_MAX];
    cvx_stages_input in;

    CVX_RETURN_IF(cvx_finish_models(job->request, rife, esrgan));
    CVX_RETURN_IF(input_of(&in, job->width, job->height, job->fps));
    CVX_RETURN_IF(open_ctx(own, ctx));
    const cvx_stages_options o = options_of(job->request, rife, esrgan);
    return cvx_stages_open(out, *own, &o, &in);
}

cvx_status cvx_finish_run(const cvx_ctx *ctx, const cvx_job *job, const cvx_output *o,
                          const char *path, cvx_comm *comm, cvx_progress *progress, int64_t *frames)
{
    finish f = {.o = o};
    cvx_stages *s = NULL;
    cvx_ctx *own = NULL;
    cvx_status st = cvx_comm_agree(comm, open_stages(&s, &own, ctx, job));

    if (st == CVX_OK) {
        st = run(&f, s, job, path, comm, progress, frames);
    }
    cvx_media_writer_abort(f.writer);
    cvx_stages_close(s);
    cvx_ctx_close(own);
    return st;
}
