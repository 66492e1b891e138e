#include "model/pipeline/snapshot.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define MAGIC "CVXSNAP1"
#define MAGIC_BYTES 8
#define HEADER_BYTES (4 + 8 + 8 + 4)
#define HEAD_MAX ((uint64_t)1 << 24)
/* Latents of more values than this are no latents: a bound for what a file may ask for. */
#define VALUES_MAX ((int64_t)1 << 32)
#define SETS_MAX 16

void cvx_snapshot_free(cvx_snapshot *s)
{
    json_decref(s->job);
    free(s->latents);
    free(s->kept);
    *s = (cvx_snapshot){0};
}

int64_t cvx_snapshot_count(const cvx_snapshot *s)
{
    return s->dim[0] * s->dim[1] * s->dim[2] * s->dim[3];
}

static void put(unsigned char *p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++) {
        p[i] = (unsigned char)(v >> 8 * i);
    }
}

static uint64_t get(const unsigned char *p, int n)
{
    uint64_t v = 0;
    for (int i = 0; i < n; i++) {
        v |= (uint64_t)p[i] << 8 * i;
    }
    return v;
}

/* Of a frame: header without the checksum itself, then content. Any length of content. */
static uint32_t checksum(const unsigned char *header, const unsigned char *data, uint64_t len)
{
    uLong crc = crc32(crc32(0, NULL, 0), header, HEADER_BYTES - 4);
    return (uint32_t)crc32_z(crc, data, (z_size_t)len);
}

/* --- writing --- */

typedef struct buffer {
    unsigned char *data;
    size_t len, room;
} buffer;

static cvx_status reserve(buffer *b, size_t more)
{
    if (b->len + more > b->room) {
        size_t room = b->len + more;
        unsigned char *p = realloc(b->data, room);
        if (p == NULL) {
            return cvx_fail(CVX_ENOMEM, "no memory for a checkpoint of %zu bytes", room);
        }
        b->data = p;
        b->room = room;
    }
    return CVX_OK;
}

/* zlib counts in unsigned ints: content goes through it in pieces. Noise hardly shrinks: the quick level. */
static cvx_status deflate_all(buffer *b, const unsigned char *data, size_t len)
{
    z_stream z = {0};
    int rc = deflateInit(&z, 1);

    for (size_t at = 0; rc == Z_OK;) {
        size_t n = len - at < (1u << 30) ? len - at : 1u << 30;
        z.next_in = (unsigned char *)data + at;
        z.avail_in = (uInt)n;
        z.next_out = b->data + b->len;
        z.avail_out = (uInt)(b->room - b->len < (1u << 31) ? b->room - b->len : 1u << 31);
        uInt room = z.avail_out;
        rc = deflate(&z, at + n == len ? Z_FINISH : Z_NO_FLUSH);
        at += n - z.avail_in;
        b->len += room - z.avail_out;
    }
    deflateEnd(&z);
    return rc == Z_STREAM_END ? CVX_OK : cvx_fail(CVX_ENOMEM, "zlib: no memory for %zu bytes", len);
}

static cvx_status add_frame(buffer *b, const char *tag, const void *data, size_t len)
{
    size_t start = b->len;

    /* deflate's own bound: 5 bytes a 16 KiB block and a few more */
    CVX_RETURN_IF(reserve(b, HEADER_BYTES + len + len / 1000 + 64));
    b->len += HEADER_BYTES;
    if (len > 0) {
        CVX_RETURN_IF(deflate_all(b, data, len));
    }
    unsigned char *h = b->data + start;
    uint64_t packed = b->len - start - HEADER_BYTES;
    memcpy(h, tag, 4);
    put(h + 4, len, 8);
    put(h + 12, packed, 8);
    put(h + 20, checksum(h, h + HEADER_BYTES, packed), 4);
    return CVX_OK;
}

