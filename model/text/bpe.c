#include "model/text/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/file.h"

#define FILE_MAX ((size_t)64 << 20)
#define OPENAI_MERGES (49152 - 256 - 2) /* the file has more lines than CLIP uses */
#define TOKEN_MAX 1024                  /* bytes of one token's text */
static const char word_end[] = "</w>";
#define WORD_END_LEN (sizeof word_end - 1)

/* ---- vocabulary ---- */

static int compare_tokens(const void *va, const void *vb)
{
    const cvx_bpe_token *a = va, *b = vb;
    int c = memcmp(a->text, b->text, a->len < b->len ? a->len : b->len);
    return c != 0 ? c : a->len < b->len ? -1 : a->len > b->len;
}

static int compare_merges(const void *va, const void *vb)
{
    const cvx_bpe_merge *a = va, *b = vb;
    if (a->pair != b->pair) {
        return a->pair < b->pair ? -1 : 1;
    }
    return a->rank < b->rank ? -1 : a->rank > b->rank;
}

int64_t cvx_bpe_find(const cvx_bpe *b, const char *text, size_t len)
{
    cvx_bpe_token key = {text, len, 0};
    const cvx_bpe_token *t =
        b->n == 0 ? NULL : bsearch(&key, b->token, (size_t)b->n, sizeof key, compare_tokens);
    return t == NULL ? -1 : t->id;
}

static cvx_status push_token(cvx_bpe *b, const char *text, size_t len, int64_t id, const char *what)
{
    if (id < 0 || id > INT32_MAX - 1 || len > TOKEN_MAX) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: token \"%.64s\": id %lld, %zu bytes; ids go from 0 to %d, "
                        "tokens to %d bytes",
                        what, text, (long long)id, len, INT32_MAX - 1, TOKEN_MAX);
    }
    if (b->n == b->cap) {
        int64_t cap = b->cap == 0 ? 4096 : b->cap * 2;
        cvx_bpe_token *token = realloc(b->token, (size_t)cap * sizeof *token);
        if (token == NULL) {
            return cvx_fail(CVX_ENOMEM, "%s: no memory for %lld tokens", what, (long long)cap);
        }
        b->token = token;
        b->cap = cap;
    }
    b->token[b->n++] = (cvx_bpe_token){text, len, (int32_t)id};
    return CVX_OK;
}

/* The character that stands for a byte: printable Latin-1 stands for itself,
 * the others follow from U+0100 on in order. Returns its UTF-8 length (1 or 2).
 */
static size_t byte_char(int byte, char out[3])
{
    int c = byte, next = 256;
    bool self = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;

    if (!self) {
        for (int b = 0; b < byte; b++) {
            next += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
        }
        c = next;
    }
    if (c < 128) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xc0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3f));
    return 2;
}

/* Sorts, checks that ids are unique, and looks up the bytes. */
static cvx_status finish_vocabulary(cvx_bpe *b, const char *what)
{
    char text[8];

    qsort(b->token, (size_t)b->n, sizeof *b->token, compare_tokens);
    for (int64_t i = 1; i < b->n; i++) {
        if (compare_tokens(&b->token[i - 1], &b->token[i]) == 0) {
            return cvx_fail(CVX_EFORMAT, "%s: token \"%.64s\" stands there twice", what,
                            b->token[i].text);
        }
    }
    for (int byte = 0; byte < 256; byte++) {
        size_t n = byte_char(byte, text);
        memcpy(text + n, word_end, WORD_END_LEN);
        b->byte_id[byte] = (int32_t)cvx_bpe_find(b, text, n);
        b->byte_end_id[byte] = (int32_t)cvx_bpe_find(b, text, n + WORD_END_LEN);
    }
    return CVX_OK;
}

