/* Noise schedules and solvers: CogVideoXDDIMScheduler, CogVideoXDPMScheduler, DPMSolverMultistepScheduler (dpmsolver++,
 * order 2, midpoint) and UniPCMultistepScheduler (order 2, bh2) of diffusers (schedulers/scheduling_{ddim,dpm}_cogvideox.py,
 * scheduling_{dpmsolver,unipc}_multistep.py). Host arithmetic in double; the updates themselves are ops sched_step and
 * combine. */
#ifndef CVX_MODEL_SCHED_SCHED_H
#define CVX_MODEL_SCHED_SCHED_H

#include "base/rng.h"
#include "kernels/ops.h"

typedef enum cvx_sched_kind {
    CVX_SCHED_DDIM = 0,
    CVX_SCHED_DPM,         /* DPM-Solver++ 2M, SDE form: draws noise */
    CVX_SCHED_DPMSOLVERPP, /* DPM-Solver++ 2M */
    CVX_SCHED_UNIPC,
    CVX_SCHED_KINDS
} cvx_sched_kind;
typedef enum cvx_prediction { CVX_PRED_V = 0, CVX_PRED_EPSILON, CVX_PRED_SAMPLE } cvx_prediction;
typedef enum cvx_spacing { CVX_TRAILING = 0, CVX_LEADING, CVX_LINSPACE } cvx_spacing;

typedef struct cvx_sched_config {
    cvx_sched_kind kind; /* from _class_name; the caller may set another */
    cvx_prediction prediction;
    cvx_spacing spacing;
    int64_t num_train_timesteps, steps_offset;
    double beta_start, beta_end, snr_shift_scale;
    bool scaled_linear; /* beta_schedule: scaled_linear, else linear */
    bool rescale_betas_zero_snr, set_alpha_to_one;
} cvx_sched_config;

/* As --scheduler has it: "ddim", "dpm", "dpmsolver++", "unipc"; and diffusers' class. */
const char *cvx_sched_name(cvx_sched_kind kind);
const char *cvx_sched_class(cvx_sched_kind kind);
/* CVX_SCHED_KINDS for an unknown name. */
cvx_sched_kind cvx_sched_find(const char *name);

/* Reads DIR/scheduler_config.json. CVX_EUNSUPPORTED names an option of a multistep solver that is not computed here. */
cvx_status cvx_sched_config_load(cvx_sched_config *out, const char *dir) CVX_CHECK;

typedef struct cvx_sched cvx_sched;

/* Tables for num_inference_steps. CVX_EINVAL for counts that diffusers computes wrong: more steps than
 * num_train_timesteps, or rounding that gives a negative timestep (the message names the nearest counts
 * that work). */
cvx_status cvx_sched_open(cvx_sched **out, const cvx_sched_config *cfg,
                          int64_t num_inference_steps) CVX_CHECK;
void cvx_sched_close(cvx_sched *s);

/* Its config and alphas_cumprod, num_train_timesteps values. Borrowed. */
const cvx_sched_config *cvx_sched_cfg(const cvx_sched *s);
const double *cvx_sched_alphas(const cvx_sched *s);

/* V2V: keep only the last min(int(n·strength), n) steps (get_timesteps of the pipeline). */
cvx_status cvx_sched_set_strength(cvx_sched *s, double strength) CVX_CHECK;

/* Steps to run, and the timestep of step i (0-based, largest first). */
int64_t cvx_sched_steps(const cvx_sched *s);
int64_t cvx_sched_timestep(const cvx_sched *s, int64_t i);
/* num_inference_steps as given, before strength. */
int64_t cvx_sched_asked(const cvx_sched *s);

/* Factors (a, b) of add_noise at the first step: latents = a·x + b·noise, in f32 as torch rounds them. */
void cvx_sched_add_noise(const cvx_sched *s, float *a, float *b);

/* Guidance of step i: the scale itself, or with dynamic CFG diffusers'
 * 1 + scale·(1 - cos(pi·((n - t)/n)^5))/2 where n counts the steps to run. */
double cvx_sched_guidance(const cvx_sched *s, int64_t i, double guidance_scale, bool dynamic);

/* Sets of latents that a solver keeps from step to step: 0 for DDIM, the previous x0 for DPM and DPM-Solver++, four for
 * UniPC (the sample that step i was taken from, and x0 of step j in set 1 + j % 3). */
int64_t cvx_sched_kept(cvx_sched_kind kind);

/* Draws of noise in step i: 0, 1 or 2 of which the last is used (DPM). */
int cvx_sched_draws(const cvx_sched *s, int64_t i);

/* Coefficients of op sched_step for step i (see kernels/ops.h); old_x0 counts from step 1 on. For UniPC they leave the
 * sample as it is: the step is completed by cvx_sched_unipc's. */
void cvx_sched_coef(const cvx_sched *s, int64_t i, float c[7]);

/* One step of UniPC after x0 is known, as two sums of op combine: first, if `corrects` (from step 1 on),
 *   sample = correct · (sample of step i - 1, x0 of i - 1, x0 of i - 2, x0 of i)
 * else the sample stays; then latents = predict · (sample, x0 of i, x0 of i - 1). Terms with coefficient 0 may be
 * missing. (multistep_uni_c_bh_update and multistep_uni_p_bh_update; Zhao et al. 2023, arXiv 2302.04867.) */
typedef struct cvx_sched_unipc_coef {
    bool corrects;
    float correct[4], predict[3];
} cvx_sched_unipc_coef;
void cvx_sched_unipc(const cvx_sched *s, int64_t i, cvx_sched_unipc_coef *out);

#endif
