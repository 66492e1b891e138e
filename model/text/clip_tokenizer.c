#include "model/text/clip_tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <unicode/unorm2.h>
#include <unicode/ustring.h>
#include <unicode/utf16.h>
#include <unicode/utf8.h>

#include "base/file.h"
#include "model/text/added.h"
#include "model/text/bpe.h"

struct cvx_clip_tokenizer {
    cvx_bpe bpe;
    cvx_added added;
    int32_t bos_id, eos_id;
    int64_t size;
};

static int64_t lookup(const void *vocab, const char *text, size_t len)
{
    return cvx_bpe_find(vocab, text, len);
}

static cvx_status open_vocabulary(cvx_bpe *out, const char *dir)
{
    char vocab[CVX_PATH_MAX], merges[CVX_PATH_MAX], json[CVX_PATH_MAX], gz[CVX_PATH_MAX];

    CVX_RETURN_IF(cvx_path_join(vocab, dir, "vocab.json"));
    CVX_RETURN_IF(cvx_path_join(merges, dir, "merges.txt"));
    CVX_RETURN_IF(cvx_path_join(json, dir, "tokenizer.json"));
    CVX_RETURN_IF(cvx_path_join(gz, dir, "bpe_simple_vocab_16e6.txt.gz"));
    if (cvx_is_file(vocab) && cvx_is_file(merges)) {
        return cvx_bpe_open_files(out, vocab, merges);
    }
    if (cvx_is_file(json)) {
        return cvx_bpe_open_json(out, json);
    }
    if (cvx_is_file(gz)) {
        return cvx_bpe_open_openai(out, gz);
    }
    return cvx_fail(CVX_EIO,
                    "%s: no CLIP vocabulary: vocab.json with merges.txt, tokenizer.json or "
                    "bpe_simple_vocab_16e6.txt.gz is needed",
                    dir);
}

static cvx_status add_named(cvx_clip_tokenizer *t, const cvx_tokenizer_files *f, const char *key,
                            const char *name, int32_t *id)
{
    CVX_RETURN_IF(cvx_tokenizer_files_name(f, key, &name));
    int64_t found = cvx_bpe_find(&t->bpe, name, strlen(name));
    if (found < 0) {
        return cvx_fail(CVX_EFORMAT, "%s is \"%s\", which the vocabulary does not have", key, name);
    }
    *id = (int32_t)found;
    return cvx_added_push(&t->added, name, strlen(name), (int32_t)found);
}

static cvx_status add_tokens(cvx_clip_tokenizer *t, const cvx_tokenizer_files *f)
{
    int32_t pad;

    CVX_RETURN_IF(add_named(t, f, "bos_token", "<|startoftext|>", &t->bos_id));
    CVX_RETURN_IF(add_named(t, f, "eos_token", "<|endoftext|>", &t->eos_id));
    CVX_RETURN_IF(add_named(t, f, "unk_token", "<|endoftext|>", &t->bpe.unknown_id));
    CVX_RETURN_IF(add_named(t, f, "pad_token", "<|endoftext|>", &pad));
    for (int64_t i = 0; i < t->bpe.n; i++) {
        t->size = t->bpe.token[i].id >= t->size ? t->bpe.token[i].id + 1 : t->size;
    }
    return cvx_tokenizer_files_added(f, &t->added, lookup, &t->bpe, &t->size);
}

cvx_status cvx_clip_tokenizer_open(cvx_clip_tokenizer **out, const char *dir)
{
    cvx_tokenizer_files files = {0};
    cvx_status st = CVX_OK;
    cvx_clip_tokenizer *t = calloc(1, sizeof *t);

    if (t == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for the tokenizer");
    }
    CVX_TRY(st, open_vocabulary(&t->bpe, dir), done);
    CVX_TRY(st, cvx_tokenizer_files_open(&files, dir), done);
    st = add_tokens(t, &files);
    if (st != CVX_OK) {
        st = cvx_fail_prefix(st, "tokenizer folder %s", dir);
        goto done;
    }
    *out = t;
    t = NULL;
done:
    cvx_tokenizer_files_close(&files);
    cvx_clip_tokenizer_close(t);
    return st;
}

void cvx_clip_tokenizer_close(cvx_clip_tokenizer *tok)
{
    if (tok != NULL) {
        cvx_added_close(&tok->added);
        cvx_bpe_close(&tok->bpe);
        free(tok);
    }
}

int64_t cvx_clip_tokenizer_size(const cvx_clip_tokenizer *tok)
{
    return tok->size;
}

/* ---- normal form ---- */

/* UTF-16 of the text in NFC; *out owned by the caller, *n units. */
static cvx_status to_nfc(const char *text, size_t len, UChar **out, int32_t *n)
{
    UErrorCode err = U_ZERO_ERROR;
    const UNormalizer2 *nfc = unorm2_getNFCInstance(&err);
    int32_t cap = (int32_t)len + 1, room = 3 * cap; /* NFC has at most three times the units */
    UChar *raw = malloc((size_t)cap * sizeof *raw), *norm = malloc((size_t)room * sizeof *norm);
    int32_t got = 0;

    if (raw == NULL || norm == NULL) {
        free(raw);
        free(norm);
        return cvx_fail(CVX_ENOMEM, "no memory to normalise %zu bytes", len);
    }
    u_strFromUTF8(raw, cap, &got, text, (int32_t)len, &err);
    *n = unorm2_normalize(nfc, raw, got, norm, room, &err);
    free(raw);
    if (U_FAILURE(err)) {
        free(norm);
        return cvx_fail(CVX_EINTERNAL, "ICU: NFC of a prompt: %s", u_errorName(err));
    }
    *out = norm;
    return CVX_OK;
}