static cvx_status add_head(buffer *b, const cvx_snapshot *s)
{
    json_t *j = json_pack("{s:I, s:I, s:[I,I,I,I], s:I, s:O}", "step", (json_int_t)s->step, "steps",
                          (json_int_t)s->steps, "latents", (json_int_t)s->dim[0],
                          (json_int_t)s->dim[1], (json_int_t)s->dim[2], (json_int_t)s->dim[3],
                          "sets", (json_int_t)s->sets, "job", s->job);
    if (j != NULL && s->cached > 0) {
        json_object_set_new(j, "cached", json_integer(s->cached));
    }
    char *text = j != NULL ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    cvx_status st = text == NULL ? cvx_fail(CVX_ENOMEM, "no memory for a checkpoint's head")
                                 : add_frame(b, "HEAD", text, strlen(text));
    free(text);
    json_decref(j);
    return st;
}

cvx_status cvx_snapshot_pack(unsigned char **out, size_t *len, const cvx_snapshot *s)
{
    buffer b = {0};
    size_t bytes = (size_t)cvx_snapshot_count(s) * sizeof *s->latents;
    unsigned char rng[CVX_RNG_BYTES];
    cvx_status st = CVX_OK;

    cvx_rng_save(&s->rng, rng);
    CVX_TRY(st, reserve(&b, MAGIC_BYTES), done);
    memcpy(b.data, MAGIC, MAGIC_BYTES);
    b.len = MAGIC_BYTES;
    CVX_TRY(st, add_head(&b, s), done);
    CVX_TRY(st, add_frame(&b, "RNGS", rng, sizeof rng), done);
    CVX_TRY(st, add_frame(&b, "LATS", s->latents, bytes), done);
    if (s->sets > 0) {
        CVX_TRY(st, add_frame(&b, "KEPT", s->kept, (size_t)s->sets * bytes), done);
    }
    CVX_TRY(st, add_frame(&b, "STOP", NULL, 0), done);
    *out = b.data;
    *len = b.len;
    b.data = NULL;
done:
    free(b.data);
    return st;
}

/* --- reading --- */

typedef struct reader {
    const unsigned char *data;
    size_t len, at;
    const char *what;
} reader;

static cvx_status inflate_all(unsigned char *out, uint64_t len, const unsigned char *in,
                              uint64_t packed)
{
    z_stream z = {0};
    int rc = inflateInit(&z);
    uint64_t from = 0, to = 0;

    while (rc == Z_OK) {
        uint64_t n = packed - from < (1u << 30) ? packed - from : 1u << 30;
        uint64_t room = len - to < (1u << 30) ? len - to : 1u << 30;
        z.next_in = (unsigned char *)in + from;
        z.avail_in = (uInt)n;
        z.next_out = out + to;
        z.avail_out = (uInt)room;
        rc = inflate(&z, Z_NO_FLUSH); /* no progress at all is Z_BUF_ERROR: the loop ends */
        from += n - z.avail_in;
        to += room - z.avail_out;
    }
    inflateEnd(&z);
    return rc == Z_STREAM_END && from == packed && to == len ? CVX_OK : CVX_EFORMAT;
}

/* The next frame's content, which must have `want` bytes (UINT64_MAX: any number up to HEAD_MAX), into *out (caller
 * frees; a NUL behind it) and *len. */
static cvx_status read_frame(reader *r, const char *tag, uint64_t want, unsigned char **out,
                             uint64_t *len)
{
    const unsigned char *h = r->data + r->at;
    uint64_t left = r->len - r->at;

    if (left < HEADER_BYTES || get(h + 12, 8) > left - HEADER_BYTES) {
        return cvx_fail(CVX_EFORMAT, "%s: ends within its %s frame", r->what, tag);
    }
    uint64_t size = get(h + 4, 8), packed = get(h + 12, 8);
    if (get(h + 20, 4) != checksum(h, h + HEADER_BYTES, packed)) {
        return cvx_fail(CVX_EFORMAT, "%s: the checksum of its %s frame is wrong", r->what, tag);
    }
    if (memcmp(h, tag, 4) != 0 || (want == UINT64_MAX ? size > HEAD_MAX : size != want)) {
        return cvx_fail(CVX_EFORMAT, "%s: a %.4s frame of %llu bytes where %s is due", r->what,
                        (const char *)h, (unsigned long long)size, tag);
    }
    /* zlib shrinks to a thousandth at best: no more memory than the file can fill */
    unsigned char *p = size / 1100 <= packed ? malloc((size_t)size + 1) : NULL;
    if (p == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory for %llu bytes", r->what,
                        (unsigned long long)size);
    }
    if (size > 0 && inflate_all(p, size, h + HEADER_BYTES, packed) != CVX_OK) {
        free(p);
        return cvx_fail(CVX_EFORMAT, "%s: its %s frame does not unpack", r->what, tag);
    }
    p[size] = 0;
    r->at += HEADER_BYTES + (size_t)packed;
    *out = p;
    *len = size;
    return CVX_OK;
}

