#include "model/stages/stream.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/stop.h"
#include "model/stages/queue.h"

/* One run on one rank. In a round every rank makes one unit: rank 0 reads a frame for each and one more, sends every
 * rank its two, and collects what they made in order. */
typedef struct run {
    const cvx_stream *st;
    cvx_stages *s;
    cvx_comm *c;
    cvx_queue *queue;
    size_t in_bytes, out_bytes; /* of a frame */
    uint8_t *in;                /* rank 0: size + 1 frames; else two */
    uint8_t *out;               /* a unit's frames */
    int64_t first;              /* unit of this round's rank 0 */
    int units;                  /* in this round */
    int have;                   /* frames that stand in `in` (rank 0) */
    bool ended;                 /* nothing is left to read (rank 0) */
    int64_t written;
} run;

static cvx_status alloc(run *r)
{
    const cvx_stages_input *in = cvx_stages_input_of(r->s);
    const cvx_stages_plan *p = cvx_stages_plan_of(r->s);
    int frames = r->c->rank == 0 ? r->c->size + 1 : 2;

    r->in_bytes = (size_t)(in->w * in->h * 3);
    r->out_bytes = (size_t)(p->w * p->h * 3);
    r->in = malloc(r->in_bytes * (size_t)frames);
    r->out = malloc(r->out_bytes * (size_t)cvx_stages_most_frames(r->s));
    if (r->in == NULL || r->out == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for frames of %lldx%lld", (long long)p->w,
                        (long long)p->h);
    }
    return r->c->rank != 0
               ? CVX_OK
               : cvx_queue_open(&r->queue, r->out_bytes, 2, r->st->write, r->st->write_payload);
}

/* Rank 0: fills up the frames of a round. The frame after the round's last one is kept for the next round. */
static cvx_status fill(run *r)
{
    while (!r->ended && r->have < r->c->size + 1) {
        bool got = false;
        CVX_RETURN_IF(
            r->st->read(r->st->read_payload, r->in + (size_t)r->have * r->in_bytes, &got));
        r->ended = !got;
        r->have += got;
    }
    CVX_RETURN_IF(cvx_fault("stage"));
    if (cvx_stop_asked()) {
        return r->st->resumes ? cvx_fail(CVX_EREQUEUE,
                                         "stopped by a signal: the same command does what is left")
                              : cvx_fail(CVX_ECANCELLED, "stopped by a signal");
    }
    r->units = r->have < r->c->size ? r->have : r->c->size;
    if (r->first == 0 && r->have == 0) {
        return cvx_fail(CVX_EFORMAT, "the input holds no frame");
    }
    return CVX_OK;
}

/* Frame k of the round and the one after it; the clip's last frame is its own. */
static const uint8_t *frame_of(const run *r, int k)
{
    return r->in + (size_t)(k < r->have ? k : r->have - 1) * r->in_bytes;
}

/* Rank 0 sends; the others receive both frames into `in`, *same telling a clip's last one. */
static cvx_status deal(run *r, bool *same)
{
    cvx_comm *c = r->c;
    int64_t n = (int64_t)r->in_bytes;
    uint8_t last = 0;

    for (int k = 1; c->rank == 0 && k < r->units; k++) {
        last = frame_of(r, k + 1) == frame_of(r, k);
        CVX_RETURN_IF(cvx_comm_sendrecv(c, frame_of(r, k), n, k, NULL, 0, -1));
        CVX_RETURN_IF(cvx_comm_sendrecv(c, frame_of(r, k + 1), n, k, NULL, 0, -1));
        CVX_RETURN_IF(cvx_comm_sendrecv(c, &last, 1, k, NULL, 0, -1));
    }
    if (c->rank > 0 && c->rank < r->units) {
        CVX_RETURN_IF(cvx_comm_sendrecv(c, NULL, 0, -1, r->in, n, 0));
        CVX_RETURN_IF(cvx_comm_sendrecv(c, NULL, 0, -1, r->in + n, n, 0));
        CVX_RETURN_IF(cvx_comm_sendrecv(c, NULL, 0, -1, &last, 1, 0));
    }
    *same = c->rank == 0 ? frame_of(r, 1) == frame_of(r, 0) : last != 0;
    return CVX_OK;
}

static cvx_status put(run *r, int64_t frames)
{
    for (int64_t i = 0; i < frames; i++) {
        CVX_RETURN_IF(cvx_queue_put(r->queue, r->out + (size_t)i * r->out_bytes));
    }
    r->written += frames;
    return CVX_OK;
}

