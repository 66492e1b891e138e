#include "model/text/t5_tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/text/added.h"
#include "model/text/charsmap.h"
#include "model/text/spm_model.h"
#include "model/text/unigram.h"

#define UNKNOWN_ID 2 /* T5's own order: pad, eos, unknown */
#define EXTRA_IDS_MAX 10000
static const char mark[] = "\xe2\x96\x81"; /* U+2581, in front of each word */
#define MARK_LEN (sizeof mark - 1)

struct cvx_t5_tokenizer {
    cvx_spm_model model;
    cvx_charsmap charsmap;
    cvx_unigram unigram;
    cvx_added added;
    char (*extra)[32]; /* "<extra_id_N>", in the order of their ids */
    int64_t extra_ids, size;
    int32_t eos_id, pad_id;
};

static int64_t lookup(const void *vocab, const char *text, size_t len)
{
    const cvx_unigram_piece *p = cvx_unigram_find(vocab, text, len);
    return p == NULL ? -1 : p->id;
}

/* Pieces of the model, then the extra ids counting down: <extra_id_0> is the
 * last. */
static cvx_status build_vocabulary(cvx_t5_tokenizer *t)
{
    int64_t n = t->model.n + t->extra_ids;
    cvx_unigram_piece *p = calloc((size_t)n, sizeof *p);

    t->extra = calloc((size_t)t->extra_ids + 1, sizeof *t->extra);
    if (p == NULL || t->extra == NULL) {
        free(p);
        return cvx_fail(CVX_ENOMEM, "no memory for a vocabulary of %lld", (long long)n);
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t k = i - t->model.n;
        if (k < 0) {
            const cvx_spm_piece *s = &t->model.piece[i];
            p[i] = (cvx_unigram_piece){s->text, s->len, s->score, (int32_t)i};
        } else {
            snprintf(t->extra[k], sizeof *t->extra, "<extra_id_%lld>", (long long)(n - 1 - i));
            p[i] = (cvx_unigram_piece){t->extra[k], strlen(t->extra[k]), 0.0, (int32_t)i};
        }
    }
    cvx_status st = cvx_unigram_open(&t->unigram, p, n, UNKNOWN_ID);
    free(p);
    t->size = n;
    return st;
}

static cvx_status add_named(cvx_t5_tokenizer *t, const cvx_tokenizer_files *f, const char *key,
                            const char *name, int32_t *id)
{
    CVX_RETURN_IF(cvx_tokenizer_files_name(f, key, &name));
    int64_t found = lookup(&t->unigram, name, strlen(name));
    if (found < 0) {
        return cvx_fail(CVX_EFORMAT, "%s is \"%s\", which spiece.model does not have", key, name);
    }
    *id = (int32_t)found;
    return cvx_added_push(&t->added, name, strlen(name), (int32_t)found);
}

static cvx_status add_tokens(cvx_t5_tokenizer *t, const cvx_tokenizer_files *f)
{
    int32_t unknown;

    CVX_RETURN_IF(add_named(t, f, "eos_token", "</s>", &t->eos_id));
    CVX_RETURN_IF(add_named(t, f, "pad_token", "<pad>", &t->pad_id));
    CVX_RETURN_IF(add_named(t, f, "unk_token", "<unk>", &unknown));
    if (unknown != UNKNOWN_ID) {
        return cvx_fail(CVX_EFORMAT, "spiece.model: the unknown piece is number %d; in T5 it is 2",
                        unknown);
    }
    for (int64_t i = 0; i < t->model.n; i++) {
        const cvx_spm_piece *p = &t->model.piece[i];
        if (p->kind == CVX_SPM_CONTROL || p->kind == CVX_SPM_USER_DEFINED) {
            CVX_RETURN_IF(cvx_added_push(&t->added, p->text, p->len, (int32_t)i));
        }
    }
    for (int64_t k = 0; k < t->extra_ids; k++) {
        CVX_RETURN_IF(
            cvx_added_push(&t->added, t->extra[k], strlen(t->extra[k]), (int32_t)(t->model.n + k)));
    }
    return cvx_tokenizer_files_added(f, &t->added, lookup, &t->unigram, &t->size);
}

