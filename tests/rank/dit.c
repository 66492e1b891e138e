/* The transformer on N ranks against one, which every rank runs for itself: over all factorisations of N into cfg x
 * ring x ulysses x tensor, for the five tiny variants, with uneven and empty shards of rows and heads. Checked are
 * the output, the bytes and calls of the exchanges against their formulas, the same of a measuring pass, and
 * the bytes of weights of each tensor rank.
 *
 * Bound of ring and tensor: beside one rank's, the sums of a block (attention's output, to_out, ff.net.2) are
 * rounded 3·R times by merges and T times by the reduction, and in another order some 30 times; all relative
 * to operands at most 8 times the result, 2^-24 each. Independent roundings add up as the square root of their
 * number; 4 sums of the two blocks, R, T <= 8: 8·2^-24·sqrt(4·(24 + 8 + 30)) < 8e-6. The order of a sum of
 * values that nearly cancel is worth more in single elements, not in the RMS over all. In bf16 operands are rounded by
 * 2^-9, and what differs in the last bit of f32 may be rounded apart: 2^15 times as much. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/dit/dit.h"
#include "parallel/world/world.h"

#include "must.h"

#define BOUND 1e-5
#define DATA CVX_SOURCE_DIR "/tests/data/variants/"

typedef struct counts {
    int64_t calls[CVX_COMM_KINDS], bytes[CVX_COMM_KINDS];
} counts;

typedef struct size {
    int64_t frames, height, width, text_len, batch;
} size;

/* What one run of the transformer gave. */
typedef struct result {
    float *out; /* [batch, frames, out_channels, h, w] */
    int64_t n;
    counts moved;
    size_t step_peak, weights;
    int64_t element; /* bytes of a weight in the file */
} result;

typedef struct variant {
    const char *name;
    cvx_dit_config cfg;
    char dir[512];
} variant;

static bool ok = true;
static cvx_comm *world;
static cvx_dtype compute; /* of all passes, for now */

static void wrong(const char *what, const variant *v, const cvx_degrees *d, double got, double want)
{
    ok = false;
    fprintf(stderr, "rank %d %s cfg %d ring %d ulysses %d tensor %d: %s is %.9g, %.9g is right\n",
            world->rank, v->name, d->n[CVX_MESH_CFG], d->n[CVX_MESH_RING], d->n[CVX_MESH_ULYSSES],
            d->n[CVX_MESH_TENSOR], what, got, want);
}

static cvx_tensor fill(cvx_arena *a, uint32_t seed, int ndim, const int64_t *dim)
{
    cvx_tensor t = {0};

    MUST(cvx_tensor_alloc(a, &t, CVX_F32, ndim, dim));
    for (int64_t i = 0; !a->measure && i < cvx_numel(&t); i++) {
        seed = seed * 1664525u + 1013904223u;
        ((float *)t.data)[i] = (float)((int32_t)(seed >> 8) - (1 << 23)) * 0x1p-22f;
    }
    return t;
}

static counts count(const cvx_mesh *m)
{
    counts c = {0};

    for (int i = 0; i < CVX_MESH_COMMS; i++) {
        for (int k = 0; k < CVX_COMM_KINDS; k++) {
            c.calls[k] += cvx_mesh_comm(m, i)->stat[k].calls;
            c.bytes[k] += cvx_mesh_comm(m, i)->stat[k].bytes_sent;
        }
    }
    return c;
}

