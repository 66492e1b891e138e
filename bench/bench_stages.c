/* Seconds of the stages after the frames, models open and frames in memory:
 *     bench_stages rife|esrgan DIR WIDTH HEIGHT FRAMES THREADS [LEVEL]
 * One line a frame on stdout (seconds: of an interpolated frame, or of an enlarged one); with BENCH_OPS set the ops'
 * shares on stderr. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/progress.h"
#include "model/stages/stages.h"

static void check(cvx_status st)
{
    if (st != CVX_OK) {
        fprintf(stderr, "bench_stages: %s\n", cvx_error());
        exit(1);
    }
}

/* Smooth waves that move by two pixels from the one to the other. */
static uint8_t *picture(int64_t w, int64_t h, int64_t shift)
{
    uint8_t *p = malloc((size_t)(w * h * 3));

    for (int64_t i = 0; i < w * h * 3; i++) {
        int64_t x = i / 3 % w + shift, y = i / 3 / w;
        p[i] = (uint8_t)(128 + (x * 7 % 64) + (y * 5 % 48) - (i % 3) * 9);
    }
    return p;
}

int main(int argc, char **argv)
{
    cvx_ctx *ctx = NULL;
    cvx_stages *s = NULL;

    if (argc < 7) {
        fprintf(stderr,
                "usage: bench_stages rife|esrgan DIR WIDTH HEIGHT FRAMES THREADS [LEVEL]\n");
        return 2;
    }
    bool rife = strcmp(argv[1], "rife") == 0;
    cvx_stages_options o = {.rife = rife ? argv[2] : NULL,
                            .esrgan = rife ? NULL : argv[2],
                            .factor = 2};
    cvx_stages_input in = {.w = strtoll(argv[3], NULL, 10), .h = strtoll(argv[4], NULL, 10)};
    check(cvx_ctx_open(&ctx, &(cvx_ctx_options){.threads = (int)strtol(argv[6], NULL, 10),
                                                .isa = argc > 7 ? argv[7] : NULL}));
    check(cvx_stages_open(&s, ctx, &o, &in));
    const cvx_stages_plan *p = cvx_stages_plan_of(s);
    uint8_t *a = picture(in.w, in.h, 0), *b = picture(in.w, in.h, 2);
    uint8_t *out = malloc((size_t)(p->w * p->h * 3 * cvx_stages_most_frames(s)));
    check(cvx_stages_unit(s, 0, out, a, b)); /* the first touch of memory */
    memset(ctx->stat, 0, sizeof ctx->stat);
    for (long i = 0; i < strtol(argv[5], NULL, 10); i++) {
        double start = cvx_now();
        check(cvx_stages_unit(s, 0, out, a, b));
        printf("%.6f\n", cvx_now() - start);
    }
    for (int i = 0; i < CVX_OP_COUNT && getenv("BENCH_OPS") != NULL; i++) {
        const cvx_op_stat *t = &ctx->stat[i];
        if (t->calls > 0) {
            fprintf(stderr, "%-14s %6lld calls %8.3f s %8.1f GFLOP/s\n", cvx_op_names[i],
                    (long long)t->calls, t->seconds, t->flops / t->seconds / 1e9);
        }
    }
    free(a);
    free(b);
    free(out);
    cvx_stages_close(s);
    cvx_ctx_close(ctx);
    return 0;
}
