#include "media/av_source.h"

#include <stdio.h>
#include <string.h>

#include <libavutil/avstring.h>

#include "base/file.h"
#include "media/av_util.h"

/* Containers and pictures people mean by a video. Not among them: playlists, which name other files,
 * text drawn as pictures, and image sequences found by patterns in a file's name. */
static const char known_formats[] =
    "mov,matroska,avi,gif,apng,flv,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,obu,ogg,asf,nut,mxf,dv,"
    "yuv4mpegpipe,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,ppm_pipe,pgm_pipe,pbm_pipe,"
    "pam_pipe,qoi_pipe";

/* Decides by the content alone, before anything acts on it. */
static cvx_status probe(const cvx_av_source *s, const char *url, const AVInputFormat **format)
{
    AVIOContext *io = NULL;
    int err = avio_open(&io, url, AVIO_FLAG_READ);

    if (err >= 0) {
        err = av_probe_input_buffer2(io, format, NULL, NULL, 0, 0);
    }
    avio_closep(&io);
    if (err < 0) {
        return cvx_av_fail(CVX_EFORMAT, err, "cannot read", s->path);
    }
    if (av_match_list((*format)->name, known_formats, ',') == 0) {
        return cvx_fail(
            CVX_EFORMAT,
            "cannot read %s: neither a video nor a picture (its content looks like '%s')", s->path,
            (*format)->name);
    }
    return CVX_OK;
}

static cvx_status open_format(cvx_av_source *s)
{
    char url[CVX_PATH_MAX + 8];
    AVDictionary *opts = NULL;
    const AVInputFormat *format = NULL;

    if (snprintf(url, sizeof url, "file:%s", s->path) >= (int)sizeof url) {
        return cvx_fail(CVX_EINVAL, "path too long: %.200s...", s->path);
    }
    CVX_RETURN_IF(probe(s, url, &format));
    /* A MOV may name other files too. */
    if (av_dict_set(&opts, "protocol_whitelist", "file", 0) < 0) {
        return cvx_fail(CVX_ENOMEM, "%s: out of memory", s->path);
    }
    int err = avformat_open_input(&s->format, url, format, &opts);
    av_dict_free(&opts);
    if (err >= 0) {
        err = avformat_find_stream_info(s->format, NULL);
    }
    return err < 0 ? cvx_av_fail(CVX_EFORMAT, err, "cannot read", s->path) : CVX_OK;
}

static cvx_status check_size(const cvx_av_source *s, int w, int h)
{
    if (w < 1 || h < 1 || w > CVX_MEDIA_MAX_SIDE || h > CVX_MEDIA_MAX_SIDE) {
        return cvx_fail(CVX_EFORMAT, "%s: frames of %dx%d; sides go from 1 to %d", s->path, w, h,
                        CVX_MEDIA_MAX_SIDE);
    }
    return CVX_OK;
}

static cvx_status open_decoder(cvx_av_source *s)
{
    const AVCodec *codec = NULL;
    int index = av_find_best_stream(s->format, AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);

    if (index == AVERROR_DECODER_NOT_FOUND) {
        return cvx_fail(CVX_EUNSUPPORTED, "%s: libav has no decoder for its video", s->path);
    }
    if (index < 0) {
        return cvx_fail(CVX_EFORMAT, "%s has no video stream", s->path);
    }
    for (unsigned i = 0; i < s->format->nb_streams; i++) {
        s->format->streams[i]->discard = (int)i == index ? AVDISCARD_DEFAULT : AVDISCARD_ALL;
    }
    s->stream = s->format->streams[index];
    s->decoder = avcodec_alloc_context3(codec);
    s->packet = av_packet_alloc();
    s->frame = av_frame_alloc();
    if (s->decoder == NULL || s->packet == NULL || s->frame == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: out of memory", s->path);
    }
    int err = avcodec_parameters_to_context(s->decoder, s->stream->codecpar);
    if (err >= 0) {
        s->decoder->thread_count = 1;
        s->decoder->max_pixels = (int64_t)CVX_MEDIA_MAX_SIDE * CVX_MEDIA_MAX_SIDE;
        s->decoder->pkt_timebase = s->stream->time_base;
        err = avcodec_open2(s->decoder, codec, NULL);
    }
    if (err < 0) {
        return cvx_av_fail(CVX_EFORMAT, err, "cannot decode", s->path);
    }
    return check_size(s, s->decoder->width, s->decoder->height);
}

