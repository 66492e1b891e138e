/* CLIP's tokenizer: a caption's ids as transformers' CLIPTokenizer (5.x) gives
 * them.
 *
 * The steps: <|startoftext|> and <|endoftext|> are cut out of the raw text;
 * what lies between is brought to NFC and lower case, split into contractions,
 * runs of letters, single digits and runs of other characters, and each of
 * these goes through byte-level BPE. */
#ifndef CVX_MODEL_TEXT_CLIP_TOKENIZER_H
#define CVX_MODEL_TEXT_CLIP_TOKENIZER_H

#include "base/status.h"

typedef struct cvx_clip_tokenizer cvx_clip_tokenizer;

/* From a folder with vocab.json and merges.txt, or tokenizer.json, or OpenAI's
 * bpe_simple_vocab_16e6.txt.gz (looked for in this order). Names of the special
 * tokens come from tokenizer_config.json and special_tokens_map.json when they
 * are there. CVX_EIO (none of these files), CVX_EFORMAT, CVX_EUNSUPPORTED. */
cvx_status cvx_clip_tokenizer_open(cvx_clip_tokenizer **out, const char *dir) CVX_CHECK;
/* Accepts NULL. */
void cvx_clip_tokenizer_close(cvx_clip_tokenizer *tok);

/* Highest id + 1: rows that the embedding must at least have. */
int64_t cvx_clip_tokenizer_size(const cvx_clip_tokenizer *tok);

/* text: UTF-8, at most CVX_PROMPT_MAX bytes. ids: caller's array of max_length
 * (at least 2): start, the tokens cut to max_length - 2, end; no padding. *n:
 * how many there are. *truncated: whether some were left out. CVX_EINVAL (not
 * UTF-8: names the byte; too long), CVX_ENOMEM. Thread-safe. */
cvx_status cvx_clip_tokenizer_encode(const cvx_clip_tokenizer *tok, const char *text,
                                     int64_t max_length, int32_t *ids, int64_t *n,
                                     bool *truncated) CVX_CHECK;

#endif
