#include "model/stages/command.h"

#define AT(f) offsetof(cvx_stages_request, f)

#define MACHINE                                                                                    \
    {"", 0, 0, NULL, "Machine", 0, 0, NULL},                                                       \
        {"threads", CVX_OPT_INT, AT(threads), "N", "CPU threads (default: all cores)",             \
         1,         1024,        NULL},                                                            \
        {"backend", CVX_OPT_CHOICE, AT(backend), NULL, "where to compute (default: auto)", 0,      \
         0,         "auto|ref|cpu"},                                                               \
        {"isa",                                                                                    \
         CVX_OPT_CHOICE,                                                                           \
         AT(isa),                                                                                  \
         NULL,                                                                                     \
         "highest CPU instruction set (default: auto)",                                            \
         0,                                                                                        \
         0,                                                                                        \
         "auto|" CVX_CPU_LEVELS},                                                                  \
        {"quiet", CVX_OPT_FLAG, AT(quiet), NULL, "no progress", 0, 0, NULL},                       \
        {"json", CVX_OPT_FLAG, AT(json), NULL, "one JSON event a line on stdout instead", 0,       \
         0,      NULL},                                                                            \
    {                                                                                              \
        NULL, 0, 0, NULL, NULL, 0, 0, NULL                                                         \
    }

const cvx_opt cvx_interpolate_opts[] = {
    {"model", CVX_OPT_STR, AT(model), "DIR", "RIFE model folder (default: the rife-v3.9 of cvx)", 0,
     0, NULL},
    {"factor", CVX_OPT_CHOICE, AT(factor), NULL,
     "frames made of each one (default: 2, without --fps)", 0, 0, "2|4|8"},
    {"fps", CVX_OPT_DOUBLE, AT(fps), "N", "frames a second of the output instead, any number", 0.01,
     1000, NULL},
    {"upscale", CVX_OPT_DOUBLE, AT(scale), "X",
     "and make the frames X times larger, as cvx upscale does", 1, 8, NULL},
    {"upscale-model", CVX_OPT_STR, AT(upscale_model), "DIR",
     "Real-ESRGAN model folder for it (default: the realesr-animevideov3 of cvx)", 0, 0, NULL},
    MACHINE,
};

const cvx_opt cvx_upscale_opts[] = {
    {"model", CVX_OPT_STR, AT(model), "DIR",
     "Real-ESRGAN model folder (default: the realesr-animevideov3 of cvx)", 0, 0, NULL},
    {"scale", CVX_OPT_DOUBLE, AT(scale), "X",
     "times larger, up to the model's 4 (default: the model's); less is made of its output", 1, 8,
     NULL},
    {"tile", CVX_OPT_INT, AT(tile), "PIXELS", "side of a tile (default: large, without seams)", 16,
     16384, NULL},
    {"tile-overlap", CVX_OPT_INT, AT(overlap), "PIXELS",
     "mix tiles over this many source pixels, as CogVideo's demo does (default: none is needed)", 1,
     8192, NULL},
    MACHINE,
};

const char cvx_interpolate_details[] =
    "IN is a video, a GIF, a picture or a folder of frames; OUT what `cvx generate --output` "
    "takes.\n\n--factor N makes N frames of each frame, the last one included, and N times the "
    "rate, by bisection; still frames and cuts are seen, as in CogVideo's demo. --fps places "
    "frames at any times between two others; the duration stays. A source without a rate counts "
    "as 8 frames a second; timestamps are not looked at, the mean rate is.";

const char cvx_upscale_details[] =
    "IN is a video, a GIF, a picture or a folder of frames; OUT what `cvx generate --output` "
    "takes. Any size goes: what is too large is cut into tiles that see beyond their edges, so "
    "that there are no seams.";

/* Folders of the two models, NULL for a stage that is not asked for; those that come with cvx are found into `place`. */
static cvx_status find_models(cvx_stages_options *o, const cvx_stages_request *r, bool interpolate,
                              char place[2][CVX_PATH_MAX])
{
    o->rife = interpolate ? r->model : NULL;
    o->esrgan = !interpolate ? r->model : r->scale > 0 ? r->upscale_model : NULL;
    if (interpolate && o->rife == NULL) {
        CVX_RETURN_IF(cvx_stages_find_model(place[0], "rife-v3.9"));
        o->rife = place[0];
    }
    if ((!interpolate || r->scale > 0) && o->esrgan == NULL) {
        CVX_RETURN_IF(cvx_stages_find_model(place[1], "realesr-animevideov3"));
        o->esrgan = place[1];
    }
    return CVX_OK;
}

static cvx_status fill_options(cvx_stages_options *o, const cvx_stages_request *r, bool interpolate,
                               char place[2][CVX_PATH_MAX])
{
    if (r->factor != NULL && r->fps > 0) {
        return cvx_fail(CVX_EINVAL, "--factor and --fps cannot be given together");
    }
    if (r->overlap > 0 && r->tile == 0) {
        return cvx_fail(CVX_EINVAL, "--tile-overlap needs --tile");
    }
    if (r->upscale_model != NULL && r->scale == 0) {
        return cvx_fail(CVX_EINVAL, "--upscale-model needs --upscale");
    }
    o->factor = r->factor != NULL ? r->factor[0] - '0' : r->fps > 0 ? 0 : 2;
    o->fps = r->fps;
    o->scale = r->scale;
    o->tile = r->tile;
    o->overlap = r->overlap;
    return find_models(o, r, interpolate, place);
}

cvx_status cvx_stages_command(const cvx_stages_request *r, bool interpolate, const char *in,
                              const char *out, cvx_comm *comm, FILE *events, FILE *report)
{
    char place[2][CVX_PATH_MAX];
    cvx_ctx *ctx = NULL;
    cvx_stages_job job = {.in = in,
                          .out = out,
                          .event = r->json    ? cvx_events_json
                                   : r->quiet ? cvx_events_quiet
                                              : cvx_events_bars,
                          .event_payload = events,
                          .report = r->quiet || r->json ? NULL : report};
    cvx_status st = fill_options(&job.stages, r, interpolate, place);

    if (st == CVX_OK) {
        st = cvx_ctx_open(&ctx, &(cvx_ctx_options){.backend = r->backend,
                                                   .isa = r->isa,
                                                   .threads = (int)r->threads});
    }
    st = cvx_comm_agree(comm, st);
    if (st == CVX_OK) {
        st = cvx_stages_file(&job, ctx, comm);
    }
    cvx_ctx_close(ctx);
    return st;
}
