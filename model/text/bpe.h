/* Byte-level byte-pair encoding with "</w>" at the end of words: CLIP's
 * vocabulary and merges. */
#ifndef CVX_MODEL_TEXT_BPE_H
#define CVX_MODEL_TEXT_BPE_H

#include "base/json.h"
#include "model/text/text.h"

typedef struct cvx_bpe_token {
    const char *text; /* borrowed from `json` or `pool` */
    size_t len;
    int32_t id;
} cvx_bpe_token;

typedef struct cvx_bpe_merge {
    uint64_t pair; /* left id << 32 | right id */
    int32_t rank, id;
} cvx_bpe_merge;

typedef struct cvx_bpe {
    cvx_bpe_token *token; /* sorted by text */
    int64_t n, cap;
    cvx_bpe_merge *merge; /* sorted by pair */
    int64_t merges, merge_cap;
    int32_t byte_id[256], byte_end_id[256]; /* a byte inside and at the end of a
                                             word; -1: not there */
    int32_t unknown_id;
    json_t *json; /* owners of the texts */
    char *pool;
} cvx_bpe;

/* From vocab.json and merges.txt. CVX_EIO; CVX_EFORMAT naming file, line and
 * token. */
cvx_status cvx_bpe_open_files(cvx_bpe *out, const char *vocab_path,
                              const char *merges_path) CVX_CHECK;
/* From a tokenizer.json whose model is of type BPE. */
cvx_status cvx_bpe_open_json(cvx_bpe *out, const char *path) CVX_CHECK;
/* From OpenAI's bpe_simple_vocab_16e6.txt.gz (or the same text uncompressed):
 * 256 bytes, the same with
 * "</w>", the first 48894 merges, <|startoftext|>, <|endoftext|>. */
cvx_status cvx_bpe_open_openai(cvx_bpe *out, const char *path) CVX_CHECK;
/* A zeroed or closed one is accepted. */
void cvx_bpe_close(cvx_bpe *b);

/* Id of a token's text, -1 if there is none. */
int64_t cvx_bpe_find(const cvx_bpe *b, const char *text, size_t len);

/* Appends the ids of one word, given as its bytes: the pair of lowest rank is
 * merged first, among equals the leftmost. Bytes the vocabulary lacks give
 * unknown_id each. */
cvx_status cvx_bpe_encode(const cvx_bpe *b, const char *word, size_t len, cvx_ids *out) CVX_CHECK;

#endif
