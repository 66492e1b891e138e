/* What a step multiplies with: the solvers' coefficients. */
#include <math.h>
#include <string.h>

#include "model/sched/sched.h"

static int64_t prev_timestep(const cvx_sched *s, int64_t i)
{
    /* the pipelines never reset the scheduler's own step count, so strength does not change it */
    return cvx_sched_timestep(s, i) - cvx_sched_cfg(s)->num_train_timesteps / cvx_sched_asked(s);
}

int cvx_sched_draws(const cvx_sched *s, int64_t i)
{
    if (cvx_sched_cfg(s)->kind != CVX_SCHED_DPM) {
        return 0;
    }
    return i == 0 || prev_timestep(s, i) < 0 ? 1 : 2;
}

/* x0 = c[0]·sample + c[1]·model output. */
static void x0_coef(cvx_prediction prediction, double a, float c[7])
{
    switch (prediction) {
    case CVX_PRED_V:
        c[0] = (float)sqrt(a);
        c[1] = -(float)sqrt(1 - a);
        break;
    case CVX_PRED_EPSILON:
        c[0] = (float)(1 / sqrt(a));
        c[1] = -(float)(sqrt(1 - a) / sqrt(a));
        break;
    case CVX_PRED_SAMPLE:
        c[0] = 0;
        c[1] = 1;
        break;
    }
}

/* Half the log signal-to-noise ratio: log(alpha / sigma). */
static double lambda(double a)
{
    return log(sqrt(a / (1 - a)));
}

/* step of CogVideoXDDIMScheduler. */
static void ddim_coef(double a, double prev, float c[7])
{
    double a_t = sqrt((1 - prev) / (1 - a));

    c[2] = (float)a_t;
    c[3] = (float)(sqrt(prev) - sqrt(a) * a_t);
}

/* get_variables and get_mult of CogVideoXDPMScheduler. */
static void dpm_coef(const cvx_sched *s, int64_t i, double a, double prev, float c[7])
{
    double lamb = lambda(a), h = lambda(prev) - lamb;
    double m1 = sqrt((1 - prev) / (1 - a)) * exp(-h);
    double m2 = expm1(-2 * h) * sqrt(prev);
    double noise = sqrt(1 - prev) * sqrt(1 - exp(-2 * h));

    c[2] = (float)m1;
    c[3] = -(float)m2;
    c[6] = (float)noise;
    if (cvx_sched_draws(s, i) == 2) {
        double r = (lamb - lambda(cvx_sched_alphas(s)[cvx_sched_timestep(s, i - 1)])) / h;
        c[3] = (float)(-m2 * (1 + 1 / (2 * r)));
        c[5] = (float)(m2 * (1 / (2 * r)));
    }
}

/* alphas_cumprod at step i of the multistep solvers; behind the last step nothing is left of the noise. */
static double alpha_at(const cvx_sched *s, int64_t i)
{
    return i < cvx_sched_steps(s) ? cvx_sched_alphas(s)[cvx_sched_timestep(s, i)] : 1;
}

/* Order of the prediction at step i: 2, but 1 at the first step and the last. */
static int order_at(const cvx_sched *s, int64_t i)
{
    return i == 0 || i == cvx_sched_steps(s) - 1 ? 1 : 2;
}

/* From step `from` to the next: x = keep·sample - gain·(...), with gain the factor of x0, and h the way in lambda. */
typedef struct advance {
    double keep, gain, h;
} advance;

static advance advance_from(const cvx_sched *s, int64_t from)
{
    double a = alpha_at(s, from), next = alpha_at(s, from + 1);
    double h = lambda(next) - lambda(a); /* infinite at the last step: keep 0, gain -1 */

    return (advance){sqrt((1 - next) / (1 - a)), sqrt(next) * expm1(-h), h};
}

/* lambda of the step before `from`, relative to `from`, over h: negative. */
static double behind(const cvx_sched *s, int64_t from, double h)
{
    return (lambda(alpha_at(s, from - 1)) - lambda(alpha_at(s, from))) / h;
}

/* multistep_dpm_solver_second_order_update, dpmsolver++ with midpoint. */
static void dpmsolverpp_coef(const cvx_sched *s, int64_t i, float c[7])
{
    advance w = advance_from(s, i);
    double half = order_at(s, i) == 2 ? 0.5 / -behind(s, i, w.h) : 0;

    c[2] = (float)w.keep;
    c[3] = (float)(-w.gain * (1 + half));
    c[5] = (float)(w.gain * half);
}

void cvx_sched_coef(const cvx_sched *s, int64_t i, float c[7])
{
    const cvx_sched_config *cfg = cvx_sched_cfg(s);
    int64_t p = prev_timestep(s, i);
    const double *alphas = cvx_sched_alphas(s);
    double a = alphas[cvx_sched_timestep(s, i)];
    double prev = p >= 0 ? alphas[p] : cfg->set_alpha_to_one ? 1.0 : alphas[0];

    memset(c, 0, 7 * sizeof *c);
    x0_coef(cfg->prediction, a, c);
    switch (cfg->kind) {
    case CVX_SCHED_DDIM: ddim_coef(a, prev, c); break;
    case CVX_SCHED_DPM: dpm_coef(s, i, a, prev, c); break;
    case CVX_SCHED_DPMSOLVERPP: dpmsolverpp_coef(s, i, c); break;
    case CVX_SCHED_UNIPC:
    case CVX_SCHED_KINDS: c[2] = 1; break;
    }
}

/* The corrector at step i, for the prediction that led there from i - 1. */
static void correct(const cvx_sched *s, int64_t i, float c[4])
{
    advance w = advance_from(s, i - 1);
    double now = 0.5, before = 0; /* weights of x0(i) - x0(i - 1) and of x0(i - 2) - x0(i - 1) */

    if (order_at(s, i - 1) == 2) {
        double r = behind(s, i - 1, w.h), hh = -w.h, phi = expm1(hh);
        double b1 = (phi / hh - 1) / phi;
        double b2 = ((phi / hh - 1) / hh - 0.5) * 2 / phi;
        double rho = (b1 - b2) / (1 - r); /* [1 1; r 1]·[rho, now] = [b1, b2] */
        now = b1 - rho;
        before = rho / r;
    }
    c[0] = (float)w.keep;
    c[1] = (float)(-w.gain * (1 - now - before));
    c[2] = (float)(-w.gain * before);
    c[3] = (float)(-w.gain * now);
}

void cvx_sched_unipc(const cvx_sched *s, int64_t i, cvx_sched_unipc_coef *out)
{
    advance w = advance_from(s, i);
    double half = order_at(s, i) == 2 ? 0.5 / behind(s, i, w.h) : 0;

    *out = (cvx_sched_unipc_coef){.corrects = i > 0};
    if (out->corrects) {
        correct(s, i, out->correct);
    }
    out->predict[0] = (float)w.keep;
    out->predict[1] = (float)(-w.gain * (1 - half));
    out->predict[2] = (float)(-w.gain * half);
}
