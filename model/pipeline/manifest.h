/* The manifest beside an output: everything that decides its bytes, and what making it took. */
#ifndef CVX_MODEL_PIPELINE_MANIFEST_H
#define CVX_MODEL_PIPELINE_MANIFEST_H

#include "model/pipeline/plan.h"

/* SHA-256 of what the bytes depend on, by part: "transformer", "text_encoder", "vae", "lora0", "image" ...
 * New reference in *out. */
cvx_status cvx_manifest_hashes(json_t **out, const cvx_checkpoint *c,
                               const cvx_request *r) CVX_CHECK;

/* The manifest of one finished video; `path` is its output, `scores` may be NULL (borrowed). retiled: the job did
 * not ask for the tiles in which it was decoded. */
json_t *cvx_manifest_make(const cvx_ctx *ctx, const cvx_checkpoint *c, const cvx_job *job,
                          int64_t video_index, const char *path, const cvx_plan *plan,
                          const cvx_stage_cost *cost, const json_t *hashes, const json_t *scores,
                          bool retiled);

/* Whether the manifest `doc` is one of this video, made of the same files on the same backend: what may differ
 * are threads, offloading and where the output lies. */
bool cvx_manifest_matches(const json_t *doc, const cvx_ctx *ctx, const cvx_job *job,
                          const cvx_degrees *mesh, int64_t video_index, const json_t *hashes);

/* Writes it as JSON through a temporary. */
cvx_status cvx_manifest_write(const char *path, const json_t *manifest) CVX_CHECK;

/* Loads the manifest r->replay: *doc (new reference, must outlive *out), and in *out, which is initialised, the request in it.
 * What changes no byte, and model and output, are r's where r has them. */
cvx_status cvx_manifest_replay(json_t **doc, cvx_request *out, const cvx_request *r) CVX_CHECK;

/* CVX_EFORMAT naming the part whose hash differs from the manifest's. */
cvx_status cvx_manifest_verify(const json_t *doc, const json_t *hashes, const char *path) CVX_CHECK;

#endif
