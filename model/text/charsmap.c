#include "model/text/charsmap.h"

#include <string.h>
#include <unicode/ubrk.h>
#include <unicode/utext.h>

/* A grapheme of at least this many bytes is looked up character by character.
 */
#define WHOLE_GRAPHEME_BYTES 6

static uint32_t read_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

cvx_status cvx_charsmap_open(cvx_charsmap *out, const unsigned char *bytes, size_t len,
                             const char *what)
{
    size_t trie = len >= 4 ? read_u32(bytes) : 0;

    if (len < 4 || trie % 4 != 0 || trie < 4 || trie > len - 4) {
        return cvx_fail(CVX_EFORMAT, "%s: the normalisation table of %zu bytes is damaged", what,
                        len);
    }
    cvx_charsmap m = {bytes + 4, trie / 4, (const char *)bytes + 4 + trie, len - 4 - trie};
    for (size_t i = 0; i < m.replacement_len;) {
        if (cvx_next_char(m.replacement, m.replacement_len, &i) < 0) {
            return cvx_fail(CVX_EFORMAT, "%s: byte %zu of the replacements is not UTF-8", what, i);
        }
    }
    *out = m;
    return CVX_OK;
}

/* Unit layout of the double array: bits 0-7 and 31 the label, bit 8 "a value
 * hangs here", bits 10-30 the offset to the children, times 256 if bit 9 is
 * set; a value unit has bits 0-30. */
static size_t child_offset(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6);
}

/* The replacement of the shortest known prefix of text[0, len); NULL if there
 * is none. The shortest and for the whole grapheme: so does the reference, and
 * so the ids come out the same. */
static const char *find(const cvx_charsmap *m, const char *text, size_t len, size_t *n)
{
    size_t pos = 0;
    uint32_t unit;

    if (m->units == 0) {
        return NULL;
    }
    pos ^= child_offset(read_u32(m->unit));
    for (size_t i = 0; i < len && text[i] != '\0'; i++) {
        pos ^= (unsigned char)text[i];
        if (pos >= m->units) {
            return NULL;
        }
        unit = read_u32(m->unit + 4 * pos);
        if ((unit & (1u << 31 | 0xff)) != (unsigned char)text[i]) {
            return NULL;
        }
        pos ^= child_offset(unit);
        if ((unit >> 8 & 1) != 0) {
            if (pos >= m->units) {
                return NULL;
            }
            size_t at = read_u32(m->unit + 4 * pos) & ~(1u << 31);
            if (at >= m->replacement_len) {
                return NULL;
            }
            *n = strnlen(m->replacement + at, m->replacement_len - at);
            return m->replacement + at;
        }
    }
    return NULL;
}

static cvx_status apply_grapheme(const cvx_charsmap *m, const char *g, size_t len, cvx_text *out)
{
    size_t n = 0;
    const char *r = len < WHOLE_GRAPHEME_BYTES ? find(m, g, len, &n) : NULL;

    if (r != NULL) {
        return cvx_text_append(out, r, n);
    }
    for (size_t i = 0; i < len;) {
        size_t start = i;
        (void)cvx_next_char(g, len, &i);
        r = find(m, g + start, i - start, &n);
        CVX_RETURN_IF(r != NULL ? cvx_text_append(out, r, n)
                                : cvx_text_append(out, g + start, i - start));
    }
    return CVX_OK;
}

cvx_status cvx_charsmap_apply(const cvx_charsmap *map, const char *text, size_t len, cvx_text *out)
{
    UErrorCode err = U_ZERO_ERROR;
    UText *ut = utext_openUTF8(NULL, text, (int64_t)len, &err);
    UBreakIterator *it = ubrk_open(UBRK_CHARACTER, "", NULL, 0, &err);
    cvx_status st = CVX_OK;

    if (U_SUCCESS(err)) {
        ubrk_setUText(it, ut, &err);
    }
    if (U_FAILURE(err)) {
        CVX_TRY(st, cvx_fail(CVX_EINTERNAL, "ICU: grapheme boundaries: %s", u_errorName(err)),
                done);
    }
    int32_t start = ubrk_first(it), end;
    while ((end = ubrk_next(it)) != UBRK_DONE) {
        CVX_TRY(st, apply_grapheme(map, text + start, (size_t)(end - start), out), done);
        start = end;
    }
done:
    ubrk_close(it);
    utext_close(ut);
    return st;
}
