/* LoRA files (peft's and diffusers' key names) merged into a checkpoint's weights when it is opened:
 * W' = W + scale · (alpha / rank) · B·A. alpha is the layer's tensor ".alpha", or what the adapter's settings
 * in the metadata (lora_adapter_metadata: alpha, patterns, rsLoRA) say, or the rank where the file has neither. */
#ifndef CVX_MODEL_LORA_H
#define CVX_MODEL_LORA_H

#include "base/file.h"
#include "model/weights.h"

/* Splits "FILE[:SCALE]"; the part after the last ':' is a scale only if it is a number. */
cvx_status cvx_lora_parse(const char *item, char path[CVX_PATH_MAX], double *scale) CVX_CHECK;

/* Merges one item into transformer weights as changes (cvx_weights_add_change), which are computed for the
 * part of a layer that a rank loads; the file stays mapped as long as w. Several calls add up. Every key of
 * the file must belong to a layer of `w`: a key that does not (another model's, a text encoder's) is
 * CVX_EFORMAT naming it, as are shapes that do not fit and settings that contradict the tensors; DoRA is
 * CVX_EUNSUPPORTED. After an error some layers may have their changes. */
cvx_status cvx_lora_merge(cvx_weights *w, const char *item) CVX_CHECK;

#endif
