/* The tokenizers against the ids that transformers gives: equal, all of them. */
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "golden.h"
#include "model/text/clip_tokenizer.h"
#include "model/text/t5_tokenizer.h"
#include "model/text/text.h"

#define T5_DIR CVX_SOURCE_DIR "/models/shapes/tokenizer"
#define CLIP_DIR CVX_SOURCE_DIR "/models/shapes-clip"

static void same_ids(const char *text, const int32_t *got, int64_t n, const json_t *want)
{
    if (n != (int64_t)json_array_size(want)) {
        fail_msg("\"%.60s\": %lld ids, transformers gives %zu", text, (long long)n,
                 json_array_size(want));
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t w = json_integer_value(json_array_get(want, (size_t)i));
        if (got[i] != w) {
            fail_msg("\"%.60s\": id %lld is %d, transformers gives %lld", text, (long long)i,
                     got[i], (long long)w);
        }
    }
}

/* t5-ids.json is a list; our reader wants an object around it. */
static json_t *load_list(const char *path)
{
    char *text = NULL;
    size_t len;
    cvx_text wrapped = {0};
    json_t *j = NULL;

    OK(cvx_file_read(&text, &len, path, 1 << 24));
    OK(cvx_text_append(&wrapped, "{\"cases\": ", 10));
    OK(cvx_text_append(&wrapped, text, len));
    OK(cvx_text_append(&wrapped, "}", 1));
    OK(cvx_json_parse(&j, wrapped.data, wrapped.len, path));
    free(text);
    free(wrapped.data);
    return j;
}

static void t5_ids(void **state)
{
    json_t *j = load_list(DATA "extra/t5-ids.json"), *c;
    cvx_t5_tokenizer *tok = NULL;
    int32_t ids[32];
    size_t i;

    (void)state;
    OK(cvx_t5_tokenizer_open(&tok, T5_DIR));
    assert_int_equal(cvx_t5_tokenizer_size(tok), 900);
    assert_true(json_array_size(json_object_get(j, "cases")) >= 12);
    json_array_foreach(json_object_get(j, "cases"), i, c)
    {
        const char *text = json_string_value(json_object_get(c, "text"));
        const json_t *raw = json_object_get(c, "raw_sentencepiece");
        bool special = strstr(text, "</s>") != NULL;
        cvx_t5_tokens t = {0};
        OK(cvx_t5_tokenizer_encode(tok, text, 32, ids, &t));
        same_ids(text, ids, 32, json_object_get(c, "ids_padded"));
        if (!special) { /* there sentencepiece, which knows no added tokens, has more */
            assert_int_equal(t.truncated, json_array_size(raw) > 31);
            assert_int_equal(t.n, t.truncated ? 32 : (int64_t)json_array_size(raw) + 1);
        }
        assert_int_equal(t.truncated, t.cut != NULL);
        cvx_t5_tokens_clear(&t);
    }
    cvx_t5_tokenizer_close(tok);
    json_decref(j);
}

static void t5_cut_text(void **state)
{
    cvx_t5_tokenizer *tok = NULL;
    cvx_t5_tokens t = {0};
    int32_t ids[4];

    (void)state;
    OK(cvx_t5_tokenizer_open(&tok, T5_DIR));
    /* "a red circle moving" is 3, 51, 24, 13 ("le"), ...: three stay, the rest is cut */
    OK(cvx_t5_tokenizer_encode(tok, "a red circle moving", 4, ids, &t));
    assert_int_equal(ids[3], 1);
    assert_int_equal(t.n, 4);
    assert_true(t.truncated);
    assert_string_equal(t.cut, "le moving");
    cvx_t5_tokens_clear(&t);
    OK(cvx_t5_tokenizer_encode(tok, "a red circle moving", 1, ids, &t));
    assert_int_equal(ids[0], 1);
    assert_string_equal(t.cut, "a red circle moving");
    cvx_t5_tokens_clear(&t);
    cvx_t5_tokenizer_close(tok);
}