static cvx_status read_vocabulary(cvx_bpe *b, json_t *vocab, const char *what)
{
    const char *key;
    json_t *v;

    if (!json_is_object(vocab) || json_object_size(vocab) == 0) {
        return cvx_fail(CVX_EFORMAT, "%s: the vocabulary must be an object of token: id", what);
    }
    json_object_foreach(vocab, key, v)
    {
        if (!json_is_integer(v)) {
            return cvx_fail(CVX_EFORMAT, "%s: the id of token \"%.64s\" must be a whole number",
                            what, key);
        }
        CVX_RETURN_IF(push_token(b, key, strlen(key), json_integer_value(v), what));
    }
    return finish_vocabulary(b, what);
}

/* ---- merges ---- */

/* "a b" becomes the pair (a, b) and the token ab; `line` counts from 1, for
 * messages. */
static cvx_status push_merge(cvx_bpe *b, const char *text, size_t len, int64_t line,
                             const char *what)
{
    const char *gap = memchr(text, ' ', len);
    char joined[2 * TOKEN_MAX];
    size_t left = gap == NULL ? 0 : (size_t)(gap - text), right = gap == NULL ? 0 : len - left - 1;

    if (left == 0 || right == 0 || memchr(gap + 1, ' ', right) != NULL || len > sizeof joined) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: merge %lld is \"%.*s\"; two tokens with a blank between are "
                        "needed",
                        what, (long long)line, (int)(len < 80 ? len : 80), text);
    }
    memcpy(joined, text, left);
    memcpy(joined + left, gap + 1, right);
    int64_t a = cvx_bpe_find(b, text, left), z = cvx_bpe_find(b, gap + 1, right);
    int64_t id = cvx_bpe_find(b, joined, left + right);
    if (a < 0 || z < 0 || id < 0) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: merge %lld, \"%.*s\", has a part or result that the "
                        "vocabulary lacks",
                        what, (long long)line, (int)len, text);
    }
    if (b->merges == b->merge_cap) {
        int64_t cap = b->merge_cap == 0 ? 4096 : b->merge_cap * 2;
        cvx_bpe_merge *merge = realloc(b->merge, (size_t)cap * sizeof *merge);
        if (merge == NULL) {
            return cvx_fail(CVX_ENOMEM, "%s: no memory for %lld merges", what, (long long)cap);
        }
        b->merge = merge;
        b->merge_cap = cap;
    }
    b->merge[b->merges] =
        (cvx_bpe_merge){(uint64_t)a << 32 | (uint64_t)z, (int32_t)b->merges, (int32_t)id};
    b->merges++;
    return CVX_OK;
}

/* Of merges of the same pair the last one counts. */
static void finish_merges(cvx_bpe *b)
{
    int64_t n = 0;

    if (b->merges > 0) {
        qsort(b->merge, (size_t)b->merges, sizeof *b->merge, compare_merges);
    }
    for (int64_t i = 0; i < b->merges; i++) {
        n -= n > 0 && b->merge[n - 1].pair == b->merge[i].pair;
        b->merge[n++] = b->merge[i];
    }
    b->merges = n;
}

static const cvx_bpe_merge *find_merge(const cvx_bpe *b, int32_t left, int32_t right)
{
    cvx_bpe_merge key = {(uint64_t)(uint32_t)left << 32 | (uint32_t)right, 0, 0};
    int64_t lo = 0, hi = b->merges;

    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (b->merge[mid].pair < key.pair) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < b->merges && b->merge[lo].pair == key.pair ? &b->merge[lo] : NULL;
}

/* Calls for each line of a text: without its end ('\n' or '\r\n'), counted
 * from 1. */
typedef cvx_status (*line_fn)(void *payload, const char *line, size_t len, int64_t number);
static cvx_status each_line(const char *text, size_t len, line_fn fn, void *payload)
{
    int64_t number = 0;

    for (size_t i = 0; i < len;) {
        const char *end = memchr(text + i, '\n', len - i);
        size_t n = end == NULL ? len - i : (size_t)(end - text) - i;
        size_t bare = n > 0 && text[i + n - 1] == '\r' ? n - 1 : n;
        CVX_RETURN_IF(fn(payload, text + i, bare, ++number));
        i += n + 1;
    }
    return CVX_OK;
}