static cvx_status read_extra_ids(cvx_t5_tokenizer *t, const cvx_tokenizer_files *f)
{
    t->extra_ids = 100;
    if (f->config != NULL) {
        CVX_RETURN_IF(cvx_json_int(f->config, f->config_path, "extra_ids", &t->extra_ids));
    }
    if (t->extra_ids < 0 || t->extra_ids > EXTRA_IDS_MAX) {
        return cvx_fail(CVX_EFORMAT, "%s: extra_ids is %lld; 0 to %d are possible", f->config_path,
                        (long long)t->extra_ids, EXTRA_IDS_MAX);
    }
    return CVX_OK;
}

cvx_status cvx_t5_tokenizer_open(cvx_t5_tokenizer **out, const char *dir)
{
    char path[CVX_PATH_MAX];
    cvx_tokenizer_files files = {0};
    cvx_status st = CVX_OK;
    cvx_t5_tokenizer *t = calloc(1, sizeof *t);

    if (t == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for the tokenizer");
    }
    CVX_TRY(st, cvx_path_join(path, dir, "spiece.model"), done);
    CVX_TRY(st, cvx_spm_model_read(&t->model, path), done);
    if (t->model.charsmap_len > 0) {
        CVX_TRY(st, cvx_charsmap_open(&t->charsmap, t->model.charsmap, t->model.charsmap_len, path),
                done);
    }
    CVX_TRY(st, cvx_tokenizer_files_open(&files, dir), done);
    CVX_TRY(st, read_extra_ids(t, &files), done);
    CVX_TRY(st, build_vocabulary(t), done);
    st = add_tokens(t, &files);
    if (st != CVX_OK) {
        st = cvx_fail_prefix(st, "tokenizer folder %s", dir);
        goto done;
    }
    *out = t;
    t = NULL;
done:
    cvx_tokenizer_files_close(&files);
    cvx_t5_tokenizer_close(t);
    return st;
}

void cvx_t5_tokenizer_close(cvx_t5_tokenizer *tok)
{
    if (tok != NULL) {
        cvx_added_close(&tok->added);
        cvx_unigram_close(&tok->unigram);
        cvx_spm_model_close(&tok->model);
        free(tok->extra);
        free(tok);
    }
}

int64_t cvx_t5_tokenizer_size(const cvx_t5_tokenizer *tok)
{
    return tok->size;
}

void cvx_t5_tokens_clear(cvx_t5_tokens *t)
{
    free(t->cut);
    *t = (cvx_t5_tokens){0};
}

/* A word without white space: U+2581 goes in front if it does not begin with
 * one already, and each further U+2581 begins a word of its own. */
static cvx_status encode_word(const cvx_t5_tokenizer *t, const char *word, size_t len,
                              cvx_text *tmp, cvx_ids *out)
{
    tmp->len = 0;
    if (len < MARK_LEN || memcmp(word, mark, MARK_LEN) != 0) {
        CVX_RETURN_IF(cvx_text_append(tmp, mark, MARK_LEN));
    }
    CVX_RETURN_IF(cvx_text_append(tmp, word, len));
    for (size_t start = 0; start < tmp->len;) {
        const char *next =
            memmem(tmp->data + start + MARK_LEN, tmp->len - start - MARK_LEN, mark, MARK_LEN);
        size_t end = next == NULL ? tmp->len : (size_t)(next - tmp->data);
        CVX_RETURN_IF(cvx_unigram_encode(&t->unigram, tmp->data + start, end - start, out));
        start = end;
    }
    return CVX_OK;
}

