/* What the tokenizers share: growable buffers, the rules for prompts, and
 * Unicode character classes. The classes, normal forms and grapheme boundaries
 * are ICU's. */
#ifndef CVX_MODEL_TEXT_TEXT_H
#define CVX_MODEL_TEXT_TEXT_H

#include "base/status.h"

/* Longest prompt, in bytes. */
#define CVX_PROMPT_MAX ((size_t)1 << 20)

/* Bytes that grow; zeroed is empty. `data` always has a NUL behind its last
 * byte once anything was appended, and is the owner's to free. */
typedef struct cvx_text {
    char *data;
    size_t len, cap;
} cvx_text;
cvx_status cvx_text_append(cvx_text *t, const char *bytes, size_t n) CVX_CHECK;

/* Token ids that grow; zeroed is empty. `data` is the owner's to free. */
typedef struct cvx_ids {
    int32_t *data;
    int64_t len, cap;
} cvx_ids;
cvx_status cvx_ids_push(cvx_ids *ids, int32_t id) CVX_CHECK;

/* Length in bytes of a prompt. CVX_EINVAL if it is longer than CVX_PROMPT_MAX,
 * or is not UTF-8 (no surrogates, no overlong forms): the message says at which
 * byte. */
cvx_status cvx_prompt_check(const char *text, size_t *len) CVX_CHECK;

/* The code point at text[*i] of valid UTF-8; *i moves behind it. */
int32_t cvx_next_char(const char *text, size_t len, size_t *i);

/* Property White_Space; general categories L and N. */
bool cvx_char_is_space(int32_t c);
bool cvx_char_is_letter(int32_t c);
bool cvx_char_is_number(int32_t c);

#endif