typedef struct merge_reader {
    cvx_bpe *b;
    const char *path;
} merge_reader;

static cvx_status merges_line(void *payload, const char *line, size_t len, int64_t number)
{
    merge_reader *r = payload;

    if (len == 0 || (len >= 8 && memcmp(line, "#version", 8) == 0)) {
        return CVX_OK;
    }
    return push_merge(r->b, line, len, number, r->path);
}

cvx_status cvx_bpe_open_files(cvx_bpe *out, const char *vocab_path, const char *merges_path)
{
    cvx_bpe b = {0};
    cvx_status st = CVX_OK;
    char *text = NULL;
    size_t len = 0;

    CVX_TRY(st, cvx_json_load(&b.json, vocab_path), done);
    CVX_TRY(st, read_vocabulary(&b, b.json, vocab_path), done);
    CVX_TRY(st, cvx_file_read(&text, &len, merges_path, FILE_MAX), done);
    merge_reader r = {&b, merges_path};
    CVX_TRY(st, each_line(text, len, merges_line, &r), done);
    finish_merges(&b);
    *out = b;
    b = (cvx_bpe){0};
done:
    free(text);
    cvx_bpe_close(&b);
    return st;
}

/* tokenizer.json writes a merge as "a b" (old) or ["a", "b"]. */
static cvx_status push_json_merge(cvx_bpe *b, const json_t *m, int64_t number, const char *path)
{
    const char *text = json_string_value(m);
    const char *left = json_string_value(json_array_get(m, 0));
    const char *right = json_string_value(json_array_get(m, 1));
    char both[2 * TOKEN_MAX + 2];

    if (text == NULL && left != NULL && right != NULL && json_array_size(m) == 2) {
        int n = snprintf(both, sizeof both, "%s %s", left, right);
        text = n < (int)sizeof both ? both : NULL;
    }
    if (text == NULL) {
        return cvx_fail(CVX_EFORMAT, "%s: merge %lld must be a pair of tokens", path,
                        (long long)number);
    }
    return push_merge(b, text, strlen(text), number, path);
}

cvx_status cvx_bpe_open_json(cvx_bpe *out, const char *path)
{
    cvx_bpe b = {0};
    cvx_status st = CVX_OK;
    const char *type = "";

    CVX_TRY(st, cvx_json_load(&b.json, path), done);
    json_t *model = json_object_get(b.json, "model"), *merges = json_object_get(model, "merges"),
           *m;
    if (!json_is_object(model) || !json_is_array(merges)) {
        CVX_TRY(st, cvx_fail(CVX_EFORMAT, "%s: no \"model\" with \"merges\"", path), done);
    }
    CVX_TRY(st, cvx_json_str(model, path, "type", &type), done);
    if (type[0] != '\0' && strcmp(type, "BPE") != 0) {
        CVX_TRY(st,
                cvx_fail(CVX_EUNSUPPORTED, "%s: the model is of type \"%s\"; CLIP's is \"BPE\"",
                         path, type),
                done);
    }
    CVX_TRY(st, read_vocabulary(&b, json_object_get(model, "vocab"), path), done);
    size_t i;
    json_array_foreach(merges, i, m)
    {
        CVX_TRY(st, push_json_merge(&b, m, (int64_t)i + 1, path), done);
    }
    finish_merges(&b);
    *out = b;
    b = (cvx_bpe){0};
done:
    cvx_bpe_close(&b);
    return st;
}

/* ---- OpenAI's file ---- */

