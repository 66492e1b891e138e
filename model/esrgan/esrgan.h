/* Real-ESRGAN: a picture enlarged (Wang et al., arXiv 2107.10833). Two networks: SRVGGNetCompact
 * (realesr-animevideov3) and RRDBNet (realesrgan-x4plus, -anime-6b), layouts as in BasicSR's srvgg_arch.py and
 * rrdbnet_arch.py. */
#ifndef CVX_MODEL_ESRGAN_ESRGAN_H
#define CVX_MODEL_ESRGAN_ESRGAN_H

#include "model/pictures.h"

typedef enum cvx_esrgan_kind { CVX_ESRGAN_SRVGG, CVX_ESRGAN_RRDB } cvx_esrgan_kind;

typedef struct cvx_esrgan_config {
    cvx_esrgan_kind kind;
    int64_t feat;   /* channels: 64 */
    int64_t convs;  /* SRVGG: inner convolutions */
    int64_t blocks; /* RRDB */
    int64_t grow;   /* RRDB: channels that each convolution of a dense block adds */
    int64_t factor; /* how much larger the network's output is: 4 */
    double scale;   /* what is made of it by cubic interpolation: the config's "out_scale" */
} cvx_esrgan_config;

/* Reads DIR/config.json. CVX_EFORMAT, CVX_EUNSUPPORTED naming file and key. */
cvx_status cvx_esrgan_config_load(cvx_esrgan_config *out, const char *dir) CVX_CHECK;

typedef struct cvx_esrgan cvx_esrgan;

/* l->weights is not needed afterwards. */
cvx_status cvx_esrgan_open(cvx_esrgan **out, const cvx_load *l,
                           const cvx_esrgan_config *cfg) CVX_CHECK;
void cvx_esrgan_close(cvx_esrgan *m); /* accepts NULL */
const cvx_esrgan_config *cvx_esrgan_config_of(const cvx_esrgan *m);
cvx_ctx *cvx_esrgan_ctx(const cvx_esrgan *m);

/* The network once: y [h·factor, w·factor, 3] (rows may have a stride) <- x [h, w, 3] f32, RGB in 0..1, any strides
 * but the last; not clamped. step: memory for the work, given back. */
cvx_status cvx_esrgan_run(cvx_esrgan *m, cvx_arena *step, const cvx_tensor *y,
                          const cvx_tensor *x) CVX_CHECK;

/* Pictures are cut into tiles. Each tile reads `margin` pixels more on every side that is not the picture's end, and
 * drops what is made of them; tiles overlap by `overlap` source pixels, over which they are mixed by ramps as
 * CogVideo's demo does it (tiled_scale of its utils.py). */
typedef struct cvx_esrgan_tiling {
    int64_t
        tile; /* side in source pixels; 0: the picture is cut evenly where it is too large for one piece */
    int64_t overlap, margin;
} cvx_esrgan_tiling;

/* Tiles without seams: the margin is as wide as the network looks (SRVGG), or as far as it matters (RRDB). */
cvx_esrgan_tiling cvx_esrgan_default_tiling(const cvx_esrgan_config *cfg);

/* CVX_EINVAL unless these tiles can cover pictures. */
cvx_status cvx_esrgan_check_tiling(const cvx_esrgan_tiling *t) CVX_CHECK;

/* The whole picture: host array y [h·factor, w·factor, 3] <- host array x [h, w, 3]. Where tiles overlap they are
 * clamped to 0..1 first, else nothing is. */
cvx_status cvx_esrgan_tiled(cvx_esrgan *m, cvx_arena *step, float *y, const float *x, int64_t h,
                            int64_t w, const cvx_esrgan_tiling *t) CVX_CHECK;

#endif