/* Rank 0 writes its own frames, then takes the others' in order. A failed writer still takes them all, so that no rank
 * is left with its send. */
static cvx_status collect(run *r)
{
    cvx_comm *c = r->c;
    int64_t bytes = (int64_t)r->out_bytes;
    cvx_status st = CVX_OK;

    if (c->rank > 0) {
        int64_t n = cvx_stages_unit_frames(r->s, r->first + c->rank);
        return c->rank < r->units && n > 0 ? cvx_comm_sendrecv(c, r->out, n * bytes, 0, NULL, 0, -1)
                                           : CVX_OK;
    }
    for (int k = 0; k < r->units; k++) {
        int64_t n = cvx_stages_unit_frames(r->s, r->first + k);
        if (k > 0 && n > 0) {
            CVX_RETURN_IF(cvx_comm_sendrecv(c, NULL, 0, -1, r->out, n * bytes, k));
        }
        st = st == CVX_OK ? put(r, n) : st;
        if (st == CVX_OK) {
            st = cvx_progress_step(r->st->progress, r->first + k + 1);
        }
    }
    return st;
}

static cvx_status make_unit(run *r, bool same)
{
    int64_t i = r->first + r->c->rank;

    if (r->c->rank >= r->units || cvx_stages_unit_frames(r->s, i) == 0) {
        return CVX_OK;
    }
    return cvx_stages_unit(r->s, i, r->out, r->in, same ? r->in : r->in + r->in_bytes);
}

/* One round; *more tells whether there was anything to do. */
static cvx_status round_of(run *r, bool *more)
{
    bool same = false;
    cvx_status st = r->c->rank == 0 ? fill(r) : CVX_OK;

    CVX_RETURN_IF(cvx_comm_agree(r->c, st));
    CVX_RETURN_IF(cvx_comm_broadcast(r->c, &r->units, sizeof r->units, 0));
    *more = r->units > 0;
    if (!*more) {
        return CVX_OK;
    }
    CVX_RETURN_IF(deal(r, &same));
    CVX_RETURN_IF(cvx_comm_agree(r->c, make_unit(r, same)));
    CVX_RETURN_IF(cvx_comm_agree(r->c, collect(r)));
    if (r->c->rank == 0) {
        r->have -= r->units;
        memmove(r->in, r->in + (size_t)r->units * r->in_bytes, (size_t)r->have * r->in_bytes);
    }
    r->first += r->units;
    return CVX_OK;
}

cvx_status cvx_stream_run(const cvx_stream *stream, cvx_stages *s, cvx_comm *comm, int64_t *frames)
{
    run r = {.st = stream, .s = s, .c = comm};
    cvx_status st = cvx_comm_agree(comm, alloc(&r));

    for (bool more = true; st == CVX_OK && more;) {
        st = round_of(&r, &more);
    }
    cvx_status last = cvx_queue_close(r.queue);
    if (st == CVX_OK) {
        st = cvx_comm_agree(comm, last);
    }
    free(r.in);
    free(r.out);
    if (st == CVX_OK && frames != NULL) {
        *frames = r.written;
    }
    return st;
}

/* ---- files ------------------------------------------------------------------------------------ */

typedef struct file_job {
    const cvx_stages_job *job;
    cvx_media_reader *reader;
    cvx_media_writer *writer;
    cvx_progress progress;
    int64_t frames; /* of the input, as far as it tells */
    int64_t read;
} file_job;

static cvx_status read_frame(void *payload, uint8_t *rgb, bool *got)
{
    file_job *f = payload;

    CVX_RETURN_IF(cvx_media_reader_next(f->reader, rgb, got));
    f->read += *got;
    return CVX_OK;
}

static cvx_status write_frame(void *payload, const uint8_t *rgb)
{
    return cvx_media_writer_frame(((file_job *)payload)->writer, rgb);
}

/* A file that does not say how many frames it has is read once for that. */
static cvx_status count(int64_t *out, const char *path, const cvx_media_info *info)
{
    cvx_media_reader *r = NULL;
    uint8_t *rgb = malloc((size_t)(info->w * info->h * 3));
    bool got = true;
    cvx_status st;

    *out = info->frames;
    if (info->frames > 0) {
        free(rgb);
        return CVX_OK;
    }
    if (rgb == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory for a frame", path);
    }
    *out = 0;
    CVX_TRY(st, cvx_media_reader_open(&r, path), done);
    for (;;) {
        CVX_TRY(st, cvx_media_reader_next(r, rgb, &got), done);
        if (!got) {
            break;
        }
        ++*out;
    }
done:
    cvx_media_reader_close(r);
    free(rgb);
    return st;
}

