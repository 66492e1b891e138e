/* MP4 and WebM, and the encoder-and-muxer half that GIF shares. */
#include "media/writer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libavutil/opt.h>

#include "media/av_util.h"

/* ---- one stream in one file ------------------------------------------------------------------- */

cvx_status cvx_av_out_alloc(cvx_av_out *o, const char *path, const char *format,
                            const char *encoder)
{
    const AVCodec *codec;

    cvx_av_quiet();
    o->path = path;
    codec = avcodec_find_encoder_by_name(encoder);
    if (codec == NULL) {
        return cvx_fail(CVX_EUNSUPPORTED, "output %s: libav was built without the encoder %s", path,
                        encoder);
    }
    if (avformat_alloc_output_context2(&o->format, NULL, format, NULL) < 0) {
        return cvx_fail(CVX_EUNSUPPORTED, "output %s: libav was built without the format %s", path,
                        format);
    }
    o->encoder = avcodec_alloc_context3(codec);
    o->packet = av_packet_alloc();
    o->stream = avformat_new_stream(o->format, NULL);
    if (o->encoder == NULL || o->packet == NULL || o->stream == NULL) {
        return cvx_fail(CVX_ENOMEM, "output %s: out of memory", path);
    }
    o->format->flags |= AVFMT_FLAG_BITEXACT;
    o->encoder->flags |= AV_CODEC_FLAG_BITEXACT;
    o->encoder->thread_count = 1; /* x264's result depends on the number of threads */
    if ((o->format->oformat->flags & AVFMT_GLOBALHEADER) != 0) {
        o->encoder->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    }
    return CVX_OK;
}

cvx_status cvx_av_out_begin(cvx_av_out *o, const char *tmp)
{
    char url[CVX_PATH_MAX + 8];
    int err = avcodec_open2(o->encoder, NULL, NULL);

    if (err < 0) {
        return cvx_av_fail(CVX_EUNSUPPORTED, err, "cannot open the encoder for", o->path);
    }
    err = avcodec_parameters_from_context(o->stream->codecpar, o->encoder);
    if (err < 0) {
        return cvx_av_fail(CVX_EINTERNAL, err, "cannot encode", o->path);
    }
    o->stream->time_base = o->encoder->time_base;
    o->stream->avg_frame_rate = o->encoder->framerate;
    o->stream->r_frame_rate = o->encoder->framerate;
    o->stream->sample_aspect_ratio = o->encoder->sample_aspect_ratio;
    snprintf(url, sizeof url, "file:%s", tmp);
    o->format->url = av_strdup(url); /* faststart opens it a second time */
    if (o->format->url == NULL) {
        return cvx_fail(CVX_ENOMEM, "output %s: out of memory", o->path);
    }
    err = avio_open(&o->format->pb, url, AVIO_FLAG_WRITE);
    if (err >= 0) {
        err = avformat_write_header(o->format, NULL);
    }
    return err < 0 ? cvx_av_fail(CVX_EIO, err, "cannot write", o->path) : CVX_OK;
}

cvx_status cvx_av_out_frame(cvx_av_out *o, AVFrame *f)
{
    int err;

    cvx_av_quiet();
    err = avcodec_send_frame(o->encoder, f);
    if (err < 0) {
        return cvx_av_fail(CVX_EINTERNAL, err, "cannot encode", o->path);
    }
    for (;;) {
        err = avcodec_receive_packet(o->encoder, o->packet);
        if (err == AVERROR(EAGAIN) || err == AVERROR_EOF) {
            return CVX_OK;
        }
        if (err < 0) {
            return cvx_av_fail(CVX_EINTERNAL, err, "cannot encode", o->path);
        }
        if (o->encoder->framerate.num > 0) { /* constant rate: the last frame counts in full too */
            o->packet->duration = 1;
        }
        av_packet_rescale_ts(o->packet, o->encoder->time_base, o->stream->time_base);
        o->packet->stream_index = o->stream->index;
        err = av_interleaved_write_frame(o->format, o->packet);
        if (err >= 0 && o->format->pb->error < 0) {
            err = o->format->pb->error;
        }
        if (err < 0) {
            return cvx_av_fail(CVX_EIO, err, "cannot write", o->path);
        }
    }
}