cvx_status cvx_av_source_open(cvx_av_source *s, const char *path)
{
    cvx_av_quiet();
    s->path = path;
    CVX_RETURN_IF(open_format(s));
    return open_decoder(s);
}

/* Reads until one packet of the stream is in the decoder, or the end is. */
static cvx_status feed(cvx_av_source *s)
{
    int err = av_read_frame(s->format, s->packet);

    if (err == AVERROR_EOF) {
        s->draining = true;
        err = avcodec_send_packet(s->decoder, NULL);
    } else if (err >= 0 && s->packet->stream_index != s->stream->index) {
        av_packet_unref(s->packet);
        return CVX_OK;
    } else if (err >= 0) {
        if (s->packet->flags & AV_PKT_FLAG_CORRUPT) {
            return cvx_fail(CVX_EFORMAT, "%s is damaged or cut short", s->path);
        }
        err = avcodec_send_packet(s->decoder, s->packet);
        av_packet_unref(s->packet);
    }
    return err < 0 ? cvx_av_fail(CVX_EFORMAT, err, "cannot decode", s->path) : CVX_OK;
}

cvx_status cvx_av_source_next(cvx_av_source *s, AVFrame **out)
{
    cvx_av_quiet();
    for (;;) {
        int err = avcodec_receive_frame(s->decoder, s->frame);
        if (err >= 0) {
            CVX_RETURN_IF(check_size(s, s->frame->width, s->frame->height));
            *out = s->frame;
            return CVX_OK;
        }
        if (err == AVERROR_EOF) {
            *out = NULL;
            return CVX_OK;
        }
        if (err != AVERROR(EAGAIN) || s->draining) {
            return cvx_av_fail(CVX_EFORMAT, err, "cannot decode", s->path);
        }
        CVX_RETURN_IF(feed(s));
    }
}

void cvx_av_source_close(cvx_av_source *s)
{
    av_frame_free(&s->frame);
    av_packet_free(&s->packet);
    avcodec_free_context(&s->decoder);
    avformat_close_input(&s->format);
}

int cvx_av_source_orientation(const cvx_av_source *s)
{
    size_t size = 0;
    const uint8_t *m = av_stream_get_side_data(s->stream, AV_PKT_DATA_DISPLAYMATRIX, &size);

    return cvx_av_orientation(size >= 9 * sizeof(int32_t) ? (const int32_t *)(const void *)m
                                                          : NULL);
}

/* A JPEG's or WebP's EXIF orientation: in the frame's metadata, else as its display matrix. */
static int picture_orientation(const AVFrame *f)
{
    const AVDictionaryEntry *e = av_dict_get(f->metadata, "Orientation", NULL, 0);
    const AVFrameSideData *side = av_frame_get_side_data(f, AV_FRAME_DATA_DISPLAYMATRIX);
    int n = 1;

    if (e != NULL && sscanf(e->value, "%d", &n) == 1) {
        return n;
    }
    return side != NULL ? cvx_av_orientation((const int32_t *)(const void *)side->data) : 1;
}

cvx_status cvx_av_image_read(cvx_image *out, const char *path)
{
    cvx_av_source s = {0};
    struct SwsContext *sws = NULL;
    AVFrame *f = NULL;
    cvx_image img = {0};
    cvx_status st;

    CVX_TRY(st, cvx_av_source_open(&s, path), done);
    s.decoder->max_pixels = CVX_MEDIA_MAX_PIXELS;
    CVX_TRY(st, cvx_av_source_next(&s, &f), done);
    if (f == NULL) {
        st = cvx_fail(CVX_EFORMAT, "%s holds no picture", path);
        goto done;
    }
    img = (cvx_image){f->width, f->height, malloc((size_t)f->width * (size_t)f->height * 3)};
    if (img.rgb == NULL) {
        st = cvx_fail(CVX_ENOMEM, "%s: no memory for %dx%d", path, f->width, f->height);
        goto done;
    }
    CVX_TRY(st, cvx_av_to_rgb(img.rgb, f, &sws, false, path), done);
    CVX_TRY(st, cvx_image_orient(&img, picture_orientation(f)), done);
    *out = img;
    img.rgb = NULL;
done:
    free(img.rgb);
    sws_freeContext(sws);
    cvx_av_source_close(&s);
    return st;
}
