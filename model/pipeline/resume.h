/* Checkpoints of the denoising loop: what a run leaves in --checkpoint-dir, and how the next run of the same
 * job finds it. docs/checkpoints.md tells the user's side.
 *
 * Each video has its own files, "NAME-HASH.step-NNNNNN.cvxckpt" after its output's name and path, so that many
 * videos may share a folder. The two newest are kept. Only rank 0 of a video's ranks touches the folder. */
#ifndef CVX_MODEL_PIPELINE_RESUME_H
#define CVX_MODEL_PIPELINE_RESUME_H

#include "base/file.h"
#include "base/progress.h"
#include "kernels/ops.h"
#include "model/pipeline/job.h"
#include "model/pipeline/snapshot.h"

/* Steps between two checkpoints unless --checkpoint-every says otherwise. */
#define CVX_CHECKPOINT_EVERY 5

typedef struct cvx_resume {
    char dir[CVX_PATH_MAX]; /* "": nothing is written */
    char name[160];         /* what the file names begin with */
    int64_t every;
    json_t *job;     /* owned; on rank 0 of the replica only */
    cvx_snapshot at; /* where the loop starts (step 0: from the beginning); on the same rank only */
    bool decoding;   /* the loop is over: a failure is one of the decoder; on every rank */
    bool
        trial; /* set on every rank before a run: it ends after half of the steps, with a preview and `at` */
} cvx_resume;

/* Everything that decides the latents of video `video_index`, by the flags' names: two jobs with equal objects
 * have equal latents after every step, whatever their number of ranks and threads. What only decides
 * the frames made of them (tiles of the decoder, fps, output) is left out. hashes: cvx_manifest_hashes. New
 * reference in *out. */
cvx_status cvx_resume_describe(json_t **out, const cvx_ctx *ctx, const cvx_job *job,
                               int64_t video_index, const json_t *hashes) CVX_CHECK;

/* Makes the folder, removes what an interrupted write left, and reads the newest checkpoint of the job that
 * makes `output` into r->at, telling so in a note. One that is damaged is passed over with a note. One of
 * another job is CVX_EINVAL naming what differs. Takes over `job`, also on failure; dir NULL: nothing is
 * kept on disk. */
cvx_status cvx_resume_open(cvx_resume *r, const char *dir, int64_t every, const char *output,
                           json_t *job, cvx_progress *notes) CVX_CHECK;
/* Leaves the files. */
void cvx_resume_close(cvx_resume *r);

/* Whether a checkpoint is due after `done` of `steps` steps. */
bool cvx_resume_due(const cvx_resume *r, int64_t done, int64_t steps);

/* Writes a checkpoint (s->job is filled in here) and removes all but the two newest. What goes wrong is told in a
 * note: the work goes on. Returns whether it was written. */
bool cvx_resume_save(const cvx_resume *r, const cvx_snapshot *s, cvx_progress *notes);

/* The video is complete: removes its checkpoints. */
void cvx_resume_clear(const cvx_resume *r);

#endif