static cvx_status read_gz(char **out, size_t *len, const char *path)
{
    gzFile f = gzopen(path, "rb");
    char *buf = NULL;
    size_t used = 0, cap = 1 << 20;
    int n = 0;

    if (f == NULL) {
        return cvx_fail(CVX_EIO, "cannot open %s", path);
    }
    do {
        used += (size_t)n;
        if (buf == NULL || cap - used < cap / 2) {
            cap *= 2;
            char *bigger = cap > FILE_MAX ? NULL : realloc(buf, cap);
            if (bigger == NULL) {
                gzclose(f);
                free(buf);
                return cvx_fail(CVX_EFORMAT, "%s: more than %zu bytes of text, or no memory", path,
                                FILE_MAX / 2);
            }
            buf = bigger;
        }
        n = gzread(f, buf + used, (unsigned)(cap - used));
    } while (n > 0);
    int closed = gzclose(f);
    if (n < 0 || closed != Z_OK) {
        free(buf);
        return cvx_fail(CVX_EFORMAT, "%s: damaged or cut short", path);
    }
    *out = buf;
    *len = used;
    return CVX_OK;
}

typedef struct openai_reader {
    cvx_bpe *b;
    const char *path;
    bool second; /* first round: results into the vocabulary; second: the merges */
    int64_t next_id;
    char *free_at; /* in b->pool */
} openai_reader;

static cvx_status openai_line(void *payload, const char *line, size_t len, int64_t number)
{
    openai_reader *r = payload;
    const char *gap = memchr(line, ' ', len);

    if (number == 1 || number > OPENAI_MERGES + 1) { /* the first line is a comment */
        return CVX_OK;
    }
    if (r->second) {
        return push_merge(r->b, line, len, number, r->path);
    }
    if (gap == NULL) {
        return cvx_fail(CVX_EFORMAT, "%s: line %lld is not a merge", r->path, (long long)number);
    }
    size_t left = (size_t)(gap - line);
    memcpy(r->free_at, line, left);
    memcpy(r->free_at + left, gap + 1, len - left - 1);
    CVX_RETURN_IF(push_token(r->b, r->free_at, len - 1, r->next_id++, r->path));
    r->free_at += len - 1;
    return CVX_OK;
}

/* The 256 byte characters in OpenAI's order (printable ones first), then the
 * same with "</w>". */
static cvx_status push_bytes(openai_reader *r)
{
    for (int end = 0; end < 2; end++) {
        for (int round = 0; round < 2; round++) {
            for (int byte = 0; byte < 256; byte++) {
                bool self =
                    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
                if (self == (round == 1)) {
                    continue;
                }
                size_t n = byte_char(byte, r->free_at);
                memcpy(r->free_at + n, word_end, WORD_END_LEN);
                n += end ? WORD_END_LEN : 0;
                CVX_RETURN_IF(push_token(r->b, r->free_at, n, r->next_id++, r->path));
                r->free_at += n;
            }
        }
    }
    return CVX_OK;
}

cvx_status cvx_bpe_open_openai(cvx_bpe *out, const char *path)
{
    cvx_bpe b = {0};
    cvx_status st = CVX_OK;
    char *text = NULL;
    size_t len = 0;

    CVX_TRY(st, read_gz(&text, &len, path), done);
    b.pool = malloc(len + 512 * 8);
    if (b.pool == NULL) {
        CVX_TRY(st, cvx_fail(CVX_ENOMEM, "%s: no memory for its vocabulary", path), done);
    }
    openai_reader r = {.b = &b, .path = path, .free_at = b.pool};
    CVX_TRY(st, push_bytes(&r), done);
    CVX_TRY(st, each_line(text, len, openai_line, &r), done);
    if (r.next_id != 512 + OPENAI_MERGES) {
        CVX_TRY(st,
                cvx_fail(CVX_EFORMAT, "%s: %lld merges; CLIP's vocabulary has %d", path,
                         (long long)r.next_id - 512, OPENAI_MERGES),
                done);
    }
    CVX_TRY(st, push_token(&b, "<|startoftext|>", 15, r.next_id, path), done);
    CVX_TRY(st, push_token(&b, "<|endoftext|>", 13, r.next_id + 1, path), done);
    CVX_TRY(st, finish_vocabulary(&b, path), done);
    r.second = true;
    CVX_TRY(st, each_line(text, len, openai_line, &r), done);
    finish_merges(&b);
    *out = b;
    b = (cvx_bpe){0};
done:
    free(text);
    cvx_bpe_close(&b);
    return st;
}

