/* Noise schedules and solvers: CogVideoXDDIMScheduler and CogVideoXDPMScheduler of diffusers
 * (schedulers/scheduling_{ddim,dpm}_cogvideox.py). Host arithmetic in double; the update itself is op
 * sched_step. */
#ifndef CVX_MODEL_SCHED_SCHED_H
#define CVX_MODEL_SCHED_SCHED_H

#include "base/rng.h"
#include "kernels/ops.h"

typedef enum cvx_sched_kind { CVX_SCHED_DDIM = 0, CVX_SCHED_DPM } cvx_sched_kind;
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

/* Reads DIR/scheduler_config.json. */
cvx_status cvx_sched_config_load(cvx_sched_config *out, const char *dir) CVX_CHECK;

typedef struct cvx_sched cvx_sched;

/* Tables for num_inference_steps. CVX_EINVAL for counts that diffusers computes wrong: more steps than
 * num_train_timesteps, or rounding that gives a negative timestep (the message names the nearest counts
 * that work). */
cvx_status cvx_sched_open(cvx_sched **out, const cvx_sched_config *cfg,
                          int64_t num_inference_steps) CVX_CHECK;
void cvx_sched_close(cvx_sched *s);

/* alphas_cumprod, num_train_timesteps values. Borrowed. */
const double *cvx_sched_alphas(const cvx_sched *s);

/* V2V: keep only the last min(int(n·strength), n) steps (get_timesteps of the pipeline). */
cvx_status cvx_sched_set_strength(cvx_sched *s, double strength) CVX_CHECK;

/* Steps to run, and the timestep of step i (0-based, largest first). */
int64_t cvx_sched_steps(const cvx_sched *s);
int64_t cvx_sched_timestep(const cvx_sched *s, int64_t i);

/* Factors (a, b) of add_noise at the first step: latents = a·x + b·noise, in f32 as torch rounds them. */
void cvx_sched_add_noise(const cvx_sched *s, float *a, float *b);

/* Guidance of step i: the scale itself, or with dynamic CFG diffusers'
 * 1 + scale·(1 - cos(pi·((n - t)/n)^5))/2 where n counts the steps to run. */
double cvx_sched_guidance(const cvx_sched *s, int64_t i, double guidance_scale, bool dynamic);

/* Whether the step draws noise: 0, 1 or 2 draws of which the last is used (DPM; `has_old` tells
 * whether a previous x0 is kept). */
int cvx_sched_draws(const cvx_sched *s, int64_t i, bool has_old);

/* Coefficients of op sched_step for step i (see kernels/ops.h). */
void cvx_sched_coef(const cvx_sched *s, int64_t i, bool has_old, float c[7]);

#endif