cvx_status cvx_av_out_end(cvx_av_out *o)
{
    CVX_RETURN_IF(cvx_av_out_frame(o, NULL));
    int err = av_write_trailer(o->format);
    if (err >= 0) {
        err = o->format->pb->error;
    }
    int err_close = avio_closep(&o->format->pb);
    err = err < 0 ? err : err_close;
    return err < 0 ? cvx_av_fail(CVX_EIO, err, "cannot write", o->path) : CVX_OK;
}

void cvx_av_out_close(cvx_av_out *o)
{
    if (o->format != NULL) {
        avio_closep(&o->format->pb);
    }
    avformat_free_context(o->format);
    avcodec_free_context(&o->encoder);
    av_packet_free(&o->packet);
}

/* ---- MP4 and WebM ----------------------------------------------------------------------------- */

typedef struct av_file {
    cvx_writer file;
    cvx_av_out out;
    AVFrame *frame;
    AVFrame *scratch;
    struct SwsContext *sws;
} av_file;

static void close_av(cvx_media_writer *w)
{
    av_file *a = w->self;

    cvx_av_out_close(&a->out);
    cvx_writer_abort(&a->file);
    av_frame_free(&a->frame);
    sws_freeContext(a->sws);
    av_frame_free(&a->scratch);
    free(a);
    w->self = NULL;
}

static cvx_status make_frame(av_file *a, const cvx_media_writer *w)
{
    AVCodecContext *e = a->out.encoder;

    a->frame = av_frame_alloc();
    if (a->frame == NULL) {
        return cvx_fail(CVX_ENOMEM, "output %s: out of memory", w->path);
    }
    a->frame->format = e->pix_fmt;
    a->frame->width = e->width;
    a->frame->height = e->height;
    a->frame->color_range = e->color_range;
    a->frame->colorspace = e->colorspace;
    if (av_frame_get_buffer(a->frame, 0) < 0) {
        return cvx_fail(CVX_ENOMEM, "output %s: no memory for a frame", w->path);
    }
    return cvx_av_scratch(&a->scratch, a->frame);
}

static void set_video(AVCodecContext *e, const cvx_media_writer *w)
{
    e->width = (int)(w->opts.w + w->opts.w % 2);
    e->height = (int)(w->opts.h + w->opts.h % 2);
    e->framerate = (AVRational){(int)w->fps.num, (int)w->fps.den};
    e->time_base = av_inv_q(e->framerate);
    e->pix_fmt = AV_PIX_FMT_YUV420P;
    e->sample_aspect_ratio = w->opts.sar_w > 0
                                 ? (AVRational){(int)w->opts.sar_w, (int)w->opts.sar_h}
                                 : (AVRational){1, 1};
    e->color_range = AVCOL_RANGE_MPEG;
    e->colorspace = AVCOL_SPC_BT709;
    e->color_primaries = AVCOL_PRI_BT709;
    e->color_trc = AVCOL_TRC_BT709;
    e->chroma_sample_location = AVCHROMA_LOC_LEFT;
}

/* A setting that libav does not take would change the bytes silently. */
static cvx_status set(const cvx_media_writer *w, void *priv, const char *key, const char *value)
{
    int err = av_opt_set(priv, key, value, 0);

    return err < 0 ? cvx_av_fail(CVX_EUNSUPPORTED, err, key, w->path) : CVX_OK;
}

static cvx_status set_metadata(const cvx_media_writer *w, const char *key, const char *value)
{
    av_file *a = w->self;

    if (value != NULL && av_dict_set(&a->out.format->metadata, key, value, 0) < 0) {
        return cvx_fail(CVX_ENOMEM, "output %s: out of memory", w->path);
    }
    return CVX_OK;
}