static cvx_status read_head(reader *r, cvx_snapshot *s)
{
    unsigned char *text = NULL;
    uint64_t len = 0;
    json_t *j = NULL;
    int64_t values = 1;

    CVX_RETURN_IF(read_frame(r, "HEAD", UINT64_MAX, &text, &len));
    cvx_status st = cvx_json_parse(&j, (const char *)text, (size_t)len, r->what);
    free(text);
    CVX_RETURN_IF(st);
    const json_t *dims = json_object_get(j, "latents");
    bool good = json_array_size(dims) == 4;
    for (size_t i = 0; i < 4; i++) {
        s->dim[i] = json_integer_value(json_array_get(dims, i));
        good = good && s->dim[i] > 0 && s->dim[i] <= VALUES_MAX / values;
        values = good ? values * s->dim[i] : 1;
    }
    s->step = json_integer_value(json_object_get(j, "step"));
    s->steps = json_integer_value(json_object_get(j, "steps"));
    s->sets = json_integer_value(json_object_get(j, "sets"));
    s->cached = json_integer_value(json_object_get(j, "cached"));
    s->job = json_incref(json_object_get(j, "job"));
    good = good && s->step > 0 && s->step <= s->steps && s->sets >= 0 && s->sets <= SETS_MAX &&
           s->cached >= 0 && s->cached <= s->step && (s->cached == 0 || s->sets > 0) &&
           json_is_object(s->job);
    json_decref(j);
    return good ? CVX_OK
                : cvx_fail(CVX_EFORMAT, "%s: its head does not describe a denoising loop", r->what);
}

static cvx_status read_rng(reader *r, cvx_rng *rng)
{
    unsigned char *bytes = NULL;
    uint64_t len = 0;

    CVX_RETURN_IF(read_frame(r, "RNGS", CVX_RNG_BYTES, &bytes, &len));
    cvx_status st = cvx_rng_load(rng, bytes);
    free(bytes);
    return st == CVX_OK ? st : cvx_fail_prefix(st, "%.200s", r->what);
}

static cvx_status read_floats(reader *r, const char *tag, int64_t n, float **out)
{
    unsigned char *bytes = NULL;
    uint64_t len = 0;

    CVX_RETURN_IF(read_frame(r, tag, (uint64_t)n * sizeof **out, &bytes, &len));
    *out = (float *)(void *)bytes;
    return CVX_OK;
}

cvx_status cvx_snapshot_parse(cvx_snapshot *out, const void *data, size_t len, const char *what)
{
    reader r = {.data = data, .len = len, .at = MAGIC_BYTES, .what = what};
    cvx_snapshot s = {0};
    unsigned char *none = NULL;
    uint64_t zero;
    cvx_status st = CVX_OK;

    if (len < MAGIC_BYTES || memcmp(data, MAGIC, MAGIC_BYTES) != 0) {
        return cvx_fail(CVX_EFORMAT, "%s: not a cvx checkpoint (it does not begin with %s)", what,
                        MAGIC);
    }
    CVX_TRY(st, read_head(&r, &s), done);
    CVX_TRY(st, read_rng(&r, &s.rng), done);
    CVX_TRY(st, read_floats(&r, "LATS", cvx_snapshot_count(&s), &s.latents), done);
    if (s.sets > 0) {
        CVX_TRY(st, read_floats(&r, "KEPT", s.sets * cvx_snapshot_count(&s), &s.kept), done);
    }
    CVX_TRY(st, read_frame(&r, "STOP", 0, &none, &zero), done);
    free(none);
    if (r.at != r.len) {
        st = cvx_fail(CVX_EFORMAT, "%s: %zu bytes after its end", what, r.len - r.at);
        goto done;
    }
    *out = s;
    return CVX_OK;
done:
    cvx_snapshot_free(&s);
    return st;
}
