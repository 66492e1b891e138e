/* Tensor parallelism at real widths: what each rank holds of a transformer or T5 in a measuring pass over
 * checkpoints that are all header and no data. */
#include <string.h>
#include <unistd.h>

#include "../golden/golden.h"
#include "base/file.h"
#include "model/dit/dit.h"
#include "model/t5/t5.h"

#define T5_LAYERS 2
#define RANKS 16

/* A checkpoint in the making: F16 tensors one after the other. */
typedef struct writer {
    char json[1 << 18];
    size_t len;
    int64_t bytes, sharded; /* of data; of the weights that tensor ranks share */
} writer;

static void put(writer *w, bool sharded, const char *name, int ndim, const int64_t *dim)
{
    int64_t n = 2;
    char dims[96] = "";
    size_t at = 0;

    for (int i = 0; i < ndim; i++) {
        n *= dim[i];
        at += (size_t)snprintf(dims + at, sizeof dims - at, "%s%lld", i > 0 ? "," : "",
                               (long long)dim[i]);
    }
    w->len += (size_t)snprintf(w->json + w->len, sizeof w->json - w->len,
                               "%s\"%s\":{\"dtype\":\"F16\",\"shape\":[%s],\"data_offsets\":"
                               "[%lld,%lld]}",
                               w->len > 1 ? "," : "", name, dims, (long long)w->bytes,
                               (long long)(w->bytes + n));
    assert_true(w->len < sizeof w->json);
    w->bytes += n;
    w->sharded += sharded ? n : 0;
}
#define PUT(w, sharded, name, ...)                                                                 \
    put((w), (sharded), (name), CVX_NDIM(__VA_ARGS__), CVX_DIMS(__VA_ARGS__))

/* BASE.NAME.weight [n, k] or, with k == 0, [n], and its bias. */
static void put_layer(writer *w, bool sharded, bool bias, const char *base, const char *name,
                      int64_t n, int64_t k)
{
    char full[160];

    snprintf(full, sizeof full, "%s%s.weight", base, name);
    if (k > 0) {
        PUT(w, sharded, full, n, k);
    } else {
        PUT(w, sharded, full, n);
    }
    if (bias) {
        snprintf(full, sizeof full, "%s%s.bias", base, name);
        PUT(w, false, full, n);
    }
}

/* The file, closed at its length without data; opened. */
static cvx_weights *finish(writer *w)
{
    char path[] = "/tmp/cvx-shards-XXXXXX.safetensors";
    cvx_weights *out = NULL;
    int fd = mkstemps(path, (int)strlen(".safetensors"));
    uint64_t n;

    assert_true(fd >= 0);
    w->json[0] = '{';
    w->json[w->len++] = '}';
    while (w->len % 8 != 0) { /* data that is not aligned would be copied */
        w->json[w->len++] = ' ';
    }
    n = w->len;
    assert_int_equal(write(fd, &n, sizeof n), sizeof n);
    assert_int_equal(write(fd, w->json, w->len), (ssize_t)w->len);
    assert_int_equal(ftruncate(fd, (off_t)(sizeof n + w->len) + w->bytes), 0);
    close(fd);
    OK(cvx_weights_open(&out, path));
    unlink(path);
    return out;
}

static void put_block(writer *w, const char *base, int64_t c, int64_t te)
{
    static const char *const attention[] = {"attn1.to_q", "attn1.to_k", "attn1.to_v",
                                            "attn1.to_out.0"};

    for (int i = 0; i < 4; i++) {
        put_layer(w, true, true, base, attention[i], c, c);
    }
    put_layer(w, true, true, base, "ff.net.0.proj", 4 * c, c);
    put_layer(w, true, true, base, "ff.net.2", c, 4 * c);
    put_layer(w, true, true, base, "norm1.linear", 6 * c, te);
    put_layer(w, true, true, base, "norm2.linear", 6 * c, te);
    put_layer(w, false, true, base, "norm1.norm", c, 0);
    put_layer(w, false, true, base, "norm2.norm", c, 0);
    put_layer(w, false, true, base, "attn1.norm_q", 64, 0);
    put_layer(w, false, true, base, "attn1.norm_k", 64, 0);
}

/* CogVideoX 1.0: 2b has 30 heads and 30 layers, 5b 48 and 42. */
static cvx_weights *make_dit(writer *w, cvx_dit_config *cfg, int64_t heads, int64_t layers)
{
    int64_t c = heads * 64, te = 512;
    char base[64];

    *w = (writer){.len = 1};
    *cfg = (cvx_dit_config){.num_attention_heads = heads,
                            .attention_head_dim = 64,
                            .num_layers = layers,
                            .in_channels = 16,
                            .out_channels = 16,
                            .text_embed_dim = 4096,
                            .time_embed_dim = te,
                            .patch_size = 2,
                            .norm_affine = true,
                            .attention_bias = true,
                            .patch_bias = true};
    put_layer(w, false, true, "", "time_embedding.linear_1", te, c);
    put_layer(w, false, true, "", "time_embedding.linear_2", te, te);
    put_layer(w, false, true, "", "patch_embed.text_proj", c, 4096);
    PUT(w, false, "patch_embed.proj.weight", c, 16, 2, 2);
    PUT(w, false, "patch_embed.proj.bias", c);
    put_layer(w, false, true, "", "norm_final", c, 0);
    put_layer(w, false, true, "", "norm_out.norm", c, 0);
    put_layer(w, false, true, "", "norm_out.linear", 2 * c, te);
    put_layer(w, false, true, "", "proj_out", 64, c);
    for (int64_t i = 0; i < layers; i++) {
        snprintf(base, sizeof base, "transformer_blocks.%lld.", (long long)i);
        put_block(w, base, c, te);
    }
    return finish(w);
}