static void bad_prompts(void **state)
{
    cvx_t5_tokenizer *tok = NULL;
    cvx_clip_tokenizer *clip = NULL;
    cvx_t5_tokens t = {0};
    int32_t ids[8];
    int64_t n;
    bool truncated;

    (void)state;
    OK(cvx_t5_tokenizer_open(&tok, T5_DIR));
    OK(cvx_clip_tokenizer_open(&clip, CLIP_DIR));
    assert_int_equal(cvx_t5_tokenizer_encode(tok,
                                             "ab\xff"
                                             "c",
                                             8, ids, &t),
                     CVX_EINVAL);
    assert_non_null(strstr(cvx_error(), "byte 2"));
    assert_non_null(strstr(cvx_error(), "UTF-8"));
    assert_int_equal(cvx_clip_tokenizer_encode(clip, "\xed\xa0\x80", 8, ids, &n, &truncated),
                     CVX_EINVAL); /* a surrogate */
    assert_int_equal(cvx_clip_tokenizer_encode(clip, "\xc0\xaf", 8, ids, &n, &truncated),
                     CVX_EINVAL);
    char *big = malloc(CVX_PROMPT_MAX + 2);
    assert_non_null(big);
    memset(big, 'x', CVX_PROMPT_MAX + 1);
    big[CVX_PROMPT_MAX + 1] = '\0';
    assert_int_equal(cvx_t5_tokenizer_encode(tok, big, 8, ids, &t), CVX_EINVAL);
    big[CVX_PROMPT_MAX] = '\0'; /* the longest that is taken, as one word */
    OK(cvx_t5_tokenizer_encode(tok, big, 8, ids, &t));
    assert_true(t.truncated);
    cvx_t5_tokens_clear(&t);
    OK(cvx_clip_tokenizer_encode(clip, big, 8, ids, &n, &truncated));
    assert_int_equal(n, 8);
    assert_true(truncated);
    free(big);
    cvx_t5_tokenizer_close(tok);
    cvx_clip_tokenizer_close(clip);
}

/* ---- broken folders ---- */

static char tmp[] = "/tmp/cvx-tokens-XXXXXX";

static int make_tmp(void **state)
{
    (void)state;
    return mkdtemp(tmp) == NULL;
}

static void path_of(char out[PATH_MAX], const char *name)
{
    snprintf(out, PATH_MAX, "%s/%s", tmp, name);
}

static void put(const char *name, const void *data, size_t len)
{
    char path[PATH_MAX];
    path_of(path, name);
    OK(cvx_file_write(path, data, len));
}

static void drop(const char *name)
{
    char path[PATH_MAX];
    path_of(path, name);
    unlink(path);
}

static int remove_tmp(void **state)
{
    static const char *const names[] = {
        "spiece.model",   "tokenizer_config.json",       "added_tokens.json",
        "vocab.json",     "special_tokens_map.json",     "merges.txt",
        "tokenizer.json", "bpe_simple_vocab_16e6.txt.gz"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        drop(names[i]);
    }
    return rmdir(tmp);
}

/* A folder that must be refused with this status and a message that holds these words. */
static void refused_t5(cvx_status want, const char *words)
{
    cvx_t5_tokenizer *tok = NULL;
    cvx_status st = cvx_t5_tokenizer_open(&tok, tmp);
    if (st != want || strstr(cvx_error(), words) == NULL) {
        fail_msg("status %d, \"%s\"; wanted %d, \"%s\"", st, st ? cvx_error() : "", want, words);
    }
    assert_null(tok);
}

static void refused_clip(cvx_status want, const char *words)
{
    cvx_clip_tokenizer *tok = NULL;
    cvx_status st = cvx_clip_tokenizer_open(&tok, tmp);
    if (st != want || strstr(cvx_error(), words) == NULL) {
        fail_msg("status %d, \"%s\"; wanted %d, \"%s\"", st, st ? cvx_error() : "", want, words);
    }
    assert_null(tok);
}

