#include "media/av_source.h"

#include <math.h>
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
    "pam_pipe,qoi_pipe,mjpeg";

/* A decoder has made up for missing data: what it gives is not the picture. A missing reference alone is none: streams may
 * begin amid a group of pictures. */
#define DAMAGED                                                                                    \
    (FF_DECODE_ERROR_INVALID_BITSTREAM | FF_DECODE_ERROR_CONCEALMENT_ACTIVE |                      \
     FF_DECODE_ERROR_DECODE_SLICES)

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

/* The best stream of moving pictures: a cover, which libav counts as video, is none. */
static int find_video(AVFormatContext *f, const AVCodec **codec)
{
    int index = av_find_best_stream(f, AVMEDIA_TYPE_VIDEO, -1, -1, codec, 0);

    if (index < 0 || (f->streams[index]->disposition & AV_DISPOSITION_ATTACHED_PIC) == 0) {
        return index;
    }
    for (int i = 0; i < (int)f->nb_streams; i++) {
        if (f->streams[i]->codecpar->codec_type == AVMEDIA_TYPE_VIDEO &&
            (f->streams[i]->disposition & AV_DISPOSITION_ATTACHED_PIC) == 0) {
            return av_find_best_stream(f, AVMEDIA_TYPE_VIDEO, i, -1, codec, 0);
        }
    }
    return AVERROR_STREAM_NOT_FOUND;
}

/* No frame was found from which the size could be known. */
static cvx_status no_size(const cvx_av_source *s)
{
    if (s->decoder->codec_id == AV_CODEC_ID_WEBP) {
        return cvx_fail(CVX_EUNSUPPORTED,
                        "cannot decode %s: of WebP libav reads still pictures alone", s->path);
    }
    return cvx_av_fail(CVX_EFORMAT, AVERROR_INVALIDDATA, "cannot decode", s->path);
}

static cvx_status open_decoder(cvx_av_source *s)
{
    const AVCodec *codec = NULL;
    int index = find_video(s->format, &codec);

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
    return s->decoder->width == 0 && s->decoder->height == 0
               ? no_size(s)
               : check_size(s, s->decoder->width, s->decoder->height);
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
    cvx_av_quiet();
    int err = av_read_frame(s->format, s->packet);

    if (err == AVERROR_EOF && cvx_av_demuxer_line() != NULL) { /* Matroska: its end is missing */
        return cvx_fail(CVX_EFORMAT, "%s is damaged or cut short (%s)", s->path,
                        cvx_av_demuxer_line());
    }
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
            if ((s->frame->decode_error_flags & DAMAGED) != 0) {
                return cvx_fail(CVX_EFORMAT,
                                "%s is damaged or cut short: frame %lld cannot be read as a whole",
                                s->path, (long long)s->frames);
            }
            s->frames++;
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

/* ---- the mean rate ----------------------------------------------------------------------------- */

/* What the packets of a stream say: how many have a time of their own, from when to when, in its time base. */
typedef struct times {
    int64_t n, first, last, end;
} times;

static void take_packet(times *t, const AVPacket *p)
{
    int64_t at = p->pts != AV_NOPTS_VALUE ? p->pts : p->dts;

    if (p->size == 0 || at == AV_NOPTS_VALUE || (t->n > 0 && at == t->last)) {
        return;
    }
    int64_t end = av_sat_add64(at, p->duration); /* a file may say any time */
    t->first = t->n == 0 || at < t->first ? at : t->first;
    t->end = t->n == 0 || end > t->end ? end : t->end;
    t->last = at;
    t->n++;
}

/* Reads all packets of the same stream of the same file; what cannot be read ends it. */
static times all_times(const cvx_av_source *s)
{
    cvx_av_source again = {.path = s->path};
    times t = {0};

    if (cvx_av_source_open(&again, s->path) == CVX_OK) {
        while (av_read_frame(again.format, again.packet) >= 0) {
            if (again.packet->stream_index == s->stream->index) {
                take_packet(&t, again.packet);
            }
            av_packet_unref(again.packet);
        }
    }
    cvx_av_source_close(&again);
    return t;
}

/* The rate of `q` unless the times say another: a frame of difference is the rounding of times. More packets than the rate
 * asks for may be pictures that are not shown. */
static AVRational checked_rate(const cvx_av_source *s, AVRational q)
{
    const int vague = AVFMT_TS_DISCONT | AVFMT_NOTIMESTAMPS; /* times that may begin anew; none */

    if ((s->format->iformat->flags & vague) != 0) {
        return q;
    }
    times t = all_times(s);
    double length = ((double)t.end - (double)t.first) * av_q2d(s->stream->time_base);
    double off = q.num > 0 && q.den > 0 ? (double)t.n - length * av_q2d(q) : INFINITY;
    bool hidden = off > 0 && s->stream->codecpar->codec_id == AV_CODEC_ID_VP8;
    if (t.n < 2 || length <= 0 || fabs(off) <= 1 + 0.01 * (double)t.n ||
        (hidden && isfinite(off))) {
        return q;
    }
    cvx_fps mean;
    return cvx_fps_from_double(&mean, (double)t.n / length) == CVX_OK
               ? (AVRational){(int)mean.num, (int)mean.den}
               : q;
}

cvx_fps cvx_av_source_rate(const cvx_av_source *s)
{
    AVStream *st = s->stream;
    AVRational q = st->avg_frame_rate;
    bool gif = strcmp(s->format->iformat->name, "gif") == 0;

    /* A GIF's delays differ from frame to frame: its rate is all frames over all delays. */
    if (gif && st->nb_frames > 0 && st->duration > 0) {
        av_reduce(&q.num, &q.den, st->nb_frames * st->time_base.den,
                  st->duration * st->time_base.num, INT32_MAX);
    } else if (q.num <= 0 || q.den <= 0) {
        q = av_guess_frame_rate(s->format, st, NULL);
    }
    if (!gif) {
        q = checked_rate(s, q);
    }
    return q.num > 0 && q.den > 0 ? (cvx_fps){q.num, q.den} : (cvx_fps){0, 1};
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
    if (s.decoder->codec_id == AV_CODEC_ID_TIFF && f->color_range == AVCOL_RANGE_UNSPECIFIED) {
        f->color_range = AVCOL_RANGE_JPEG; /* its YCbCr is a photograph's */
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
