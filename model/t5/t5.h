/* T5 v1.1 encoder (transformers T5EncoderModel), of any size: gated gelu, relative position biases
 * shared by all layers, no attention mask (CogVideoX attends to the padding). */
#ifndef CVX_MODEL_T5_T5_H
#define CVX_MODEL_T5_T5_H

#include "model/linear.h"

typedef struct cvx_t5_config {
    int64_t d_model, d_ff, d_kv, num_heads, num_layers, vocab_size;
    int64_t relative_attention_num_buckets, relative_attention_max_distance;
    double layer_norm_epsilon;
} cvx_t5_config;

/* Reads DIR/config.json; CVX_EFORMAT / CVX_EUNSUPPORTED for what this encoder is not. */
cvx_status cvx_t5_config_load(cvx_t5_config *out, const char *dir) CVX_CHECK;

typedef struct cvx_t5 cvx_t5;

/* The tensors are borrowed from l->weights and l->arena, which must outlive the model. */
cvx_status cvx_t5_open(cvx_t5 **out, const cvx_load *l, const cvx_t5_config *cfg) CVX_CHECK;
/* Accepts NULL. */
void cvx_t5_close(cvx_t5 *t5);

/* Collective over the tensor dimension of the mesh it was opened with: every rank has its heads, its columns of the
 * hidden layer, and after two all-reduces of [n, d_model] a layer the whole stream.
 * ids: n host token ids, padding included. out [n, d_model] f32: the last hidden state after the final
 * norm. hidden (optional): callback after the embedding (i = 0) and after each layer (i = 1 ..
 * num_layers - 1), and once more with the final output (i = num_layers), as transformers'
 * output_hidden_states counts them. */
typedef void (*cvx_t5_tap)(void *payload, int64_t i, const cvx_tensor *x);
cvx_status cvx_t5_encode(cvx_t5 *t5, cvx_arena *step, const cvx_tensor *out, const int32_t *ids,
                         int64_t n, cvx_t5_tap hidden, void *payload) CVX_CHECK;

#endif
