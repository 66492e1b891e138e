/* GIF: one palette made from all frames (palettegen), applied with error diffusion (paletteuse).
 *
 * The palette is known only after the last frame, so the filter graph holds the frames until then and
 * encoding happens at commit. */
#include "media/writer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavfilter/buffersrc.h>
#include <libavutil/opt.h>

#include "base/stop.h"
#include "media/av_util.h"

typedef struct gif {
    cvx_writer file;
    cvx_av_out out;
    AVFilterGraph *graph;
    AVFilterContext *source, *sink; /* borrowed from graph */
    AVFrame *frame;
} gif;

static void close_gif(cvx_media_writer *w)
{
    gif *g = w->self;

    cvx_av_out_close(&g->out);
    cvx_writer_abort(&g->file);
    avfilter_graph_free(&g->graph);
    av_frame_free(&g->frame);
    free(g);
    w->self = NULL;
}

/* The time of frame i in 1/100 s, to nearest. */
static int64_t centiseconds(const cvx_media_writer *w, int64_t i)
{
    return (200 * i * w->fps.den + w->fps.num) / (2 * w->fps.num);
}

static int parse_graph(gif *g, const cvx_media_writer *w)
{
    char args[128];
    AVFilterInOut *in = avfilter_inout_alloc(), *out = avfilter_inout_alloc();
    int err = AVERROR(ENOMEM);

    if (in == NULL || out == NULL) {
        goto done;
    }
    snprintf(args, sizeof args, "video_size=%lldx%lld:pix_fmt=%d:time_base=1/100:pixel_aspect=1/1",
             (long long)w->opts.w, (long long)w->opts.h, (int)AV_PIX_FMT_RGB24);
    err = avfilter_graph_create_filter(&g->source, avfilter_get_by_name("buffer"), "in", args, NULL,
                                       g->graph);
    if (err >= 0) {
        err = avfilter_graph_create_filter(&g->sink, avfilter_get_by_name("buffersink"), "out",
                                           NULL, NULL, g->graph);
    }
    if (err < 0) {
        goto done;
    }
    *out = (AVFilterInOut){av_strdup("in"), g->source, 0, NULL};
    *in = (AVFilterInOut){av_strdup("out"), g->sink, 0, NULL};
    if (out->name == NULL || in->name == NULL) {
        err = AVERROR(ENOMEM);
        goto done;
    }
    err = avfilter_graph_parse_ptr(g->graph,
                                   "[in]split[a][b];[a]palettegen[p];"
                                   "[b][p]paletteuse=dither=sierra2_4a:diff_mode=rectangle[out]",
                                   &in, &out, NULL);
    if (err >= 0) {
        err = avfilter_graph_config(g->graph, NULL);
    }
done:
    avfilter_inout_free(&in);
    avfilter_inout_free(&out);
    return err;
}

static cvx_status open_gif(cvx_media_writer *w)
{
    gif *g = calloc(1, sizeof *g);

    if (g == NULL) {
        return cvx_fail(CVX_ENOMEM, "output %s: out of memory", w->path);
    }
    w->self = g;
    CVX_RETURN_IF(cvx_av_out_alloc(&g->out, w->path, "gif", "gif"));
    g->graph = avfilter_graph_alloc();
    g->frame = av_frame_alloc();
    if (g->graph == NULL || g->frame == NULL) {
        return cvx_fail(CVX_ENOMEM, "output %s: out of memory", w->path);
    }
    g->graph->nb_threads = 1;
    int err = parse_graph(g, w);
    if (err < 0) {
        return cvx_av_fail(CVX_EUNSUPPORTED, err, "cannot set up the palette filters for", w->path);
    }
    return cvx_writer_open(&g->file, w->path);
}

static cvx_status push(cvx_media_writer *w, AVFrame *f)
{
    gif *g = w->self;
    int err = av_buffersrc_add_frame_flags(g->source, f, AV_BUFFERSRC_FLAG_PUSH);

    return err < 0 ? cvx_av_fail(CVX_EINTERNAL, err, "cannot filter a frame for", w->path) : CVX_OK;
}

static cvx_status frame_gif(cvx_media_writer *w, const uint8_t *rgb)
{
    gif *g = w->self;
    AVFrame *f = g->frame;
    size_t row = (size_t)w->opts.w * 3;

    cvx_av_quiet();
    f->format = AV_PIX_FMT_RGB24;
    f->width = (int)w->opts.w;
    f->height = (int)w->opts.h;
    if (av_frame_get_buffer(f, 0) < 0) {
        return cvx_fail(CVX_ENOMEM, "output %s: no memory for frame %lld", w->path,
                        (long long)w->n);
    }
    for (int64_t y = 0; y < w->opts.h; y++) {
        memcpy(f->data[0] + y * f->linesize[0], rgb + (size_t)y * row, row);
    }
    f->pts = centiseconds(w, w->n);
    cvx_status st = push(w, f); /* takes the buffer over */
    av_frame_unref(f);
    return st;
}

