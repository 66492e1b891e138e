/* One instruction set level: its kernels and its table. The including file names it: CVX_LEVEL(x)
 * makes the table's symbol, CVX_LEVEL_NAME its name. Ops without an entry of their own are ref's,
 * where memory decides the speed and not arithmetic. */
#include <omp.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#include "kernels/cpu/math.inc.h"

#include "kernels/cpu/elementwise.inc.h"
#include "kernels/cpu/norm.inc.h"
#include "kernels/cpu/words.inc.h"

#if defined(__AMX_BF16__)
#include "kernels/cpu/gemm_amx.inc.h"
#define CVX_ATTENTION_PRODUCTS "kernels/cpu/attention_amx.inc.h"
#define BQ 384
#else
#include "kernels/cpu/gemm.inc.h"
#define CVX_ATTENTION_PRODUCTS "kernels/cpu/attention_words.inc.h"
#define BQ 96
#endif

#include "kernels/cpu/conv.inc.h"
#include "kernels/cpu/groupnorm.inc.h"
#include "kernels/cpu/image.inc.h"
#include "kernels/cpu/linear.inc.h"

#include "kernels/cpu/attention.inc.h"

const cvx_ops CVX_LEVEL(cvx_cpu_table_) = {
    .name = "cpu-" CVX_LEVEL_NAME,
    .pack = cpu_pack,
    .packed_bytes = cpu_packed_bytes,
    .linear = cpu_linear,
    .layer_norm = cpu_layer_norm,
    .rms_norm = cpu_rms_norm,
    .qk_norm_rope = cpu_qk_norm_rope,
    .attention = cpu_attention,
    .attention_merge = cpu_attention_merge,
    .gated_act = cpu_gated_act,
    .add = cpu_add,
    .embed = cvx_ref_embed,
    .patchify = cvx_ref_patchify,
    .unpatchify = cvx_ref_unpatchify,
    .sched_step = cvx_ref_sched_step,
    .combine = cvx_ref_combine,
    .conv3d = cpu_conv3d,
    .conv_input = cpu_conv_input,
    .group_norm_stats = cpu_group_norm_stats,
    .group_norm_finish = cvx_ref_group_norm_finish,
    .group_norm_apply = cpu_group_norm_apply,
    .avg_pool_time = cvx_ref_avg_pool_time,
    .strided_copy = cpu_strided_copy,
    .blend = cvx_ref_blend,
    .conv2d = cpu_conv2d,
    .resize = cpu_resize,
    .warp = cpu_warp,
    .sigmoid_mix = cpu_sigmoid_mix,
    .pixel_shuffle = cpu_pixel_shuffle,
    .abs_max = cpu_abs_max,
    .row_change = cpu_row_change,
};