static cvx_status alloc_self(cvx_media_writer *w, const char *format, const char *encoder)
{
    av_file *a = calloc(1, sizeof *a);

    if (a == NULL) {
        return cvx_fail(CVX_ENOMEM, "output %s: out of memory", w->path);
    }
    w->self = a;
    return cvx_av_out_alloc(&a->out, w->path, format, encoder);
}

static cvx_status begin(cvx_media_writer *w, const char *default_crf)
{
    av_file *a = w->self;
    char crf[32];

    set_video(a->out.encoder, w);
    snprintf(crf, sizeof crf, "%g", w->opts.crf);
    CVX_RETURN_IF(set(w, a->out.encoder->priv_data, "crf", w->opts.crf > 0 ? crf : default_crf));
    CVX_RETURN_IF(set_metadata(w, "title", w->opts.title));
    CVX_RETURN_IF(set_metadata(w, "comment", w->opts.comment));
    CVX_RETURN_IF(make_frame(a, w));
    CVX_RETURN_IF(cvx_writer_open(&a->file, w->path));
    return cvx_av_out_begin(&a->out, a->file.tmp);
}

#define LARGE_PIXELS ((int64_t)1920 * 1200)

static cvx_status open_mp4(cvx_media_writer *w)
{
    if (w->opts.crf > 51) {
        return cvx_fail(CVX_EINVAL, "output %s: quality (crf) %g; for MP4 it goes from 0 to 51",
                        w->path, w->opts.crf);
    }
    CVX_RETURN_IF(alloc_self(w, "mp4", "libx264"));
    av_file *a = w->self;
    CVX_RETURN_IF(set(w, a->out.encoder->priv_data, "preset", "medium"));
    /* its vector code reads memory that nobody has written: other bytes in every long-lived process */
    CVX_RETURN_IF(set(w, a->out.encoder->priv_data, "mbtree", "0"));
    if (w->opts.w * w->opts.h >
        LARGE_PIXELS) { /* forty frames to look ahead would be most of the memory */
        CVX_RETURN_IF(set(w, a->out.encoder->priv_data, "rc-lookahead", "10"));
    }
    CVX_RETURN_IF(set(w, a->out.format->priv_data, "movflags", "+faststart"));
    return begin(w, "17");
}

static cvx_status open_webm(cvx_media_writer *w)
{
    CVX_RETURN_IF(alloc_self(w, "webm", "libvpx-vp9"));
    av_file *a = w->self;
    a->out.encoder->bit_rate = 0; /* constant quality */
    CVX_RETURN_IF(set(w, a->out.encoder->priv_data, "deadline", "good"));
    CVX_RETURN_IF(set(w, a->out.encoder->priv_data, "cpu-used", "2"));
    return begin(w, "24");
}

static cvx_status frame_av(cvx_media_writer *w, const uint8_t *rgb)
{
    av_file *a = w->self;

    /* The encoder may still hold the last one. */
    if (av_frame_make_writable(a->frame) < 0) {
        return cvx_fail(CVX_ENOMEM, "output %s: no memory for a frame", w->path);
    }
    CVX_RETURN_IF(cvx_av_from_rgb(a->frame, rgb, w->opts.w, w->opts.h, a->scratch, &a->sws));
    a->frame->pts = w->n;
    return cvx_av_out_frame(&a->out, a->frame);
}

static cvx_status commit_av(cvx_media_writer *w)
{
    av_file *a = w->self;

    CVX_RETURN_IF(cvx_av_out_end(&a->out));
    return cvx_writer_commit(&a->file);
}

const cvx_media_kind cvx_media_mp4 = {".mp4", open_mp4, frame_av, commit_av, close_av};
const cvx_media_kind cvx_media_webm = {".webm", open_webm, frame_av, commit_av, close_av};