static void t5_broken_folders(void **state)
{
    char *model = NULL;
    size_t len;
    static const char other_id[] = "{\"<extra_id_0>\": 899, \"<extra_id_1>\": 5}";
    static const char plain[] = "{\"<extra_id_0>\": 899, \"<new>\": 900}";
    static const char word[] = "{\"added_tokens_decoder\": {\"900\": {\"content\": \"<w>\", "
                               "\"single_word\": true, \"normalized\": false}}}";
    static const char number[] = "{\"extra_ids\": -3}";
    static const char eos[] = "{\"eos_token\": {\"content\": \"<end>\"}}";
    cvx_t5_tokenizer *tok = NULL;
    cvx_t5_tokens t = {0};
    int32_t ids[4];

    (void)state;
    OK(cvx_file_read(&model, &len, T5_DIR "/spiece.model", 1 << 24));
    refused_t5(CVX_EIO, "spiece.model");
    put("spiece.model", "not protobuf", 12);
    refused_t5(CVX_EFORMAT, "not a sentencepiece model");
    put("spiece.model", "", 0);
    refused_t5(CVX_EFORMAT, "not a sentencepiece model");
    put("spiece.model", model, len / 2);
    refused_t5(CVX_EFORMAT, "cut short");
    put("spiece.model", model, len);
    put("tokenizer_config.json", number, sizeof number - 1);
    refused_t5(CVX_EFORMAT, "extra_ids");
    put("tokenizer_config.json", eos, sizeof eos - 1);
    refused_t5(CVX_EFORMAT, "<end>");
    put("tokenizer_config.json", word, sizeof word - 1);
    refused_t5(CVX_EUNSUPPORTED, "single_word");
    drop("tokenizer_config.json");
    put("added_tokens.json", other_id, sizeof other_id - 1);
    refused_t5(CVX_EFORMAT, "<extra_id_1>");
    put("added_tokens.json", plain, sizeof plain - 1);
    OK(cvx_t5_tokenizer_open(&tok, tmp));
    OK(cvx_t5_tokenizer_encode(tok, "a<new><extra_id_0>", 4, ids, &t));
    assert_int_equal(ids[0], 3);
    assert_int_equal(ids[1], 900);
    assert_int_equal(ids[2], 899);
    assert_int_equal(ids[3], 1);
    assert_false(t.truncated);
    cvx_t5_tokenizer_close(tok);
    drop("added_tokens.json");
    free(model);
}

static void clip_broken_folders(void **state)
{
    static const char vocab[] = "{\"a\": 0, \"b</w>\": 1, \"ab</w>\": 2, \"<|startoftext|>\": 3, "
                                "\"<|endoftext|>\": 4}";
    static const char text_id[] = "{\"a\": \"x\"}";
    static const char no_end[] = "{\"a\": 0, \"<|startoftext|>\": 3}";
    static const char one[] = "#version: 0.2\na b</w>\nab\n";
    static const char unknown[] = "#version: 0.2\na c</w>\n";
    static const char good[] = "#version: 0.2\na b</w>\n";
    cvx_clip_tokenizer *tok = NULL;
    int32_t ids[8];
    int64_t n;
    bool truncated;

    (void)state;
    refused_clip(CVX_EIO, "no CLIP vocabulary");
    put("vocab.json", vocab, sizeof vocab - 1);
    refused_clip(CVX_EIO, "merges.txt"); /* alone it is not enough */
    put("merges.txt", one, sizeof one - 1);
    refused_clip(CVX_EFORMAT, "merge 3");
    put("merges.txt", unknown, sizeof unknown - 1);
    refused_clip(CVX_EFORMAT, "vocabulary lacks");
    put("merges.txt", good, sizeof good - 1);
    put("vocab.json", text_id, sizeof text_id - 1);
    refused_clip(CVX_EFORMAT, "whole number");
    put("vocab.json", "[1", 2);
    refused_clip(CVX_EFORMAT, "not JSON");
    put("vocab.json", no_end, sizeof no_end - 1);
    put("merges.txt", "", 0);
    refused_clip(CVX_EFORMAT, "<|endoftext|>");
    put("vocab.json", vocab, sizeof vocab - 1);
    put("merges.txt", good, sizeof good - 1);
    OK(cvx_clip_tokenizer_open(&tok, tmp));
    OK(cvx_clip_tokenizer_encode(tok, "AB a", 8, ids, &n, &truncated));
    assert_int_equal(n, 4);
    assert_int_equal(ids[1], 2);
    assert_int_equal(ids[2], 4); /* "a</w>" is not in the vocabulary: unknown */
    cvx_clip_tokenizer_close(tok);
    drop("vocab.json");
    drop("merges.txt");
    put("bpe_simple_vocab_16e6.txt.gz", good, sizeof good - 1);
    refused_clip(CVX_EFORMAT, "1 merges");
    put("bpe_simple_vocab_16e6.txt.gz", "\x1f\x8b\x08\x00", 4);
    refused_clip(CVX_EFORMAT, "bpe_simple_vocab");
    drop("bpe_simple_vocab_16e6.txt.gz");
}

