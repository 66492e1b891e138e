/* The safetensors reader against files that are wrong at every place that can be, folders and shards, typed
 * access, and what the writer writes. */
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../golden/golden.h"
#include "base/file.h"

static char dir[] = "/tmp/cvx-weights-XXXXXX";

/* "dir/name", in one of several static buffers. */
static const char *at(const char *name)
{
    static char paths[8][CVX_PATH_MAX];
    static int next;
    char *p = paths[next++ % 8];
    snprintf(p, CVX_PATH_MAX, "%s/%s", dir, name);
    return p;
}

static void put(const char *name, const void *data, size_t n)
{
    OK(cvx_file_write(at(name), data, n));
}

/* A file of this header and n_data bytes 0, 1, 2 ...; length is the header's, or `claim` unless negative. */
static void put_tensors(const char *name, const char *header, size_t n_data, int64_t claim)
{
    size_t len = strlen(header);
    uint64_t says = claim < 0 ? len : (uint64_t)claim;
    unsigned char *data = malloc(8 + len + n_data);

    for (int i = 0; i < 8; i++) {
        data[i] = (unsigned char)(says >> 8 * i);
    }
    memcpy(data + 8, header, len);
    for (size_t i = 0; i < n_data; i++) {
        data[8 + len + i] = (unsigned char)i;
    }
    put(name, data, 8 + len + n_data);
    free(data);
}

static int empty_dir(void **state)
{
    char command[64];

    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

static int fresh_dir(void **state)
{
    return empty_dir(state) != 0 || mkdir(dir, 0777) != 0;
}

/* Opening must fail so, and the one line must hold every one of up to three texts. */
static void refuses(const char *path, cvx_status want, const char *a, const char *b, const char *c)
{
    const char *const texts[] = {a, b, c};
    cvx_weights *w = NULL;
    cvx_status st = cvx_weights_open(&w, path);

    if (st != want) {
        fail_msg("%s: status %d (%s), %d is right", path, st, cvx_error(), want);
    }
    assert_null(w);
    for (int i = 0; i < 3; i++) {
        if (texts[i] != NULL && strstr(cvx_error(), texts[i]) == NULL) {
            fail_msg("%s: '%s' is not in the message: %s", path, texts[i], cvx_error());
        }
    }
}

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

static void bad_headers(void **state)
{
    static const struct {
        const char *header;
        size_t data;
        int64_t claim;
        const char *culprit, *why;
    } rows[] = {
        {"", 0, -1, "t.safetensors", "not JSON"},
        {"{" A, 8, -1, "not JSON", "line 1"},
        {"[1]", 8, -1, "t.safetensors", "object"},
        {"{" A ",}", 8, -1, "not JSON", NULL},
        {"{" A "} x", 8, -1, "not JSON", NULL},
        {"{\"a\xff\":1}", 8, -1, "not JSON", NULL},
        {"{" A "}", 8, 1 << 20, "header length 1048576", "truncated"},
        {"{" A "}", 8, INT64_MAX, "header length 9223372036854775807", NULL},
        {"{" A "}", 8, 3, "not JSON", NULL},
        {"{" A "," A "}", 8, -1, "duplicate", "\"a\""},
        {"{\"a\":7}", 0, -1, "tensor a", "dtype"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, -1, "tensor a", "dtype"},
        {"{\"a\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, -1, "tensor a",
         "\"F33\""},
        {"{\"a\":{\"dtype\":4,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, -1, "tensor a", "dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, -1, "tensor a", "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8, -1, "tensor a",
         "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, -1, "tensor a",
         "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, -1, "tensor a",
         "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8, -1,
         "tensor a", "at most 6"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}}", 8,
         -1, "tensor a", "63 bits"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]}}",
         0, -1, "tensor a", "63 bits"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,0],\"data_offsets\":[0,0]}}",
         0, -1, "tensor a", "63 bits"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,8]}}", 8,
         -1, "tensor a", "overflow"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,8]}}", 8,
         -1, "tensor a", "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, -1, "tensor a", "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, -1, "tensor a",
         "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,9]}}", 8, -1, "tensor a",
         "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,\"8\"]}}", 8, -1, "tensor a",
         "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, -1, "tensor a",
         "-8 to 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, -1, "tensor a",
         "8 to 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9223372036854775807]}}", 8,
         -1, "tensor a", "truncated"},
        {"{" A "}", 7, -1, "tensor a", "7 bytes"},
        {"{" A "}", 9, -1, "9 bytes of data", "describes 8"},
        {"{}", 1, -1, "1 bytes of data", "describes 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, -1, "tensor a",
         "needs 12 bytes"},
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, -1, "tensor a",
         "needs 16 bytes"},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12, -1,
         "tensor b", "begins at byte 4"},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, -1,
         "begins at byte 0", "8 is right"},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[12,20]}}", 20, -1,
         "tensor b", "begins at byte 12"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12, -1, "tensor a",
         "begins at byte 4"},
        {"{" A ",\"__metadata__\":[]}", 8, -1, "__metadata__", "object"},
        {"{" A ",\"__metadata__\":{\"k\":1}}", 8, -1, "\"k\"", "string"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        put_tensors("t.safetensors", rows[i].header, rows[i].data, rows[i].claim);
        refuses(at("t.safetensors"), CVX_EFORMAT, "t.safetensors", rows[i].culprit, rows[i].why);
    }
}