static cvx_status begin(cvx_media_writer *w)
{
    gif *g = w->self;
    int64_t last = centiseconds(w, w->n) - centiseconds(w, w->n - 1);

    g->out.encoder->width = (int)w->opts.w;
    g->out.encoder->height = (int)w->opts.h;
    g->out.encoder->pix_fmt = AV_PIX_FMT_PAL8;
    g->out.encoder->time_base = (AVRational){1, 100};
    int err = av_opt_set_int(g->out.format->priv_data, "final_delay", last, 0);
    if (err < 0) {
        return cvx_av_fail(CVX_EUNSUPPORTED, err, "cannot set the last delay of", w->path);
    }
    return cvx_av_out_begin(&g->out, g->file.tmp);
}

static cvx_status commit_gif(cvx_media_writer *w)
{
    gif *g = w->self;
    int err;

    cvx_av_quiet();
    CVX_RETURN_IF(begin(w));
    CVX_RETURN_IF(push(w, NULL));
    while ((err = av_buffersink_get_frame(g->sink, g->frame)) >= 0) {
        cvx_status st = cvx_av_out_frame(&g->out, g->frame);
        av_frame_unref(g->frame);
        CVX_RETURN_IF(st);
    }
    if (err != AVERROR_EOF) {
        return cvx_av_fail(CVX_EINTERNAL, err, "cannot make the palette for", w->path);
    }
    CVX_RETURN_IF(cvx_av_out_end(&g->out));
    return cvx_writer_commit(&g->file);
}

const cvx_media_kind cvx_media_gif = {".gif", open_gif, frame_gif, commit_gif, close_gif};

/* ---- cvx gif ---------------------------------------------------------------------------------- */

typedef struct conversion {
    cvx_media_reader *in;
    cvx_media_writer *out;
    const cvx_media_info *info;
    cvx_media_writer_opts opts;
    double step; /* source frames per output frame */
    uint8_t *src, *dst;
} conversion;

static cvx_status plan(conversion *c, const char *out, double fps, int64_t width)
{
    double source =
        c->info->fps.num > 0 ? (double)c->info->fps.num / (double)c->info->fps.den : 8.0;
    bool to_gif = cvx_has_extension(out, ".gif");

    c->opts.fps = fps > 0 ? fps : to_gif && source > 50 ? 50 : source;
    c->step = source / c->opts.fps;
    c->opts.w = width > 0 ? width : c->info->w;
    c->opts.h = cvx_media_shown_height(c->info, c->opts.w);
    CVX_RETURN_IF(cvx_media_writer_open(&c->out, out, &c->opts));
    c->src = malloc((size_t)(c->info->w * c->info->h * 3));
    c->dst = malloc((size_t)(c->opts.w * c->opts.h * 3));
    return c->src != NULL && c->dst != NULL ? CVX_OK
                                            : cvx_fail(CVX_ENOMEM, "no memory for a frame");
}

/* Output frame k shows what the source shows when k begins: source frame floor(k * step). The small
 * tolerance keeps rounding of the product from choosing the frame before. */
static cvx_status copy(conversion *c)
{
    int64_t written = 0;
    bool got = false;

    for (int64_t i = 0;; i++) {
        CVX_RETURN_IF(cvx_media_reader_next(c->in, c->src, &got));
        if (!got) {
            return CVX_OK;
        }
        if (cvx_stop_asked()) {
            return cvx_fail(CVX_ECANCELLED, "stopped by a signal");
        }
        bool resized = false;
        while ((double)written * c->step < (double)i + 1.0 - 1e-6) {
            if (!resized) {
                CVX_RETURN_IF(cvx_image_resize(c->dst, c->opts.w, c->opts.h, c->src, c->info->w,
                                               c->info->h, CVX_FILTER_LANCZOS));
                resized = true;
            }
            CVX_RETURN_IF(cvx_media_writer_frame(c->out, c->dst));
            written++;
        }
    }
}

cvx_status cvx_media_gif_convert(const char *in, const char *out, double fps, int64_t width)
{
    conversion c = {0};
    cvx_status st;

    if (width < 0 || width > CVX_MEDIA_MAX_SIDE) {
        return cvx_fail(CVX_EINVAL, "width %lld; it goes from 1 to %d, or 0 to keep the size",
                        (long long)width, CVX_MEDIA_MAX_SIDE);
    }
    if (!(fps == 0.0 || (fps >= 0.01 && fps <= 1000.0))) {
        return cvx_fail(CVX_EINVAL, "frame rate %g; it goes from 0.01 to 1000, or 0 to keep it",
                        fps);
    }
    if (cvx_same_file(in, out)) {
        return cvx_fail(CVX_EINVAL, "the input and the output are the same: %s", in);
    }
    CVX_TRY(st, cvx_media_reader_open(&c.in, in), done);
    c.info = cvx_media_reader_info(c.in);
    CVX_TRY(st, plan(&c, out, fps, width), done);
    CVX_TRY(st, copy(&c), done);
    CVX_TRY(st, cvx_media_writer_commit(&c.out), done);
done:
    cvx_media_writer_abort(c.out);
    cvx_media_reader_close(c.in);
    free(c.src);
    free(c.dst);
    return st;
}
