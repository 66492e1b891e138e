#include "model/text/text.h"

#include <stdlib.h>
#include <string.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

cvx_status cvx_text_append(cvx_text *t, const char *bytes, size_t n)
{
    if (t->cap - t->len < n + 1) {
        size_t cap = (t->len + n + 1) * 2;
        char *data = realloc(t->data, cap);
        if (data == NULL) {
            return cvx_fail(CVX_ENOMEM, "no memory for %zu bytes of text", cap);
        }
        t->data = data;
        t->cap = cap;
    }
    if (n > 0) {
        memcpy(t->data + t->len, bytes, n);
    }
    t->len += n;
    t->data[t->len] = '\0';
    return CVX_OK;
}

cvx_status cvx_ids_push(cvx_ids *ids, int32_t id)
{
    if (ids->len == ids->cap) {
        int64_t cap = ids->cap == 0 ? 128 : ids->cap * 2;
        int32_t *data = realloc(ids->data, (size_t)cap * sizeof *data);
        if (data == NULL) {
            return cvx_fail(CVX_ENOMEM, "no memory for %lld tokens", (long long)cap);
        }
        ids->data = data;
        ids->cap = cap;
    }
    ids->data[ids->len++] = id;
    return CVX_OK;
}

cvx_status cvx_prompt_check(const char *text, size_t *len)
{
    size_t n = strnlen(text, CVX_PROMPT_MAX + 1);

    if (n > CVX_PROMPT_MAX) {
        return cvx_fail(CVX_EINVAL, "the prompt is longer than %zu bytes", CVX_PROMPT_MAX);
    }
    for (size_t i = 0; i < n;) {
        size_t at = i;
        UChar32 c;
        U8_NEXT(text, i, n, c);
        if (c < 0) {
            return cvx_fail(CVX_EINVAL, "the prompt is not UTF-8: byte %zu is 0x%02x", at,
                            (unsigned char)text[at]);
        }
    }
    *len = n;
    return CVX_OK;
}

int32_t cvx_next_char(const char *text, size_t len, size_t *i)
{
    size_t at = *i;
    UChar32 c;

    U8_NEXT(text, at, len, c);
    *i = at;
    return c;
}

bool cvx_char_is_space(int32_t c)
{
    return u_isUWhiteSpace(c);
}

bool cvx_char_is_letter(int32_t c)
{
    return (U_GET_GC_MASK(c) & U_GC_L_MASK) != 0;
}

bool cvx_char_is_number(int32_t c)
{
    return (U_GET_GC_MASK(c) & U_GC_N_MASK) != 0;
}
