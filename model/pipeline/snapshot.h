/* The state of a denoising loop between two steps, and its bytes on disk.
 *
 * A file is the eight bytes "CVXSNAP1" and then frames: a tag of four letters, the sizes of the content before
 * and after zlib (8 bytes each, little-endian), the CRC-32 of tag, sizes and compressed content (4 bytes), the
 * compressed content. Frames, in this order: HEAD (JSON: job, step, steps, latents' dims, sets, cached), RNGS, LATS, KEPT
 * (where sets > 0), and an empty STOP. docs/checkpoints.md has the same as a table. */
#ifndef CVX_MODEL_PIPELINE_SNAPSHOT_H
#define CVX_MODEL_PIPELINE_SNAPSHOT_H

#include "base/json.h"
#include "base/rng.h"

typedef struct cvx_snapshot {
    json_t *job;         /* what decides the values (cvx_resume_describe); owned */
    int64_t step, steps; /* steps done, and of how many; step 0: no snapshot */
    int64_t dim[4];      /* of the latents: F, C, h, w, padding included */
    float *latents;      /* owned */
    int64_t
        sets; /* of as many values, that the solver keeps (cvx_sched_kept): 0 after the last step */
    float *kept; /* [sets, values], NULL without; owned */
    int64_t
        cached; /* 0, or: with a first-block cache one more set, the latents of the last full step; its number, from 1 */
    cvx_rng rng;
} cvx_snapshot;

void cvx_snapshot_free(cvx_snapshot *s);

/* Values of the latents. */
int64_t cvx_snapshot_count(const cvx_snapshot *s);

/* The file's bytes. Caller frees *out. CVX_ENOMEM. */
cvx_status cvx_snapshot_pack(unsigned char **out, size_t *len, const cvx_snapshot *s) CVX_CHECK;

/* Reads such bytes; `what` names them in messages. CVX_EFORMAT if a byte was changed or is missing; *out is
 * then as it was. The caller frees *out by cvx_snapshot_free. */
cvx_status cvx_snapshot_parse(cvx_snapshot *out, const void *data, size_t len,
                              const char *what) CVX_CHECK;

#endif