/* The XXL encoder's widths. */
static cvx_weights *make_t5(writer *w, cvx_t5_config *cfg)
{
    static const char *const attention[] = {"q", "k", "v", "o"};
    char base[64], name[64];
    const int64_t d = 4096, ff = 10240;

    *w = (writer){.len = 1};
    *cfg = (cvx_t5_config){.d_model = d,
                           .d_ff = ff,
                           .d_kv = 64,
                           .num_heads = 64,
                           .num_layers = T5_LAYERS,
                           .vocab_size = 32128,
                           .relative_attention_num_buckets = 32,
                           .relative_attention_max_distance = 128,
                           .layer_norm_epsilon = 1e-6};
    PUT(w, false, "shared.weight", 32128, d);
    PUT(w, false, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 32, 64);
    PUT(w, false, "encoder.final_layer_norm.weight", d);
    for (int i = 0; i < T5_LAYERS; i++) {
        snprintf(base, sizeof base, "encoder.block.%d.", i);
        for (int j = 0; j < 4; j++) {
            snprintf(name, sizeof name, "layer.0.SelfAttention.%s", attention[j]);
            put_layer(w, true, false, base, name, d, d);
        }
        put_layer(w, true, false, base, "layer.1.DenseReluDense.wi_0", ff, d);
        put_layer(w, true, false, base, "layer.1.DenseReluDense.wi_1", ff, d);
        put_layer(w, true, false, base, "layer.1.DenseReluDense.wo", d, ff);
        put_layer(w, false, false, base, "layer.0.layer_norm", d, 0);
        put_layer(w, false, false, base, "layer.1.layer_norm", d, 0);
    }
    return finish(w);
}

/* Bytes that rank `rank` of `size` tensor ranks holds. */
static int64_t held(cvx_ctx *ctx, cvx_weights *w, const void *cfg, bool t5, bool pack, int size,
                    int rank)
{
    const cvx_degrees d = {{1, 1, 1, 1, 1, size}};
    cvx_mesh *mesh = NULL;
    cvx_arena a;
    cvx_load l = {.ctx = ctx, .arena = &a, .weights = w, .pack = pack};
    cvx_dit *dit = NULL;
    cvx_t5 *enc = NULL;
    int64_t before = cvx_weights_in_place(w);

    OK(cvx_mesh_dry(&mesh, &d, rank));
    l.mesh = mesh;
    cvx_arena_open_measure(&a, "weights");
    if (t5) {
        OK(cvx_t5_open(&enc, &l, cfg));
    } else {
        OK(cvx_dit_open(&dit, &l, cfg));
    }
    cvx_dit_close(dit);
    cvx_t5_close(enc);
    cvx_mesh_close(mesh);
    return (int64_t)a.used + cvx_weights_in_place(w) - before;
}

/* With N tensor ranks each holds at most 1.1/N of what is sharded and all of the rest, and together they hold
 * everything. ref packs to f32: twice the file's F16. */
static void check(cvx_weights *w, const writer *file, const void *cfg, bool t5)
{
    cvx_ctx *ctx = NULL;

    OK(cvx_ctx_open(&ctx, &(cvx_ctx_options){.backend = "ref"}));
    ctx->measure = true;
    for (int pack = 0; pack < 2; pack++) {
        int64_t sharded = file->sharded * (pack ? 2 : 1);
        int64_t rest = held(ctx, w, cfg, t5, pack, 1, 0) - sharded;
        assert_true(rest > 0 && (pack || rest <= 3 * (file->bytes - file->sharded)));
        for (int n = 1; n <= RANKS; n++) {
            int64_t sum = 0;
            for (int r = 0; r < n; r++) {
                int64_t own = held(ctx, w, cfg, t5, pack, n, r);
                sum += own;
                if ((double)own > 1.1 / n * (double)sharded + (double)rest) {
                    fail_msg("rank %d of %d holds %lld bytes of %lld + %lld", r, n, (long long)own,
                             (long long)sharded, (long long)rest);
                }
            }
            assert_true(sum >= sharded + rest);
        }
    }
    cvx_ctx_close(ctx);
}

static void transformer(void **state)
{
    static writer file;
    cvx_dit_config cfg;

    (void)state;
    for (int64_t i = 0; i < 2; i++) {
        cvx_weights *w = make_dit(&file, &cfg, i == 0 ? 30 : 48, i == 0 ? 30 : 42);
        check(w, &file, &cfg, false);
        cvx_weights_close(w);
    }
}

static void text_encoder(void **state)
{
    static writer file;
    cvx_t5_config cfg;

    (void)state;
    cvx_weights *w = make_t5(&file, &cfg);
    check(w, &file, &cfg, true);
    cvx_weights_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(transformer),
                                       cmocka_unit_test(text_encoder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
