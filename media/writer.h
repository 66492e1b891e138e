/* The inside of cvx_media_writer, shared by its kinds. Not for other folders. */
#ifndef CVX_MEDIA_WRITER_H
#define CVX_MEDIA_WRITER_H

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

#include "base/file.h"
#include "media/video.h"

/* One encoded video stream in one file. Zeroed by the owner; close accepts that. */
typedef struct cvx_av_out {
    const char *path; /* for messages, borrowed */
    AVFormatContext *format;
    AVCodecContext *encoder;
    AVStream *stream; /* borrowed from format */
    AVPacket *packet;
} cvx_av_out;

/* Allocates format and encoder with what all kinds need for the same bytes each time: one thread and
 * bit-exact output. The caller then sets fields and options of both. CVX_EUNSUPPORTED if libav
 * was built without the encoder. */
cvx_status cvx_av_out_alloc(cvx_av_out *o, const char *path, const char *format,
                            const char *encoder) CVX_CHECK;

/* Opens the encoder and the file `tmp` and writes the header. */
cvx_status cvx_av_out_begin(cvx_av_out *o, const char *tmp) CVX_CHECK;

/* Encodes a frame (its pts in the encoder's time base); NULL flushes. */
cvx_status cvx_av_out_frame(cvx_av_out *o, AVFrame *f) CVX_CHECK;

/* Flushes, writes the trailer and closes the file, reporting what writing went wrong until then. */
cvx_status cvx_av_out_end(cvx_av_out *o) CVX_CHECK;

void cvx_av_out_close(cvx_av_out *o);

typedef struct cvx_media_kind {
    const char *extension; /* ".mp4"; NULL for folders */
    cvx_status (*open)(cvx_media_writer *w);
    cvx_status (*frame)(cvx_media_writer *w, const uint8_t *rgb);
    cvx_status (*commit)(cvx_media_writer *w);
    void (*close)(cvx_media_writer *w); /* frees; removes what commit has not given its name */
} cvx_media_kind;

extern const cvx_media_kind cvx_media_mp4, cvx_media_webm, cvx_media_gif, cvx_media_folder;

struct cvx_media_writer {
    const cvx_media_kind *kind;
    char path[CVX_PATH_MAX]; /* without trailing slashes */
    cvx_media_writer_opts opts;
    cvx_fps fps;
    int64_t n;  /* frames so far */
    void *self; /* the kind's own, NULL until open has made it */
};

/* What a folder output would refuse: see cvx_media_writer_open. */
cvx_status cvx_media_folder_check(const char *path) CVX_CHECK;

#endif