/* One forward pass on the mesh, or with `measure` the walk that only counts. */
static result forward(const variant *v, const cvx_mesh *mesh, const size *z, cvx_exchange exchange,
                      bool pack, bool measure)
{
    cvx_ctx *ctx = NULL;
    cvx_weights *w = NULL;
    cvx_arena arena[3];
    cvx_dit *dit = NULL;
    cvx_dit_job job;
    result r = {0};
    static const char *const names[] = {"weights", "job", "step"};

    MUST(cvx_ctx_open(&ctx, &(cvx_ctx_options){.threads = 1, .compute = compute}));
    ctx->measure = measure;
    cvx_mesh *dry = NULL;
    if (measure) {
        MUST(cvx_mesh_dry(&dry, &mesh->degrees, mesh->world->rank));
        mesh = dry;
    }
    for (int i = 0; i < 3; i++) {
        if (measure) {
            cvx_arena_open_measure(&arena[i], names[i]);
        } else {
            MUST(cvx_arena_open(&arena[i], names[i], (size_t)1 << 28));
        }
    }
    MUST(cvx_weights_open(&w, v->dir));
    cvx_load l = {.ctx = ctx,
                  .arena = &arena[0],
                  .weights = w,
                  .pack = pack,
                  .mesh = mesh,
                  .exchange = exchange};
    MUST(cvx_dit_open(&dit, &l, &v->cfg));
    cvx_dit_shape s = {z->batch, z->frames, z->height, z->width, z->text_len};
    cvx_tensor text = fill(&arena[1], 1, 3, CVX_DIMS(z->batch, z->text_len, v->cfg.text_embed_dim));
    cvx_tensor in =
        fill(&arena[1], 2, 4, CVX_DIMS(z->frames, v->cfg.in_channels, z->height, z->width));
    cvx_tensor out = fill(&arena[1], 3, 5,
                          CVX_DIMS(z->batch, z->frames, v->cfg.out_channels, z->height, z->width));
    MUST(cvx_dit_prepare(dit, &job, &arena[1], &arena[2], &s, &text));
    counts before = count(mesh);
    MUST(cvx_dit_forward(dit, &job, &arena[2], &out, &in, 500, NULL, NULL));
    r.moved = count(mesh);
    for (int k = 0; k < CVX_COMM_KINDS; k++) {
        r.moved.calls[k] -= before.calls[k];
        r.moved.bytes[k] -= before.bytes[k];
    }
    r.step_peak = arena[2].peak;
    cvx_tensor some;
    MUST(CVX_WEIGHT(w, &some, "proj_out.weight", -1, -1));
    r.element = (int64_t)cvx_dtype_size(some.dtype);
    r.weights = arena[0].used + (size_t)cvx_weights_in_place(w);
    if (!measure) {
        r.n = cvx_numel(&out);
        r.out = malloc((size_t)r.n * sizeof *r.out);
        memcpy(r.out, out.data, (size_t)r.n * sizeof *r.out);
    }
    cvx_dit_close(dit);
    cvx_mesh_close(dry);
    for (int i = 0; i < 3; i++) {
        cvx_arena_close(&arena[i]);
    }
    cvx_weights_close(w);
    cvx_ctx_close(ctx);
    return r;
}

static double relative_rms(const result *a, const result *b)
{
    double diff = 0, ref = 0;

    for (int64_t i = 0; i < a->n; i++) {
        double d = (double)a->out[i] - (double)b->out[i];
        diff += d * d;
        ref += (double)b->out[i] * (double)b->out[i];
    }
    double r = sqrt(diff / ref);
    return isfinite(r) ? r : INFINITY;
}

static void add(counts *c, cvx_comm_kind kind, int64_t calls, int64_t bytes)
{
    c->calls[kind] += calls;
    c->bytes[kind] += bytes;
}

/* The exchanges of one block's attention, as docs/parallelism.md has them. */
static void expect_attention(counts *c, const variant *v, const cvx_mesh *m, int64_t total,
                             int64_t b, bool gather)
{
    const int *n = m->degrees.n;
    int u = n[CVX_MESH_ULYSSES], r = n[CVX_MESH_RING], ur = m->at[CVX_MESH_ULYSSES],
        rr = m->at[CVX_MESH_RING];
    int64_t hl =
        cvx_shard_of(v->cfg.num_attention_heads, n[CVX_MESH_TENSOR], m->at[CVX_MESH_TENSOR]).len;
    int64_t hd = v->cfg.attention_head_dim, mine = cvx_shard_of(total, u * r, rr * u + ur).len;
    int64_t place = 0, next = 0, h = cvx_shard_of(hl, u, ur).len;

    if (hl == 0) {
        return;
    }
    for (int i = 0; i < u; i++) {
        place += cvx_shard_of(total, u * r, rr * u + i).len;
        next += cvx_shard_of(total, u * r, (rr + 1) % r * u + i).len;
    }
    if (u > 1 && r == 1 && gather) {
        add(c, CVX_COMM_ALLGATHER, b, b * mine * 2 * hl * hd * 4 * (u - 1));
    } else if (u > 1) {
        add(c, CVX_COMM_ALLTOALL, 3 * b, 4 * b * hd * (mine * 3 * (hl - h) + (place - mine) * h));
    }
    if (r > 1) {
        add(c, CVX_COMM_SENDRECV, r - 1, 8 * b * (u > 1 ? h : hl) * hd * (total - next));
    }
}