/* A stretch of prompt without added tokens. */
static cvx_status encode_plain(const cvx_t5_tokenizer *t, const char *text, size_t len,
                               cvx_ids *out)
{
    cvx_text normal = {0}, word = {0};
    cvx_status st = CVX_OK;

    CVX_TRY(st, cvx_charsmap_apply(&t->charsmap, text, len, &normal), done);
    for (size_t i = 0, start = 0; start < normal.len; start = i) {
        size_t end = start;
        bool space = false;
        for (i = start; i < normal.len && !space; end = space ? end : i) {
            space = cvx_char_is_space(cvx_next_char(normal.data, normal.len, &i));
        }
        if (end > start) {
            CVX_TRY(st, encode_word(t, normal.data + start, end - start, &word, out), done);
        }
    }
done:
    free(normal.data);
    free(word.data);
    return st;
}

static cvx_status encode_all(const cvx_t5_tokenizer *t, const char *text, size_t len, cvx_ids *out)
{
    size_t from = 0, at = 0;
    const cvx_added_token *a;

    while ((a = cvx_added_next(&t->added, text, len, from, &at)) != NULL) {
        CVX_RETURN_IF(encode_plain(t, text + from, at - from, out));
        CVX_RETURN_IF(cvx_ids_push(out, a->id));
        from = at + a->len;
    }
    return encode_plain(t, text + from, len - from, out);
}

static cvx_status append_piece(const cvx_t5_tokenizer *t, int32_t id, cvx_text *out)
{
    if (id < t->model.n) {
        return cvx_text_append(out, t->model.piece[id].text, t->model.piece[id].len);
    }
    for (int64_t i = 0; i < t->added.n; i++) {
        if (t->added.item[i].id == id) {
            return cvx_text_append(out, t->added.item[i].text, t->added.item[i].len);
        }
    }
    return CVX_OK;
}

/* The text of ids: pieces in a row, U+2581 as a blank, none at the start. */
static cvx_status decode(const cvx_t5_tokenizer *t, const int32_t *ids, int64_t n, char **out)
{
    cvx_text raw = {0}, text = {0};
    cvx_status st = CVX_OK;

    CVX_TRY(st, cvx_text_append(&text, "", 0), done);
    for (int64_t i = 0; i < n; i++) {
        CVX_TRY(st, append_piece(t, ids[i], &raw), done);
    }
    for (size_t i = 0; i < raw.len;) {
        size_t start = i;
        (void)cvx_next_char(raw.data, raw.len, &i);
        if (i - start != MARK_LEN || memcmp(raw.data + start, mark, MARK_LEN) != 0) {
            CVX_TRY(st, cvx_text_append(&text, raw.data + start, i - start), done);
        } else if (text.len > 0) {
            CVX_TRY(st, cvx_text_append(&text, " ", 1), done);
        }
    }
    *out = text.data;
    text.data = NULL;
done:
    free(raw.data);
    free(text.data);
    return st;
}

cvx_status cvx_t5_tokenizer_encode(const cvx_t5_tokenizer *tok, const char *prompt,
                                   int64_t max_length, int32_t *ids, cvx_t5_tokens *out)
{
    cvx_ids all = {0};
    cvx_t5_tokens t = {0};
    cvx_status st = CVX_OK;
    size_t len;

    CVX_ASSERT(max_length >= 1);
    CVX_RETURN_IF(cvx_prompt_check(prompt, &len));
    CVX_TRY(st, encode_all(tok, prompt, len, &all), done);
    t.truncated = all.len > max_length - 1;
    int64_t kept = t.truncated ? max_length - 1 : all.len;
    if (t.truncated) {
        CVX_TRY(st, decode(tok, all.data + kept, all.len - kept, &t.cut), done);
    }
    if (kept > 0) {
        memcpy(ids, all.data, (size_t)kept * sizeof *ids);
    }
    ids[kept] = tok->eos_id;
    for (int64_t i = kept + 1; i < max_length; i++) {
        ids[i] = tok->pad_id;
    }
    t.n = kept + 1;
    *out = t;
done:
    free(all.data);
    return st;
}
