/* What conv.inc.h asks of conv_amx.inc.h, on levels without AMX. Part of a level file. */

static bool amx_takes(const cvx_tensor *w)
{
    (void)w;
    return false;
}

static size_t amx_block_bytes(const cvx_ctx *ctx, const cvx_tensor *w, bool up2)
{
    (void)ctx, (void)w, (void)up2;
    return 0;
}

static void amx_fold_block(char *out, const float *block, const cvx_ctx *ctx, const cvx_tensor *w,
                           bool up2)
{
    (void)out, (void)block, (void)ctx, (void)w, (void)up2;
}

static void amx_conv_task(const conv_job *j, int64_t task)
{
    (void)j, (void)task;
}

static cvx_status amx_conv_f32(cvx_ctx *ctx, const conv_call *a)
{
    (void)ctx, (void)a;
    return CVX_OK;
}

static void deal_amx_conv(conv_job *j, const cvx_ctx *ctx, const conv_call *a)
{
    (void)j, (void)ctx, (void)a;
}

static void conv_begin(int tile)
{
    (void)tile;
}

static cvx_dtype cpu_conv_input(const cvx_ctx *ctx, const cvx_tensor *w)
{
    (void)ctx, (void)w;
    return CVX_F32;
}