static counts expect(const variant *v, const cvx_mesh *m, const size *z, cvx_exchange exchange)
{
    const cvx_dit_config *f = &v->cfg;
    int64_t pt = f->patch_size_t > 0 ? f->patch_size_t : 1, p = f->patch_size;
    int64_t video = z->frames / pt * (z->height / p) * (z->width / p);
    int64_t total = z->text_len + video, c = f->num_attention_heads * f->attention_head_dim;
    int64_t b = z->batch / m->degrees.n[CVX_MESH_CFG], t = m->degrees.n[CVX_MESH_TENSOR];
    int at = m->at[CVX_MESH_TENSOR];
    cvx_shard rows = cvx_shard_of(total, m->sequence->size, m->sequence->rank);
    int64_t text = rows.start + rows.len < z->text_len ? rows.len
                   : rows.start < z->text_len          ? z->text_len - rows.start
                                                       : 0;
    counts e = {0};

    for (int64_t i = 0; i < f->num_layers; i++) {
        expect_attention(&e, v, m, total, b, exchange == CVX_EXCHANGE_ALLGATHER);
        if (t > 1) {
            int64_t n = b * rows.len * c, own = cvx_shard_of(n, (int)t, at).len;
            add(&e, CVX_COMM_ALLREDUCE, 2, 2 * (4 * (n - own) + 4 * own * (t - 1)));
        }
    }
    if (t > 1) {
        int64_t own = cvx_shard_of(12 * f->num_layers, (int)t, at).len;
        add(&e, CVX_COMM_ALLGATHER, 1, 4 * own * c * (t - 1));
    }
    if (m->branches->size > 1) {
        add(&e, CVX_COMM_ALLGATHER, 1,
            4 * b * (rows.len - text) * p * p * pt * f->out_channels * (m->branches->size - 1));
    }
    return e;
}

static void same_counts(const char *what, const variant *v, const cvx_degrees *d, const counts *got,
                        const counts *want)
{
    char line[96];

    for (int k = 0; k < CVX_COMM_AGREE; k++) {
        snprintf(line, sizeof line, "%s, kind %d: calls", what, k);
        if (got->calls[k] != want->calls[k]) {
            wrong(line, v, d, (double)got->calls[k], (double)want->calls[k]);
        }
        snprintf(line, sizeof line, "%s, kind %d: bytes", what, k);
        if (got->bytes[k] != want->bytes[k]) {
            wrong(line, v, d, (double)got->bytes[k], (double)want->bytes[k]);
        }
    }
}

/* Bytes of what tensor rank `at` of t holds of the sharded weights: weights of e bytes an element, biases in
 * f32. */
static int64_t sharded(const cvx_dit_config *f, int64_t e, int t, int at)
{
    int64_t c = f->num_attention_heads * f->attention_head_dim, te = f->time_embed_dim;
    cvx_shard heads = cvx_shard_of(f->num_attention_heads, t, at), ff = cvx_dit_ff_shard(f, t, at);
    int64_t a = heads.len * f->attention_head_dim;
    int64_t mods = cvx_shard_of(12 * f->num_layers, t, at).len;
    int64_t biases = (f->attention_bias ? 3 * a : 0) + (heads.start == 0 && a > 0 ? c : 0) +
                     ff.len + (ff.start == 0 && ff.len > 0 ? c : 0);

    return e * (f->num_layers * (4 * a * c + 2 * ff.len * c) + mods * te * c) +
           4 * (f->num_layers * biases + mods * c);
}

/* Every tensor rank holds its share of what is sharded and all of the rest. Each tensor in the arena is rounded up
 * to 64 bytes. */
static void check_weights(const variant *v, const cvx_mesh *m, const result *many,
                          const result *one)
{
    const cvx_dit_config *f = &v->cfg;
    int64_t rest = (int64_t)one->weights - sharded(f, one->element, 1, 0);
    int64_t want =
        rest + sharded(f, one->element, m->degrees.n[CVX_MESH_TENSOR], m->at[CVX_MESH_TENSOR]);
    int64_t room = 64 * (f->num_layers * (24 + 2 * 12) + 32);

    if (llabs((int64_t)many->weights - want) > room) {
        wrong("bytes of weights", v, &m->degrees, (double)many->weights, (double)want);
    }
}

static void check_output(const variant *v, const cvx_mesh *m, const result *many, const result *one)
{
    bool exact = m->degrees.n[CVX_MESH_RING] == 1 && m->degrees.n[CVX_MESH_TENSOR] == 1;
    size_t bytes = (size_t)one->n * sizeof *one->out;
    double off = relative_rms(many, one);
    float *first = malloc(bytes);

    double bound = exact ? 0 : compute == CVX_F32 ? BOUND : 0x1p15 * BOUND;
    if (exact ? memcmp(many->out, one->out, bytes) != 0 : !(off <= bound)) {
        wrong("relative RMS", v, &m->degrees, off, bound);
    }
    memcpy(first, many->out, bytes);
    MUST(cvx_comm_broadcast(m->world, first, (int64_t)bytes, 0));
    if (memcmp(first, many->out, bytes) != 0) {
        wrong("difference from rank 0", v, &m->degrees, 1, 0);
    }
    free(first);
}

