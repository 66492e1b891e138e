/* A demuxer and decoder for the video stream of one local file. Not for other folders. */
#ifndef CVX_MEDIA_AV_SOURCE_H
#define CVX_MEDIA_AV_SOURCE_H

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

#include "base/status.h"
#include "media/video.h"

typedef struct cvx_av_source {
    const char *path; /* borrowed, for messages */
    AVFormatContext *format;
    AVStream *stream; /* borrowed from format */
    AVCodecContext *decoder;
    AVPacket *packet;
    AVFrame *frame;
    bool draining;
    int64_t frames; /* so far */
} cvx_av_source;

/* Zeroed by the caller. On failure close is still to be called. */
cvx_status cvx_av_source_open(cvx_av_source *s, const char *path) CVX_CHECK;

/* *out is the next decoded frame, borrowed until the next call, or NULL at the end. */
cvx_status cvx_av_source_next(cvx_av_source *s, AVFrame **out) CVX_CHECK;

void cvx_av_source_close(cvx_av_source *s);

/* Frames per second over the whole stream, 0/1 where nothing tells: what the header says, or the mean of all packets' times
 * where they say another thing (Matroska promises a constant rate, AVI counts frames that are left out, MP4 tells when
 * frames are decoded). Reads the file once more. */
cvx_fps cvx_av_source_rate(const cvx_av_source *s);

/* The stream's display matrix as an EXIF orientation. */
int cvx_av_source_orientation(const cvx_av_source *s);

#endif