/* A good file cut after every one of its bytes, and one byte too long. */
static void cut_anywhere(void **state)
{
    static const char header[] =
        "{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[8,11]}}";
    char *whole = NULL;
    size_t n;
    cvx_weights *w = NULL;

    (void)state;
    put_tensors("whole.safetensors", header, 11, -1);
    OK(cvx_file_read(&whole, &n, at("whole.safetensors"), 1000));
    OK(cvx_weights_open(&w, at("whole.safetensors")));
    cvx_weights_close(w);
    for (size_t cut = 0; cut < n; cut++) {
        put("cut.safetensors", whole, cut);
        refuses(at("cut.safetensors"), CVX_EFORMAT, "cut.safetensors", NULL, NULL);
    }
    free(whole);
}

static void accepted(void **state)
{
    cvx_weights *w = NULL;

    (void)state;
    /* scalars, empty tensors, all in the wrong order, unknown extra keys, a dtype that is only listed */
    put_tensors("t.safetensors",
                "{\"z\":{\"dtype\":\"U8\",\"shape\":[1,2],\"data_offsets\":[4,6],\"x\":1},"
                "\"e\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[4,4]},"
                "\"b\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[6,7]},"
                "\"s\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]},"
                "\"__metadata__\":{\"k\":\"v\"}}   ",
                7, -1);
    OK(cvx_weights_open(&w, at("t.safetensors")));
    assert_int_equal(cvx_weights_count(w), 4);
    assert_string_equal(cvx_weights_name(w, 0), "b");
    assert_string_equal(cvx_weights_name(w, 3), "z");
    assert_int_equal(cvx_weights_find(w, "s"), 2);
    assert_int_equal(cvx_weights_find(w, "sz"), -1);
    assert_false(cvx_weights_has(w, "__metadata__"));
    assert_string_equal(cvx_weights_meta(w, "k"), "v");
    assert_null(cvx_weights_meta(w, "none"));
    cvx_tensor s = cvx_weights_at(w, 2), z = cvx_weights_at(w, 3);
    assert_int_equal(s.ndim, 0);
    assert_int_equal(*(const int32_t *)s.data, 0x03020100);
    assert_int_equal(((const unsigned char *)z.data)[1], 5);
    assert_int_equal(cvx_weights_bytes(w), 7);
    cvx_weights_close(w);

    put_tensors("t.safetensors", "{}", 0, -1);
    OK(cvx_weights_open(&w, at("t.safetensors")));
    assert_int_equal(cvx_weights_count(w), 0);
    assert_int_equal(cvx_weights_find(w, "a"), -1);
    cvx_weights_close(w);
    cvx_weights_close(NULL);
}

/* f32 data at every byte offset mod 4, and i64 behind it: kernels must get aligned addresses. */
static void misaligned(void **state)
{
    cvx_weights *w = NULL;
    char header[512];

    (void)state;
    for (int pad = 0; pad < 8; pad++) {
        snprintf(header, sizeof header,
                 "{\"p\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[0,%d]},"
                 "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[%d,%d]},"
                 "\"l\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[%d,%d]}}",
                 pad, pad, pad, pad + 8, pad + 8, pad + 16);
        put_tensors("t.safetensors", header, (size_t)pad + 16, -1);
        OK(cvx_weights_open(&w, at("t.safetensors")));
        cvx_tensor a, l = cvx_weights_at(w, cvx_weights_find(w, "l"));
        OK(CVX_WEIGHT(w, &a, "a", 2));
        assert_int_equal((uintptr_t)a.data % 4, 0);
        assert_int_equal((uintptr_t)l.data % 8, 0);
        for (int i = 0; i < 8; i++) {
            assert_int_equal(((const unsigned char *)a.data)[i], pad + i);
            assert_int_equal(((const unsigned char *)l.data)[i], pad + 8 + i);
        }
        cvx_weights_close(w);
    }
}