static cvx_status append_lower(UChar32 c, cvx_text *out)
{
    UErrorCode err = U_ZERO_ERROR;
    UChar in[2], low[8];
    int32_t units = 0, at = 0;
    char bytes[4];

    U16_APPEND_UNSAFE(in, units, c);
    /* one character at a time: no rule that looks at neighbours (the final sigma)
   * applies */
    int32_t n = u_strToLower(low, 8, in, units, "", &err);
    if (U_FAILURE(err)) {
        return cvx_fail(CVX_EINTERNAL, "ICU: lower case: %s", u_errorName(err));
    }
    while (at < n) {
        UChar32 l;
        int32_t k = 0;
        U16_NEXT(low, at, n, l);
        U8_APPEND_UNSAFE(bytes, k, l);
        CVX_RETURN_IF(cvx_text_append(out, bytes, (size_t)k));
    }
    return CVX_OK;
}

static cvx_status normalise(const char *text, size_t len, cvx_text *out)
{
    UChar *norm = NULL;
    int32_t n = 0, at = 0;
    cvx_status st = CVX_OK;

    CVX_RETURN_IF(to_nfc(text, len, &norm, &n));
    while (at < n) {
        UChar32 c;
        U16_NEXT(norm, at, n, c);
        CVX_TRY(st, append_lower(c, out), done);
    }
done:
    free(norm);
    return st;
}

/* ---- splitting ---- */

typedef enum char_class { SPACE, LETTER, NUMBER, OTHER } char_class;

static char_class class_of(int32_t c)
{
    return cvx_char_is_letter(c)   ? LETTER
           : cvx_char_is_number(c) ? NUMBER
           : cvx_char_is_space(c)  ? SPACE
                                   : OTHER;
}

/* Length of a fixed text that stands at the start of s and is a word of its
 * own, 0 if none does. */
static size_t fixed_word(const char *s, size_t len)
{
    static const char *const contractions[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};

    for (size_t i = 0; i < sizeof contractions / sizeof *contractions; i++) {
        size_t n = strlen(contractions[i]);
        if (n <= len && memcmp(s, contractions[i], n) == 0) {
            return n;
        }
    }
    return 0;
}

/* End of the run of characters of class k that begins at `at`. */
static size_t run_end(const char *s, size_t len, size_t at, char_class k)
{
    size_t end = at;

    for (size_t i = at; i < len && class_of(cvx_next_char(s, len, &i)) == k;) {
        end = i;
    }
    return end;
}

static cvx_status encode_plain(const cvx_clip_tokenizer *t, const char *text, size_t len,
                               cvx_ids *out)
{
    /* once lower-cased, these are cut out again and only then split as text: "<|"
   * "startoftext" "|>" */
    static const char *const specials[] = {"<|startoftext|>", "<|endoftext|>"};
    cvx_text norm = {0};
    cvx_status st = CVX_OK;
    size_t limit = 0; /* a special text being split ends here */

    CVX_TRY(st, normalise(text, len, &norm), done);
    for (size_t i = 0; i < norm.len;) {
        size_t start = i, end = limit > i ? limit : norm.len;
        for (size_t k = 0; k < 2 && limit <= i; k++) {
            size_t n = strlen(specials[k]);
            if (n <= norm.len - i && memcmp(norm.data + i, specials[k], n) == 0) {
                limit = end = i + n;
            }
        }
        size_t fixed = fixed_word(norm.data + i, end - i);
        char_class k = class_of(cvx_next_char(norm.data, end, &i));
        if (fixed > 0) {
            i = start + fixed;
        } else if (k == LETTER || k == OTHER) {
            i = run_end(norm.data, end, start, k);
        }
        if (k != SPACE) {
            CVX_TRY(st, cvx_bpe_encode(&t->bpe, norm.data + start, i - start, out), done);
        }
    }
done:
    free(norm.data);
    return st;
}

cvx_status cvx_clip_tokenizer_encode(const cvx_clip_tokenizer *tok, const char *text,
                                     int64_t max_length, int32_t *ids, int64_t *n, bool *truncated)
{
    cvx_ids all = {0};
    cvx_status st = CVX_OK;
    size_t len, from = 0, at = 0;
    const cvx_added_token *a;

    CVX_ASSERT(max_length >= 2);
    CVX_RETURN_IF(cvx_prompt_check(text, &len));
    while ((a = cvx_added_next(&tok->added, text, len, from, &at)) != NULL) {
        CVX_TRY(st, encode_plain(tok, text + from, at - from, &all), done);
        CVX_TRY(st, cvx_ids_push(&all, a->id), done);
        from = at + a->len;
    }
    CVX_TRY(st, encode_plain(tok, text + from, len - from, &all), done);
    int64_t kept = all.len > max_length - 2 ? max_length - 2 : all.len;
    ids[0] = tok->bos_id;
    if (kept > 0) {
        memcpy(ids + 1, all.data, (size_t)kept * sizeof *ids);
    }
    ids[kept + 1] = tok->eos_id;
    *n = kept + 2;
    *truncated = kept < all.len;
done:
    free(all.data);
    return st;
}
