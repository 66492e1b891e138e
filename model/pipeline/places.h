/* Where a request's files go: checked before the work, so that hours of it are never lost to a name. */
#ifndef CVX_MODEL_PIPELINE_PLACES_H
#define CVX_MODEL_PIPELINE_PLACES_H

#include "base/file.h"
#include "model/pipeline/request.h"

typedef struct cvx_places {
    char output[CVX_PATH_MAX];
    char manifest[CVX_PATH_MAX]; /* "": none is wanted */
    char latents[CVX_PATH_MAX];  /* likewise */
} cvx_places;

/* The places of video k: of several videos every name has "-k" (cvx_output_numbered). CVX_EINVAL: too long. */
cvx_status cvx_places_of(cvx_places *out, const cvx_request *r, int64_t k) CVX_CHECK;

/* Refuses what could not be written, for frames of w x h at this rate: a folder that is not there or not ours, a name that is too
 * long or of no known kind, a size or a rate that the kind lacks; and an output that would take the place of another one or of an
 * input. CVX_EIO, CVX_EINVAL. */
cvx_status cvx_places_check(const cvx_request *r, int64_t w, int64_t h, double fps) CVX_CHECK;

/* Removes what a killed run left half-written. For whoever alone writes there. */
void cvx_places_clean(const cvx_places *p);

#endif