#define INDEX(map) "{\"metadata\":{},\"weight_map\":" map "}"
#define INDEX_NAME "model.safetensors.index.json"

static void put_shards(const char *index_name, const char *index)
{
    put_tensors("m-1.safetensors", "{" A "}", 8, -1);
    put_tensors("m-2.safetensors",
                "{\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, -1);
    put(index_name, index, strlen(index));
}

static void shards(void **state)
{
    static const char good[] = INDEX("{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}");
    static const struct {
        const char *index;
        cvx_status status;
        const char *culprit, *why;
    } rows[] = {
        {"{\"weight_map\":", CVX_EFORMAT, INDEX_NAME, "not JSON"},
        {"[]", CVX_EFORMAT, INDEX_NAME, "object"},
        {"{}", CVX_EFORMAT, INDEX_NAME, "weight_map"},
        {INDEX("[]"), CVX_EFORMAT, INDEX_NAME, "weight_map"},
        {INDEX("{}"), CVX_EFORMAT, INDEX_NAME, "weight_map"},
        {INDEX("{\"a\":1}"), CVX_EFORMAT, INDEX_NAME, "tensor a"},
        {INDEX("{\"a\":\"../m-1.safetensors\"}"), CVX_EFORMAT, INDEX_NAME, "tensor a"},
        {INDEX("{\"a\":\"m-3.safetensors\"}"), CVX_EIO, "m-3.safetensors", "missing"},
        {INDEX("{\"a\":\"\"}"), CVX_EIO, INDEX_NAME, "tensor a"},
        {INDEX("{\"a\":\"m-1.safetensors\",\"c\":\"m-1.safetensors\"}"), CVX_EFORMAT, INDEX_NAME,
         "tensor c is not in m-1.safetensors"},
        {INDEX("{\"a\":\"m-2.safetensors\",\"b\":\"m-1.safetensors\"}"), CVX_EFORMAT, INDEX_NAME,
         "tensor a is not in m-2.safetensors"},
    };
    cvx_weights *w = NULL;
    char one[65], two[65];

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        put_shards(INDEX_NAME, rows[i].index);
        refuses(dir, rows[i].status, rows[i].culprit, rows[i].why, NULL);
    }
    put_shards(INDEX_NAME, good);
    OK(cvx_weights_open(&w, dir));
    assert_int_equal(cvx_weights_count(w), 2);
    assert_string_equal(cvx_weights_file(w, 0), at("m-1.safetensors"));
    assert_string_equal(cvx_weights_file(w, 1), at("m-2.safetensors"));
    assert_int_equal(cvx_weights_bytes(w), 12);
    OK(cvx_weights_hash(w, one));
    cvx_weights_close(w);

    /* another byte, another hash */
    put_tensors("m-2.safetensors",
                "{\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, -1);
    OK(cvx_weights_open(&w, dir));
    OK(cvx_weights_hash(w, two));
    cvx_weights_close(w);
    assert_string_not_equal(one, two);

    /* the same tensor in two shards; a shard that is damaged */
    put_tensors("m-2.safetensors",
                "{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[8,8]}}", 8, -1);
    refuses(dir, CVX_EFORMAT, "tensor a", "more than one file", NULL);
    put("m-2.safetensors", "12345", 5);
    refuses(dir, CVX_EFORMAT, "m-2.safetensors", "5 bytes", NULL);
}

static void folders(void **state)
{
    cvx_weights *w = NULL;

    (void)state;
    refuses(at("absent"), CVX_EIO, "absent", "No such file", NULL);
    refuses(dir, CVX_EIO, dir, "no .safetensors file", NULL);
    put("empty.safetensors", "", 0);
    refuses(at("empty.safetensors"), CVX_EFORMAT, "empty.safetensors", "0 bytes", NULL);
    refuses(dir, CVX_EFORMAT, "empty.safetensors", NULL, NULL);
    put_tensors("diffusion_pytorch_model.fp16.safetensors", "{" A "}", 8, -1);
    refuses(dir, CVX_EIO, dir, "several .safetensors", NULL);
    assert_int_equal(unlink(at("empty.safetensors")), 0);
    OK(cvx_weights_open(&w, dir)); /* the only one, a variant */
    cvx_weights_close(w);
    put_tensors("diffusion_pytorch_model.safetensors",
                "{\"plain\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, -1);
    OK(cvx_weights_open(&w, dir)); /* the plain name goes first */
    assert_true(cvx_weights_has(w, "plain"));
    cvx_weights_close(w);
    assert_int_equal(mkfifo(at("model.safetensors"), 0666), 0);
    refuses(at("model.safetensors"), CVX_EIO, "model.safetensors", "not a regular file", NULL);
}

static void long_path(void **state)
{
    char path[CVX_PATH_MAX + 100];

    (void)state;
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = 0;
    refuses(path, CVX_EINVAL, "path too long", NULL, NULL);
}

/* The index of a variant, in both spellings that diffusers has used. */
static void variant_index(void **state)
{
    static const char *const names[] = {"diffusion_pytorch_model.safetensors.index.fp16.json",
                                        "diffusion_pytorch_model.fp16.safetensors.index.json"};
    static const char good[] = INDEX("{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}");
    cvx_weights *w = NULL;

    (void)state;
    for (int i = 0; i < 2; i++) {
        put_shards(names[i], good);
        OK(cvx_weights_open(&w, dir));
        assert_int_equal(cvx_weights_count(w), 2);
        cvx_weights_close(w);
        if (i == 0) {
            assert_int_equal(unlink(at(names[0])), 0);
        }
    }
    put_shards(names[0], good);
    refuses(dir, CVX_EIO, "several .index.json", dir, NULL);
}

static void typed_access(void **state)
{
    cvx_weights *w = NULL;
    cvx_tensor t = {.ndim = 77};
    cvx_arena arena;

    (void)state;
    put_tensors("t.safetensors",
                "{\"x.weight\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
                "\"y\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[12,16]},"
                "\"z\":{\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[16,17]}}",
                17, -1);
    OK(cvx_weights_open(&w, at("t.safetensors")));
    static const struct {
        const char *name;
        int ndim;
        int64_t dim[3];
        const char *culprit, *why;
    } rows[] = {
        {"x.bias", 1, {2}, "no tensor x.bias", NULL},
        {"x.weight", 2, {3, 2}, "[2, 3] f16", "[3, 2]"},
        {"x.weight", 1, {6}, "[2, 3] f16", "[6]"},
        {"x.weight", 3, {2, 3, 1}, "[2, 3] f16", "[2, 3, 1]"},
        {"x.weight", 2, {2, 4}, "x.weight", "[2, 4]"},
        {"y", 1, {4}, "tensor y is u8", "F32, F16 or BF16"},
        {"z", 1, {1}, "tensor z", "F32, F16 or BF16"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(cvx_weights_get(w, &t, rows[i].name, rows[i].ndim, rows[i].dim),
                         CVX_EFORMAT);
        assert_non_null(strstr(cvx_error(), "t.safetensors"));
        assert_non_null(strstr(cvx_error(), rows[i].culprit));
        assert_true(rows[i].why == NULL || strstr(cvx_error(), rows[i].why) != NULL);
        assert_int_equal(t.ndim, 77);
    }
    OK(CVX_WEIGHT(w, &t, "x.weight", -1, 3));
    assert_int_equal(t.dim[0], 2);
    assert_string_equal(t.name, "x.weight");

    OK(cvx_arena_open(&arena, "weights", 1 << 16));
    OK(CVX_WEIGHT_F32(w, &arena, &t, "x.weight", 2, 3));
    assert_int_equal(t.dtype, CVX_F32);
    assert_true(((const float *)t.data)[5] == cvx_f16_to_f32(0x0b0a));

    float mine[6] = {1, 2, 3, 4, 5, 6}, got[4];
    cvx_tensor part, out = CVX_VIEW(got, CVX_F32, 2, 2);
    const cvx_weights_part right = {0, 2, 1, 2};
    const cvx_weights_change change = {.up = CVX_VIEW(mine, CVX_F32, 2, 1),
                                       .down = CVX_VIEW(mine, CVX_F32, 1, 3),
                                       .scale = 2};
    OK(cvx_weights_get_part(w, &part, "x.weight", 2, 3, &right));
    assert_int_equal(part.stride[0], 3);
    assert_int_equal(cvx_weights_in_place(w), 0);
    cvx_weights_count_in_place(w, &part);
    assert_int_equal(cvx_weights_in_place(w), 8);
    float corner = cvx_get_f32(&t, 5);
    OK(cvx_weights_add_change(w, "x.weight", &change));
    assert_int_equal(cvx_weights_changes(w, "x.weight"), 1);
    assert_int_equal(CVX_WEIGHT(w, &part, "x.weight", 2, 3), CVX_EINTERNAL);
    float product = 2 * mine[1] * mine[2];
    OK(cvx_weights_changed_part(w, &out, "x.weight", 2, 3, &right));
    assert_true(got[3] == corner + product);
    out = CVX_VIEW(mine, CVX_F32, 6);
    cvx_weights_release(w, &out); /* not in the map: left alone */
    assert_true(mine[5] == 6);
    assert_int_equal(cvx_weights_add_change(w, "none", &change), CVX_EFORMAT);
    cvx_arena_close(&arena);
    cvx_weights_close(w);
}

/* Pages given back are read again. */
static void released_pages(void **state)
{
    cvx_weights *w = NULL;
    cvx_tensor t;
    char header[128];
    const size_t n = 100000;

    (void)state;
    snprintf(header, sizeof header,
             "{\"a\":{\"dtype\":\"BF16\",\"shape\":[%zu],\"data_offsets\":[0,%zu]}}", n / 2, n);
    put_tensors("t.safetensors", header, n, -1);
    OK(cvx_weights_open(&w, at("t.safetensors")));
    OK(CVX_WEIGHT(w, &t, "a", -1));
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(((const unsigned char *)t.data)[i], i & 255);
        }
        cvx_weights_release(w, &t);
    }
    cvx_weights_close(w);
}

/* Every dtype, a strided view, a scalar and an empty tensor go out and come back. */
static void round_trip(void **state)
{
    float f[24];
    uint16_t h[6] = {1, 2, 3, 4, 5, 6};
    double d = 0.1;
    uint8_t u[3] = {7, 8, 9};
    int64_t i64[2] = {INT64_MIN, INT64_MAX};
    cvx_weights *w = NULL;

    (void)state;
    for (int i = 0; i < 24; i++) {
        f[i] = (float)i;
    }
    cvx_tensor t[9] = {CVX_VIEW(f, CVX_F32, 2, 3, 4), CVX_VIEW(h, CVX_F16, 6),
                       CVX_VIEW(h, CVX_BF16, 2, 3),   CVX_VIEW(u, CVX_U8, 3),
                       CVX_VIEW(i64, CVX_I64, 2),     CVX_VIEW(f, CVX_F32, 5, 0),
                       CVX_VIEW(f, CVX_F32, 2, 3, 4), CVX_VIEW(f, CVX_F32, 2, 3, 4)};
    t[6] = cvx_slice(&t[6], 2, 1, 2); /* rows of 2 within rows of 4 */
    t[7].dim[0] = 4;                  /* transposed: [4, 3, 2] */
    t[7].dim[2] = 2;
    t[7].stride[0] = 1;
    t[7].stride[2] = 12;
    t[8] = cvx_view(&d, CVX_F64, 0, NULL);
    static const char *const names[] = {"f", "h", "b", "u", "i", "empty", "slice", "turned", "d"};
    static const char *const meta[] = {"prompt", "\xe2\x82\xac \"quoted\"\n", "n", ""};
    OK(cvx_safetensors_write(at("o.safetensors"), t, names, 9, meta, 2));
    OK(cvx_weights_open(&w, at("o.safetensors")));
    assert_int_equal(cvx_weights_count(w), 9);
    assert_string_equal(cvx_weights_meta(w, "prompt"), meta[1]);
    assert_string_equal(cvx_weights_meta(w, "n"), "");
    for (int i = 0; i < 9; i++) {
        cvx_tensor g = cvx_weights_at(w, cvx_weights_find(w, names[i]));
        assert_int_equal(g.dtype, t[i].dtype);
        assert_int_equal(g.ndim, t[i].ndim);
        assert_memory_equal(g.dim, t[i].dim, (size_t)g.ndim * sizeof *g.dim);
        if (cvx_is_dense(&t[i])) {
            assert_memory_equal(g.data, t[i].data, (size_t)cvx_numel(&g) * cvx_dtype_size(g.dtype));
        }
    }
    const float *s = cvx_weights_at(w, cvx_weights_find(w, "slice")).data;
    const float *r = cvx_weights_at(w, cvx_weights_find(w, "turned")).data;
    for (int i = 0; i < 12; i++) {
        assert_true(s[i] == (float)(i / 2 * 4 + 1 + i % 2));
    }
    for (int i = 0; i < 24; i++) {
        assert_true(r[i] == (float)(i / 6 + i / 2 % 3 * 4 + i % 2 * 12));
    }
    cvx_weights_close(w);

    snprintf(t[3].name, sizeof t[3].name, "own.name"); /* names from the tensors themselves */
    t[0] = t[3];
    OK(cvx_safetensors_write(at("o.safetensors"), t, NULL, 1, NULL, 0));
    OK(cvx_weights_open(&w, at("o.safetensors")));
    assert_true(cvx_weights_has(w, "own.name"));
    cvx_weights_close(w);
}

static int files_in_dir(void)
{
    char command[64];
    snprintf(command, sizeof command, "exit $(ls -A '%s' | wc -l)", dir);
    return WEXITSTATUS(system(command));
}

/* A write that fails says so, keeps the old file and leaves nothing behind. */
static void failing_writes(void **state)
{
    static float big[1 << 16];
    cvx_tensor t = CVX_VIEW(big, CVX_F32, 1 << 16), two[2] = {t, t};
    static const char *const twice[] = {"x", "x"}, *const bad[] = {"\xff"}, *const good[] = {"x"};
    static const char *const bad_meta[] = {"k", "\xff"};
    struct rlimit old, small;

    (void)state;
    put("old.safetensors", "kept", 4);
    assert_int_equal(cvx_safetensors_write(at("old.safetensors"), two, twice, 2, NULL, 0),
                     CVX_EINVAL);
    assert_non_null(strstr(cvx_error(), "named x"));
    assert_int_equal(cvx_safetensors_write(at("old.safetensors"), &t, bad, 1, NULL, 0), CVX_EINVAL);
    assert_int_equal(cvx_safetensors_write(at("old.safetensors"), &t, good, 1, bad_meta, 1),
                     CVX_EINVAL);
    assert_non_null(strstr(cvx_error(), "UTF-8"));

    assert_int_equal(cvx_safetensors_write(at("absent/o.safetensors"), &t, good, 1, NULL, 0),
                     CVX_EIO);
    assert_non_null(strstr(cvx_error(), "absent/o.safetensors"));
    assert_int_equal(
        cvx_safetensors_write(at("old.safetensors/o.safetensors"), &t, good, 1, NULL, 0), CVX_EIO);
    assert_int_equal(cvx_safetensors_write(dir, &t, good, 1, NULL, 0), CVX_EIO);

    /* as a full disk, for every place at which it may fill up */
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    static const rlim_t limits[] = {0, 4, 8, 40, 4096, 100000, 4 << 16};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        small = (struct rlimit){limits[i], old.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        cvx_status st = cvx_safetensors_write(at("old.safetensors"), &t, good, 1, NULL, 0);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
        assert_int_equal(st, CVX_EIO);
        assert_non_null(strstr(cvx_error(), "old.safetensors: File too large"));
        assert_int_equal(files_in_dir(), 1);
    }
    char *text = NULL;
    size_t n;
    OK(cvx_file_read(&text, &n, at("old.safetensors"), 100));
    assert_string_equal(text, "kept");
    free(text);
}

#define IN_DIR(f) cmocka_unit_test_setup(f, fresh_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(bad_headers),  IN_DIR(cut_anywhere),   IN_DIR(accepted),   IN_DIR(misaligned),
        IN_DIR(shards),       IN_DIR(folders),        IN_DIR(long_path),  IN_DIR(variant_index),
        IN_DIR(typed_access), IN_DIR(released_pages), IN_DIR(round_trip), IN_DIR(failing_writes)};

    if (mkdtemp(dir) == NULL) {
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, empty_dir);
}