/* ---- CLIP ids ---- */

static void clip_shapes_ids(void **state)
{
    cvx_weights *w = NULL;
    cvx_clip_tokenizer *tok = NULL, *whole = NULL;
    json_t *caps = NULL;
    char list[2048], name[32];
    char *json = NULL;
    size_t len;

    (void)state;
    OK(cvx_weights_open(&w, DATA "shapes-goldens/clip.safetensors"));
    snprintf(list, sizeof list, "{\"c\": %s}", cvx_weights_meta(w, "captions"));
    OK(cvx_json_parse(&caps, list, strlen(list), "captions"));
    OK(cvx_clip_tokenizer_open(&tok, CLIP_DIR));
    assert_int_equal(cvx_clip_tokenizer_size(tok), 1024);
    /* tokenizer.json alone must mean the same */
    OK(cvx_file_read(&json, &len, CLIP_DIR "/tokenizer.json", 1 << 24));
    put("tokenizer.json", json, len);
    free(json);
    OK(cvx_clip_tokenizer_open(&whole, tmp));
    drop("tokenizer.json");
    for (int i = 0; i < 5; i++) {
        const char *text = json_string_value(json_array_get(json_object_get(caps, "c"), (size_t)i));
        int32_t ids[77], again[77];
        int64_t n, m;
        bool truncated;
        snprintf(name, sizeof name, "ids_%d", i);
        cvx_tensor g = golden(w, name);
        OK(cvx_clip_tokenizer_encode(tok, text, 77, ids, &n, &truncated));
        OK(cvx_clip_tokenizer_encode(whole, text, 77, again, &m, &truncated));
        assert_int_equal(n, cvx_numel(&g));
        assert_int_equal(m, n);
        for (int64_t k = 0; k < n; k++) {
            assert_int_equal(ids[k], (int32_t)((float *)g.data)[k]);
            assert_int_equal(again[k], ids[k]);
        }
        free(g.data);
    }
    json_decref(caps);
    cvx_clip_tokenizer_close(tok);
    cvx_clip_tokenizer_close(whole);
    cvx_weights_close(w);
}

/* OpenAI's vocabulary is not part of the tree: CVX_CLIP_BPE names the file, bpe_simple_vocab_16e6.txt.gz of
 * PyPI's clip-anytorch. */
static void clip_openai_ids(void **state)
{
    const char *bpe = getenv("CVX_CLIP_BPE");
    char link[PATH_MAX];
    json_t *j = NULL, *c;
    cvx_clip_tokenizer *tok = NULL;
    size_t i;

    (void)state;
    if (bpe == NULL || !cvx_is_file(bpe)) {
        print_message(
            "SKIPPED: CVX_CLIP_BPE does not name OpenAI's bpe_simple_vocab_16e6.txt.gz\n");
        skip();
    }
    path_of(link, "bpe_simple_vocab_16e6.txt.gz");
    assert_int_equal(symlink(bpe, link), 0);
    OK(cvx_clip_tokenizer_open(&tok, tmp));
    drop("bpe_simple_vocab_16e6.txt.gz");
    OK(cvx_json_load(&j, DATA "extra/clip-openai-ids.json"));
    assert_int_equal(cvx_clip_tokenizer_size(tok),
                     json_integer_value(json_object_get(j, "vocab_size")));
    assert_true(json_array_size(json_object_get(j, "cases")) >= 15);
    json_array_foreach(json_object_get(j, "cases"), i, c)
    {
        const char *text = json_string_value(json_object_get(c, "text"));
        int32_t ids[77];
        int64_t n;
        bool truncated;
        OK(cvx_clip_tokenizer_encode(tok, text, 77, ids, &n, &truncated));
        same_ids(text, ids, n, json_object_get(c, "ids"));
    }
    cvx_clip_tokenizer_close(tok);
    json_decref(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t5_ids),          cmocka_unit_test(t5_cut_text),
        cmocka_unit_test(bad_prompts),     cmocka_unit_test(t5_broken_folders),
        cmocka_unit_test(clip_shapes_ids), cmocka_unit_test(clip_broken_folders),
        cmocka_unit_test(clip_openai_ids),
    };

    return cmocka_run_group_tests(tests, make_tmp, remove_tmp);
}
