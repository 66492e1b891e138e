/* A demuxer and decoder for the video stream of one local file. Not for other folders. */
#ifndef CVX_MEDIA_AV_SOURCE_H
#define CVX_MEDIA_AV_SOURCE_H

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

#include "base/status.h"

typedef struct cvx_av_source {
    const char *path; /* borrowed, for messages */
    AVFormatContext *format;
    AVStream *stream; /* borrowed from format */
    AVCodecContext *decoder;
    AVPacket *packet;
    AVFrame *frame;
    bool draining;
} cvx_av_source;

/* Zeroed by the caller. On failure close is still to be called. */
cvx_status cvx_av_source_open(cvx_av_source *s, const char *path) CVX_CHECK;

/* *out is the next decoded frame, borrowed until the next call, or NULL at the end. */
cvx_status cvx_av_source_next(cvx_av_source *s, AVFrame **out) CVX_CHECK;

void cvx_av_source_close(cvx_av_source *s);

/* The stream's display matrix as an EXIF orientation. */
int cvx_av_source_orientation(const cvx_av_source *s);

#endif
