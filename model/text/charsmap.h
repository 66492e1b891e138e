/* sentencepiece's compiled normalisation table (precompiled_charsmap), applied
 * as the tokenizers library applies it: grapheme by grapheme, not by the
 * longest match as sentencepiece itself does. */
#ifndef CVX_MODEL_TEXT_CHARSMAP_H
#define CVX_MODEL_TEXT_CHARSMAP_H

#include "model/text/text.h"

/* A double-array trie over UTF-8 bytes whose values are offsets of
 * NUL-terminated replacements. Borrowed from the model's bytes. Zeroed: nothing
 * is replaced. */
typedef struct cvx_charsmap {
    const unsigned char *unit; /* 4 bytes each, little endian */
    size_t units;
    const char *replacement;
    size_t replacement_len;
} cvx_charsmap;

/* CVX_EFORMAT if the sizes do not fit together or a replacement is not UTF-8.
 */
cvx_status cvx_charsmap_open(cvx_charsmap *out, const unsigned char *bytes, size_t len,
                             const char *what) CVX_CHECK;

/* Appends the normal form of text (valid UTF-8). CVX_ENOMEM, CVX_EINTERNAL
 * (ICU). */
cvx_status cvx_charsmap_apply(const cvx_charsmap *map, const char *text, size_t len,
                              cvx_text *out) CVX_CHECK;

#endif