static void check_mesh(const variant *v, const cvx_degrees *d, const size *z, const result one[2])
{
    bool forms = d->n[CVX_MESH_ULYSSES] > 1 && d->n[CVX_MESH_RING] == 1;

    for (int form = CVX_EXCHANGE_ULYSSES; form <= (forms ? CVX_EXCHANGE_ALLGATHER : 1); form++) {
        cvx_mesh *m = NULL;
        MUST(cvx_mesh_open(&m, world, d));
        bool pack = form == CVX_EXCHANGE_ALLGATHER;
        result walk = forward(v, m, z, (cvx_exchange)form, pack, true);
        result many = forward(v, m, z, (cvx_exchange)form, pack, false);
        counts want = expect(v, m, z, (cvx_exchange)form);
        check_output(v, m, &many, &one[pack]);
        same_counts("run", v, d, &many.moved, &want);
        same_counts("measuring pass", v, d, &walk.moved, &want);
        if (walk.step_peak != many.step_peak || walk.weights != many.weights) {
            wrong("measured memory", v, d, (double)(walk.step_peak + walk.weights),
                  (double)(many.step_peak + many.weights));
        }
        if (!pack) {
            check_weights(v, m, &many, &one[0]);
        }
        free(many.out);
        cvx_mesh_close(m);
    }
}

/* Every mesh of `ranks` ranks; the sizes of the branches' batch as with guidance and without. */
static int check_variant(const variant *v, const size *z, int ranks)
{
    cvx_mesh *self = NULL;
    result one[2];
    int meshes = 0;

    MUST(cvx_mesh_self(&self));
    for (int pack = 0; pack < 2; pack++) {
        one[pack] = forward(v, self, z, CVX_EXCHANGE_AUTO, pack, false);
    }
    for (int cfg = 1; cfg <= (z->batch == 2 && ranks % 2 == 0 ? 2 : 1); cfg++) {
        for (int ring = 1; ring <= ranks / cfg; ring++) {
            for (int u = 1; u <= ranks / cfg / ring; u++) {
                int tensor = ranks / (cfg * ring * u);
                if (cfg * ring * u * tensor == ranks) {
                    check_mesh(v, &(cvx_degrees){{1, 1, cfg, ring, u, tensor}}, z, one);
                    meshes++;
                }
            }
        }
    }
    free(one[0].out);
    free(one[1].out);
    cvx_mesh_close(self);
    return meshes;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        size sizes[2]; /* the second: fewer rows than ranks, but 2b needs all its text */
    } rows[] = {
        {"tiny-2b", {{3, 8, 12, 24, 2}, {1, 2, 4, 24, 1}}},
        {"tiny-5b", {{3, 8, 12, 24, 2}, {1, 2, 4, 3, 1}}},
        {"tiny-5b-i2v", {{5, 8, 12, 24, 2}, {1, 2, 2, 2, 2}}},
        {"tiny-1.5-5b", {{4, 8, 12, 24, 2}, {2, 2, 4, 3, 1}}},
        {"tiny-1.5-5b-i2v", {{4, 8, 12, 24, 2}, {2, 2, 2, 2, 2}}},
    };
    int meshes = 0;

    MUST(cvx_world_open(&world, &argc, &argv));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        variant v = {.name = rows[i].name};
        snprintf(v.dir, sizeof v.dir, DATA "%s/transformer", rows[i].name);
        MUST(cvx_dit_config_load(&v.cfg, v.dir));
        for (int k = 0; k < 2; k++) {
            compute = CVX_F32;
            meshes += check_variant(&v, &rows[i].sizes[k], world->size);
        }
        compute = CVX_BF16;
        meshes += check_variant(&v, &rows[i].sizes[0], world->size);
    }
    int code = ok ? CVX_OK : CVX_EINTERNAL;
    cvx_status all = cvx_comm_agree(world, (cvx_status)code);
    if (world->rank == 0) {
        printf("%d ranks: %d meshes %s\n", world->size, meshes, all == CVX_OK ? "ok" : "WRONG");
    }
    cvx_comm_close(world);
    cvx_world_finish(1);
    return all == CVX_OK ? 0 : 1;
}
