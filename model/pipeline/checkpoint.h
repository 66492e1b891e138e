/* A CogVideoX checkpoint folder: the configs of its parts and what follows from them. The config keys
 * decide what it is, never its name. */
#ifndef CVX_MODEL_PIPELINE_CHECKPOINT_H
#define CVX_MODEL_PIPELINE_CHECKPOINT_H

#include "base/file.h"
#include "base/json.h"
#include "model/dit/dit.h"
#include "model/sched/sched.h"
#include "model/t5/t5.h"
#include "model/vae/vae.h"

typedef struct cvx_checkpoint {
    char dir[CVX_PATH_MAX];
    cvx_dit_config dit;
    cvx_t5_config t5;
    cvx_vae_config vae;
    cvx_sched_config sched;
    bool image_to_video; /* in_channels is twice out_channels */
    int64_t spatial;     /* pixels per latent: 8 */
    int64_t temporal;    /* frames per latent: 4 */
} cvx_checkpoint;

/* Reads model_index.json and the parts' configs; opens no weights. Errors name the missing file or the
 * wrong key. */
cvx_status cvx_checkpoint_open(cvx_checkpoint *out, const char *dir) CVX_CHECK;

/* "CogVideoX-1.5 image-to-video, 42 layers x 48 heads" into buf; returns buf. */
char *cvx_checkpoint_describe(const cvx_checkpoint *c, char *buf, size_t size);

/* Adds what tells checkpoints apart without reading their weights: the SHA-256 of every config, as "SHA-256 of
 * vae/config.json". */
cvx_status cvx_checkpoint_print(const cvx_checkpoint *c, json_t *out) CVX_CHECK;

/* "DIR/PART" ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"). */
cvx_status cvx_checkpoint_part(const cvx_checkpoint *c, char out[CVX_PATH_MAX],
                               const char *part) CVX_CHECK;

#endif
