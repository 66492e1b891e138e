/* T5's tokenizer: a prompt's ids as transformers' T5Tokenizer (5.x, on the
 * tokenizers library) gives them, from a folder with spiece.model and,
 * optionally, tokenizer_config.json, special_tokens_map.json and
 * added_tokens.json.
 *
 * The steps: added tokens (</s>, <pad>, <unk>, <extra_id_N>) are cut out of the
 * raw text; what lies between is normalised, split at white space, and each
 * word, with U+2581 in front, goes through the unigram model. libsentencepiece
 * is not used for this: it knows no added tokens, normalises by longest match,
 * and adds scores in single precision, all of which give other ids for some
 * prompts. */
#ifndef CVX_MODEL_TEXT_T5_TOKENIZER_H
#define CVX_MODEL_TEXT_T5_TOKENIZER_H

#include "base/status.h"

typedef struct cvx_t5_tokenizer cvx_t5_tokenizer;

/* CVX_EIO (no spiece.model), CVX_EFORMAT (damaged, or the files contradict each
 * other), CVX_EUNSUPPORTED (not a unigram model). */
cvx_status cvx_t5_tokenizer_open(cvx_t5_tokenizer **out, const char *dir) CVX_CHECK;
/* Accepts NULL. */
void cvx_t5_tokenizer_close(cvx_t5_tokenizer *tok);

/* Number of ids, extra ids included: rows that the embedding must at least
 * have. */
int64_t cvx_t5_tokenizer_size(const cvx_t5_tokenizer *tok);

typedef struct cvx_t5_tokens {
    int64_t n;      /* ids that are not padding, the closing </s> included */
    bool truncated; /* the prompt had more */
    char *cut;      /* the text of the tokens left out, NULL if none; owned:
                     cvx_t5_tokens_clear */
} cvx_t5_tokens;
void cvx_t5_tokens_clear(cvx_t5_tokens *t);

/* prompt: UTF-8, at most CVX_PROMPT_MAX bytes. ids: caller's array of
 * max_length (at least 1): the tokens, cut to max_length - 1, then </s>, then
 * <pad> to the end. *out is set on success. CVX_EINVAL (not UTF-8: names the
 * byte; too long), CVX_ENOMEM. Thread-safe. */
cvx_status cvx_t5_tokenizer_encode(const cvx_t5_tokenizer *tok, const char *prompt,
                                   int64_t max_length, int32_t *ids, cvx_t5_tokens *out) CVX_CHECK;

#endif