void cvx_bpe_close(cvx_bpe *b)
{
    free(b->token);
    free(b->merge);
    free(b->pool);
    json_decref(b->json);
    *b = (cvx_bpe){0};
}

/* ---- encoding ---- */

/* A word as a doubly linked list of symbols, and a heap of the merges that are
 * possible in it. An entry of the heap may have gone stale; it is checked when
 * it comes up. Long words thus cost n log n. */
typedef struct symbol {
    int32_t id;
    int64_t prev, next; /* -1: none */
    bool gone;
} symbol;

typedef struct candidate {
    int32_t rank, id;
    int64_t at;
} candidate;

typedef struct word_state {
    symbol *sym;
    candidate *heap;
    int64_t n;
} word_state;

static bool before(const candidate *a, const candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(word_state *w, candidate c)
{
    int64_t i = w->n++;

    for (; i > 0 && before(&c, &w->heap[(i - 1) / 2]); i = (i - 1) / 2) {
        w->heap[i] = w->heap[(i - 1) / 2];
    }
    w->heap[i] = c;
}

static candidate heap_pop(word_state *w)
{
    candidate top = w->heap[0], last = w->heap[--w->n];
    int64_t i = 0, child;

    while ((child = 2 * i + 1) < w->n) {
        child += child + 1 < w->n && before(&w->heap[child + 1], &w->heap[child]);
        if (!before(&w->heap[child], &last)) {
            break;
        }
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    return top;
}

/* The merge of the symbol at `at` with the one behind it, if there is one, goes
 * into the heap. */
static void propose(const cvx_bpe *b, word_state *w, int64_t at)
{
    if (at < 0 || w->sym[at].next < 0) {
        return;
    }
    const cvx_bpe_merge *m = find_merge(b, w->sym[at].id, w->sym[w->sym[at].next].id);
    if (m != NULL) {
        heap_push(w, (candidate){m->rank, m->id, at});
    }
}

static void merge_all(const cvx_bpe *b, word_state *w)
{
    while (w->n > 0) {
        candidate c = heap_pop(w);
        symbol *s = &w->sym[c.at];
        if (s->gone || s->next < 0) {
            continue;
        }
        symbol *right = &w->sym[s->next];
        const cvx_bpe_merge *m = find_merge(b, s->id, right->id);
        if (m == NULL || m->id != c.id) {
            continue;
        }
        s->id = c.id;
        right->gone = true;
        s->next = right->next;
        if (s->next >= 0) {
            w->sym[s->next].prev = c.at;
        }
        propose(b, w, s->prev);
        propose(b, w, c.at);
    }
}

cvx_status cvx_bpe_encode(const cvx_bpe *b, const char *word, size_t len, cvx_ids *out)
{
    cvx_status st = CVX_OK;
    int64_t n = (int64_t)len;
    /* each merge adds at most two candidates and there are fewer than n of them
   */
    word_state w = {malloc((len + 1) * sizeof(symbol)), malloc((3 * len + 1) * sizeof(candidate)),
                    0};

    if (w.sym == NULL || w.heap == NULL) {
        CVX_TRY(st, cvx_fail(CVX_ENOMEM, "no memory to tokenize a word of %zu bytes", len), done);
    }
    for (int64_t i = 0; i < n; i++) {
        const int32_t *table = i == n - 1 ? b->byte_end_id : b->byte_id;
        int32_t id = table[(unsigned char)word[i]];
        w.sym[i] = (symbol){id >= 0 ? id : b->unknown_id, i - 1, i + 1 < n ? i + 1 : -1, false};
    }
    for (int64_t i = 0; i + 1 < n; i++) {
        propose(b, &w, i);
    }
    merge_all(b, &w);
    for (int64_t i = n > 0 ? 0 : -1; i >= 0; i = w.sym[i].next) {
        CVX_TRY(st, cvx_ids_push(out, w.sym[i].id), done);
    }
done:
    free(w.sym);
    free(w.heap);
    return st;
}
