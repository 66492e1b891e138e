/* RIFE: the frame between two frames (IFNet of Huang et al., arXiv 2011.06294; the layout with a time plane of
 * Practical-RIFE 3.9 to 4.6: IFNet_HDv3.py). Four blocks refine optical flow and a mask from coarse to fine; the
 * two frames, warped along the flow, are mixed by the mask. */
#ifndef CVX_MODEL_RIFE_RIFE_H
#define CVX_MODEL_RIFE_RIFE_H

#include "model/pictures.h"

#define CVX_RIFE_BLOCKS 4

typedef struct cvx_rife_config {
    int64_t channels[CVX_RIFE_BLOCKS]; /* multiples of 4 */
    int64_t inputs[CVX_RIFE_BLOCKS];   /* channels of a block's input: 7, then 12 */
    double scales[CVX_RIFE_BLOCKS];    /* how much smaller a block's picture is: 8, 4, 2, 1 */
    int64_t convs;                     /* of a block: 8 */
    double
        doubling; /* pixels: both flows of the second block longer than this double all scales; 0: never */
    int64_t pad; /* frames are padded to multiples of it */
} cvx_rife_config;

/* Reads DIR/config.json. CVX_EFORMAT, CVX_EUNSUPPORTED (another architecture, no time plane) naming file and key. */
cvx_status cvx_rife_config_load(cvx_rife_config *out, const char *dir) CVX_CHECK;

typedef struct cvx_rife cvx_rife;

/* Opens the network of l->weights. Which of the layouts it is (PReLU after each convolution and one skip over a
 * block's convolutions, or leaky ReLU, a skip around each with `beta`, and a pixel shuffle at the end) is seen from
 * the tensors that are there. l->weights is not needed afterwards. */
cvx_status cvx_rife_open(cvx_rife **out, const cvx_load *l, const cvx_rife_config *cfg) CVX_CHECK;
void cvx_rife_close(cvx_rife *m); /* accepts NULL */
cvx_ctx *cvx_rife_ctx(const cvx_rife *m);

/* What a frame's making shows; NULLs are not wanted. Memory of the caller, dense. */
typedef struct cvx_rife_tap {
    float *flow;  /* [h, w, 4]: pixels (dx, dy) to the first and to the second frame */
    float *mask;  /* [h, w]: its sigmoid is the first frame's share */
    float *flow0; /* the first block's flow and mask */
    float *mask0;
    bool doubled;
} cvx_rife_tap;

/* y <- the frame at time t in (0, 1) between a and b. All [1, h, w, 4] f32 dense, RGB in 0..1 and a fourth channel
 * that must be finite and is not used; y is neither a nor b. h and w are multiples of 4 and of 4 times every
 * scale (cfg.pad gives such), and scales double only where twice that divides too. step: memory for the work, given back. */
cvx_status cvx_rife_frame(cvx_rife *m, cvx_arena *step, const cvx_tensor *y, const cvx_tensor *a,
                          const cvx_tensor *b, double t, cvx_rife_tap *tap) CVX_CHECK;

#endif