/* Rank 0's part of the beginning. */
static cvx_status open_input(file_job *f, cvx_stages_input *in)
{
    const cvx_stages_job *j = f->job;

    if (cvx_same_file(j->in, j->out)) {
        return cvx_fail(CVX_EINVAL, "the input and the output are the same: %s", j->in);
    }
    CVX_RETURN_IF(cvx_media_reader_open(&f->reader, j->in));
    const cvx_media_info *info = cvx_media_reader_info(f->reader);
    *in = (cvx_stages_input){info->w, info->h, info->fps};
    return count(&f->frames, j->in, info);
}

static cvx_status open_output(file_job *f, const cvx_stages *s)
{
    const cvx_stages_plan *p = cvx_stages_plan_of(s);
    const cvx_media_info *in = cvx_media_reader_info(f->reader);

    return cvx_media_writer_open(
        &f->writer, f->job->out,
        &(cvx_media_writer_opts){
            .w = p->w, .h = p->h, .fps = p->fps, .sar_w = in->sar_w, .sar_h = in->sar_h});
}

static void tell(const file_job *f, const cvx_stages *s, int64_t frames)
{
    const cvx_stages_plan *p = cvx_stages_plan_of(s);

    if (f->job->report != NULL) {
        fprintf(f->job->report, "%s: %lld frames of %lldx%lld at %g fps\n", f->job->out,
                (long long)frames, (long long)p->w, (long long)p->h, p->fps);
    }
}

/* Timestamps are not looked at; where they say another thing than the mean rate, the user hears of it. And of pixels that
 * are not square in an output that has no other. */
static void tell_notes(file_job *f)
{
    const cvx_media_info *in = cvx_media_reader_info(f->reader);
    double shortest, longest;

    if (in->sar_w != in->sar_h && !cvx_media_writer_keeps_shape(f->job->out)) {
        cvx_progress_note(&f->progress,
                          "%s: its pixels are %lld:%lld, those of %s are square; a .mp4 or .webm "
                          "would keep the shape",
                          f->job->in, (long long)in->sar_w, (long long)in->sar_h, f->job->out);
    }
    if (cvx_media_reader_uneven(f->reader, &shortest, &longest)) {
        cvx_progress_note(&f->progress,
                          "%s: its frames last %.3g to %.3g s; all of them get the same time",
                          f->job->in, shortest, longest);
    }
}

static cvx_status run_file(file_job *f, cvx_stages *s, cvx_comm *comm)
{
    cvx_stream stream = {.read = read_frame,
                         .read_payload = f,
                         .write = write_frame,
                         .write_payload = f,
                         .progress = &f->progress};
    bool leads = comm->rank == 0;
    int64_t frames = 0;

    CVX_RETURN_IF(cvx_comm_agree(comm, leads ? open_output(f, s) : CVX_OK));
    f->progress =
        (cvx_progress){.fn = leads ? f->job->event : NULL, .payload = f->job->event_payload};
    const char *stage = f->job->stages.rife != NULL ? "interpolate" : "upscale";
    CVX_RETURN_IF(cvx_comm_agree(comm, cvx_progress_begin(&f->progress, stage, f->frames)));
    CVX_RETURN_IF(cvx_stream_run(&stream, s, comm, &frames));
    CVX_RETURN_IF(cvx_comm_agree(comm, leads ? cvx_media_writer_commit(&f->writer) : CVX_OK));
    f->progress.total = f->read; /* an index may name more frames than are shown */
    cvx_progress_end(&f->progress);
    if (leads) {
        tell_notes(f);
        tell(f, s, frames);
    }
    return CVX_OK;
}

cvx_status cvx_stages_file(const cvx_stages_job *job, cvx_ctx *ctx, cvx_comm *comm)
{
    file_job f = {.job = job};
    cvx_stages_input in = {0};
    cvx_stages *s = NULL;
    cvx_status st;

    CVX_TRY(st, cvx_comm_agree(comm, comm->rank == 0 ? open_input(&f, &in) : CVX_OK), done);
    CVX_TRY(st, cvx_comm_broadcast(comm, &in, sizeof in, 0), done);
    CVX_TRY(st, cvx_comm_agree(comm, cvx_stages_open(&s, ctx, &job->stages, &in)), done);
    st = run_file(&f, s, comm);
done:
    cvx_stages_close(s);
    cvx_media_writer_abort(f.writer);
    cvx_media_reader_close(f.reader);
    return st;
}
