/* Fuzzes the tokenizers: the first byte chooses between a damaged spiece.model, a damaged CLIP vocabulary,
 * and a prompt for each of the shipped tokenizers. Nothing may crash; whatever opens must encode. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "model/text/charsmap.h"
#include "model/text/clip_tokenizer.h"
#include "model/text/spm_model.h"
#include "model/text/t5_tokenizer.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static cvx_t5_tokenizer *t5;
static cvx_clip_tokenizer *clip;
static char dir[] = "/tmp/cvx-fuzz-tokenizer-XXXXXX", file[2][128];

static void leave(void)
{
    unlink(file[0]);
    unlink(file[1]);
    rmdir(dir);
    cvx_t5_tokenizer_close(t5);
    cvx_clip_tokenizer_close(clip);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    if (mkdtemp(dir) == NULL) {
        abort();
    }
    snprintf(file[0], sizeof file[0], "%s/vocab.json", dir);
    snprintf(file[1], sizeof file[1], "%s/merges.txt", dir);
    atexit(leave);
    if (cvx_t5_tokenizer_open(&t5, "models/shapes/tokenizer") != CVX_OK ||
        cvx_clip_tokenizer_open(&clip, "models/shapes-clip") != CVX_OK) {
        fprintf(stderr, "run this from the source folder: %s\n", cvx_error());
        abort();
    }
    return 0;
}

static void prompt(const uint8_t *data, size_t size)
{
    char *text =
        calloc(size + 1, 1); /* not strndup: the input has no terminating NUL to be looked for */
    int32_t ids[77];
    cvx_t5_tokens t = {0};
    int64_t n;
    bool truncated;

    if (text == NULL) {
        return;
    }
    memcpy(text, data, size);
    if (cvx_t5_tokenizer_encode(t5, text, 32, ids, &t) == CVX_OK && (t.n < 1 || t.n > 32)) {
        abort();
    }
    cvx_t5_tokens_clear(&t);
    if (cvx_clip_tokenizer_encode(clip, text, 77, ids, &n, &truncated) == CVX_OK &&
        (n < 2 || n > 77)) {
        abort();
    }
    free(text);
}

static void model(const uint8_t *data, size_t size)
{
    cvx_spm_model m = {0};
    cvx_charsmap map = {0};
    cvx_text out = {0};

    if (cvx_spm_model_parse(&m, (const char *)data, size, "fuzz") == CVX_OK && m.charsmap_len > 0 &&
        cvx_charsmap_open(&map, m.charsmap, m.charsmap_len, "fuzz") == CVX_OK &&
        cvx_charsmap_apply(&map, "a\xc3\xa9 \xef\xac\x81", 7, &out) != CVX_OK) {
        abort();
    }
    free(out.data);
    cvx_spm_model_close(&m);
}

static void vocabulary(const uint8_t *data, size_t size)
{
    const uint8_t *gap = memchr(data, 0, size);
    size_t n = gap == NULL ? size : (size_t)(gap - data), rest = gap == NULL ? 0 : size - n - 1;
    cvx_clip_tokenizer *tok = NULL;
    int32_t ids[16];
    int64_t count;
    bool truncated;

    if (cvx_file_write(file[0], data, n) != CVX_OK ||
        cvx_file_write(file[1], rest > 0 ? gap + 1 : data, rest) != CVX_OK) {
        abort();
    }
    if (cvx_clip_tokenizer_open(&tok, dir) == CVX_OK &&
        cvx_clip_tokenizer_encode(tok, "abc aab 12", 16, ids, &count, &truncated) != CVX_OK) {
        abort();
    }
    cvx_clip_tokenizer_close(tok);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    switch (data[0] % 3) {
    case 0: prompt(data + 1, size - 1); break;
    case 1: model(data + 1, size - 1); break;
    default: vocabulary(data + 1, size - 1); break;
    }
    return 0;
}
