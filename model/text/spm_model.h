/* spiece.model: a sentencepiece ModelProto (protobuf). Read here field by
 * field, because what T5's tokenizer needs of it is little, and
 * libsentencepiece does not give all of that away: the pieces with their scores
 * and kinds, and the compiled normalisation table. */
#ifndef CVX_MODEL_TEXT_SPM_MODEL_H
#define CVX_MODEL_TEXT_SPM_MODEL_H

#include "base/status.h"

typedef enum cvx_spm_kind {
    CVX_SPM_NORMAL = 1,
    CVX_SPM_UNKNOWN = 2,
    CVX_SPM_CONTROL = 3,
    CVX_SPM_USER_DEFINED = 4,
    CVX_SPM_UNUSED = 5,
    CVX_SPM_BYTE = 6,
} cvx_spm_kind;

typedef struct cvx_spm_piece {
    const char *text; /* borrowed from the model's bytes; no NUL behind it */
    size_t len;
    float score;
    int64_t kind; /* cvx_spm_kind */
} cvx_spm_piece;

typedef struct cvx_spm_model {
    char *bytes; /* the file */
    cvx_spm_piece *piece;
    int64_t n;
    const unsigned char *charsmap; /* borrowed from bytes; NULL if there is none */
    size_t charsmap_len;
} cvx_spm_model;

/* Reads a unigram model. CVX_EIO; CVX_EFORMAT for a file that is not one, is
 * cut short, has no pieces, an empty piece, a piece that is not UTF-8 or a
 * score that is not a finite number; CVX_EUNSUPPORTED for another kind of model
 * (BPE, word, char). */
cvx_status cvx_spm_model_read(cvx_spm_model *out, const char *path) CVX_CHECK;
/* A zeroed or closed one is accepted. */
void cvx_spm_model_close(cvx_spm_model *m);

/* The same from memory; `what` names it in messages. `bytes` stays the caller's
 * and must outlive *out (whose own `bytes` is NULL then). */
cvx_status cvx_spm_model_parse(cvx_spm_model *out, const char *bytes, size_t len,
                               const char *what) CVX_CHECK;

#endif
