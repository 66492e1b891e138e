#include "model/sched/sched.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

struct cvx_sched {
    cvx_sched_config cfg;
    int64_t asked; /* num_inference_steps as given: sets the stride of prev_t */
    int64_t first; /* steps skipped by strength */
    int64_t *t;    /* asked timesteps */
    double *alphas;
};

static cvx_status unknown(const char *path, const char *key, const char *value, const char *known)
{
    return cvx_fail(CVX_EUNSUPPORTED, "%s: %s is \"%s\"; known are %s", path, key, value, known);
}

static cvx_status read_names(cvx_sched_config *c, const json_t *j, const char *path)
{
    const char *cls = "CogVideoXDDIMScheduler", *pred = "epsilon", *spacing = "leading",
               *betas = "scaled_linear";

    CVX_RETURN_IF(cvx_json_str(j, path, "_class_name", &cls));
    CVX_RETURN_IF(cvx_json_str(j, path, "prediction_type", &pred));
    CVX_RETURN_IF(cvx_json_str(j, path, "timestep_spacing", &spacing));
    CVX_RETURN_IF(cvx_json_str(j, path, "beta_schedule", &betas));
    if (strcmp(cls, "CogVideoXDDIMScheduler") == 0) {
        c->kind = CVX_SCHED_DDIM;
    } else if (strcmp(cls, "CogVideoXDPMScheduler") == 0) {
        c->kind = CVX_SCHED_DPM;
    } else {
        return unknown(path, "_class_name", cls, "CogVideoXDDIMScheduler, CogVideoXDPMScheduler");
    }
    static const char *const preds[] = {"v_prediction", "epsilon", "sample"};
    static const char *const spacings[] = {"trailing", "leading", "linspace"};
    int p = 0, s = 0;
    while (p < 3 && strcmp(pred, preds[p]) != 0) {
        p++;
    }
    while (s < 3 && strcmp(spacing, spacings[s]) != 0) {
        s++;
    }
    if (p == 3) {
        return unknown(path, "prediction_type", pred, "v_prediction, epsilon, sample");
    }
    if (s == 3) {
        return unknown(path, "timestep_spacing", spacing, "trailing, leading, linspace");
    }
    c->prediction = (cvx_prediction)p;
    c->spacing = (cvx_spacing)s;
    c->scaled_linear = strcmp(betas, "scaled_linear") == 0;
    if (!c->scaled_linear && strcmp(betas, "linear") != 0) {
        return unknown(path, "beta_schedule", betas, "scaled_linear, linear");
    }
    return CVX_OK;
}

static cvx_status read_config(cvx_sched_config *c, const json_t *j, const char *path)
{
    CVX_RETURN_IF(read_names(c, j, path));
    CVX_RETURN_IF(cvx_json_int(j, path, "num_train_timesteps", &c->num_train_timesteps));
    CVX_RETURN_IF(cvx_json_int(j, path, "steps_offset", &c->steps_offset));
    CVX_RETURN_IF(cvx_json_double(j, path, "beta_start", &c->beta_start));
    CVX_RETURN_IF(cvx_json_double(j, path, "beta_end", &c->beta_end));
    CVX_RETURN_IF(cvx_json_double(j, path, "snr_shift_scale", &c->snr_shift_scale));
    CVX_RETURN_IF(cvx_json_bool(j, path, "rescale_betas_zero_snr", &c->rescale_betas_zero_snr));
    CVX_RETURN_IF(cvx_json_bool(j, path, "set_alpha_to_one", &c->set_alpha_to_one));
    if (cvx_json_has(j, "trained_betas")) {
        return cvx_fail(CVX_EUNSUPPORTED, "%s: trained_betas must be null", path);
    }
    if (c->num_train_timesteps < 1 || c->num_train_timesteps > 1000000 || !(c->beta_start > 0) ||
        !(c->beta_end < 1) || !(c->beta_end >= c->beta_start) || !(c->snr_shift_scale > 0)) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: needs 1 to 1000000 num_train_timesteps, "
                        "0 < beta_start <= beta_end < 1 and snr_shift_scale > 0",
                        path);
    }
    return CVX_OK;
}

cvx_status cvx_sched_config_load(cvx_sched_config *out, const char *dir)
{
    char path[CVX_PATH_MAX];
    json_t *j = NULL;
    cvx_sched_config c = {.num_train_timesteps = 1000,
                          .beta_start = 0.00085,
                          .beta_end = 0.012,
                          .snr_shift_scale = 3.0,
                          .set_alpha_to_one = true};

    CVX_RETURN_IF(cvx_path_join(path, dir, "scheduler_config.json"));
    CVX_RETURN_IF(cvx_json_load(&j, path));
    cvx_status st = read_config(&c, j, path);
    json_decref(j);
    if (st == CVX_OK) {
        *out = c;
    }
    return st;
}

/* torch.linspace(a, b, n, dtype=float64)[i]: symmetric around the middle. */
static double linspace(double a, double b, int64_t n, int64_t i)
{
    double step = n > 1 ? (b - a) / (double)(n - 1) : 0;
    return i < n / 2 ? a + step * (double)i : b - step * (double)(n - 1 - i);
}

/* alphas_cumprod with diffusers' SNR shift, then rescale_zero_terminal_snr. */
static void make_alphas(double *a, const cvx_sched_config *c)
{
    int64_t n = c->num_train_timesteps;
    double prod = 1;

    for (int64_t i = 0; i < n; i++) {
        double b = c->scaled_linear ? linspace(sqrt(c->beta_start), sqrt(c->beta_end), n, i)
                                    : linspace(c->beta_start, c->beta_end, n, i);
        prod *= 1.0 - (c->scaled_linear ? b * b : b);
        a[i] = prod / (c->snr_shift_scale + (1 - c->snr_shift_scale) * prod);
    }
    if (!c->rescale_betas_zero_snr) {
        return;
    }
    double first = sqrt(a[0]), last = sqrt(a[n - 1]);
    for (int64_t i = 0; i < n; i++) {
        double s = (sqrt(a[i]) - last) * (first / (first - last));
        a[i] = s * s;
    }
}

/* Fills t[0..n) and returns how many diffusers would give; negative values are possible. */
static int64_t make_timesteps(int64_t *t, const cvx_sched_config *c, int64_t n)
{
    int64_t train = c->num_train_timesteps, got = n;

    for (int64_t i = 0; i < n; i++) {
        if (c->spacing == CVX_TRAILING) {
            /* numpy.arange(train, 0, -ratio): start + i·((start - ratio) - start) */
            double ratio = (double)train / (double)n;
            double delta = ((double)train - ratio) - (double)train;
            got = (int64_t)ceil((0.0 - (double)train) / -ratio);
            t[i] = (int64_t)rint((double)train + (double)i * delta) - 1;
        } else if (c->spacing == CVX_LEADING) {
            t[i] = (n - 1 - i) * (train / n) + c->steps_offset;
        } else {
            double step = n > 1 ? (double)(train - 1) / (double)(n - 1) : 0;
            int64_t k = n - 1 - i;
            t[i] = (int64_t)rint(k == n - 1 && n > 1 ? (double)(train - 1) : (double)k * step);
        }
    }
    return got;
}

static bool steps_work(const cvx_sched_config *c, int64_t n, int64_t *t)
{
    if (n < 1 || n > c->num_train_timesteps || make_timesteps(t, c, n) != n) {
        return false;
    }
    for (int64_t i = 0; i < n; i++) {
        if (t[i] < 0 || t[i] >= c->num_train_timesteps) {
            return false;
        }
    }
    return true;
}

static cvx_status refuse(const cvx_sched_config *c, int64_t n, int64_t *t)
{
    int64_t below = n < c->num_train_timesteps ? n : c->num_train_timesteps + 1;
    int64_t above = n;

    do {
        below--;
    } while (below > 0 && !steps_work(c, below, t));
    do {
        above++;
    } while (above <= c->num_train_timesteps && !steps_work(c, above, t));
    if (above > c->num_train_timesteps) {
        return cvx_fail(CVX_EINVAL,
                        "num_inference_steps %lld: this schedule has %lld timesteps; the "
                        "nearest count that works is %lld",
                        (long long)n, (long long)c->num_train_timesteps, (long long)below);
    }
    return cvx_fail(CVX_EINVAL,
                    "num_inference_steps %lld: its rounded timesteps leave the schedule "
                    "(0 to %lld); %lld and %lld work",
                    (long long)n, (long long)c->num_train_timesteps - 1, (long long)below,
                    (long long)above);
}

cvx_status cvx_sched_open(cvx_sched **out, const cvx_sched_config *cfg, int64_t n)
{
    cvx_status st = CVX_OK;
    cvx_sched *s = calloc(1, sizeof *s);
    int64_t room = cfg->num_train_timesteps;

    if (s == NULL || (s->t = calloc((size_t)room, sizeof *s->t)) == NULL ||
        (s->alphas = calloc((size_t)room, sizeof *s->alphas)) == NULL) {
        st = cvx_fail(CVX_ENOMEM, "no memory for a schedule of %lld timesteps", (long long)room);
        goto done;
    }
    if (n < 1) {
        st = cvx_fail(CVX_EINVAL, "num_inference_steps %lld: at least 1 is needed", (long long)n);
        goto done;
    }
    if (!steps_work(cfg, n, s->t)) {
        st = refuse(cfg, n, s->t);
        goto done;
    }
    s->cfg = *cfg;
    s->asked = n;
    make_alphas(s->alphas, cfg);
    *out = s;
    s = NULL;
done:
    cvx_sched_close(s);
    return st;
}

void cvx_sched_close(cvx_sched *s)
{
    if (s != NULL) {
        free(s->t);
        free(s->alphas);
        free(s);
    }
}

const double *cvx_sched_alphas(const cvx_sched *s)
{
    return s->alphas;
}

cvx_status cvx_sched_set_strength(cvx_sched *s, double strength)
{
    if (!(strength > 0 && strength <= 1)) {
        return cvx_fail(CVX_EINVAL, "strength %g: must be above 0 and at most 1", strength);
    }
    int64_t keep = (int64_t)((double)s->asked * strength);
    if (keep < 1) {
        return cvx_fail(CVX_EINVAL, "strength %g of %lld steps leaves none; use at least %g",
                        strength, (long long)s->asked, 1.0 / (double)s->asked);
    }
    s->first = s->asked - (keep < s->asked ? keep : s->asked);
    return CVX_OK;
}

int64_t cvx_sched_steps(const cvx_sched *s)
{
    return s->asked - s->first;
}

int64_t cvx_sched_timestep(const cvx_sched *s, int64_t i)
{
    return s->t[s->first + i];
}

void cvx_sched_add_noise(const cvx_sched *s, float *a, float *b)
{
    /* add_noise takes alphas_cumprod in the samples' dtype first */
    float alpha = (float)s->alphas[cvx_sched_timestep(s, 0)];
    *a = sqrtf(alpha);
    *b = sqrtf(1.0f - alpha);
}

double cvx_sched_guidance(const cvx_sched *s, int64_t i, double scale, bool dynamic)
{
    double n = (double)cvx_sched_steps(s), t = (double)cvx_sched_timestep(s, i);

    if (!dynamic) {
        return scale;
    }
    return 1 + scale * ((1 - cos(M_PI * pow((n - t) / n, 5.0))) / 2);
}

static int64_t prev_timestep(const cvx_sched *s, int64_t i)
{
    /* the pipelines never reset the scheduler's own step count, so strength does not change it */
    return cvx_sched_timestep(s, i) - s->cfg.num_train_timesteps / s->asked;
}

int cvx_sched_draws(const cvx_sched *s, int64_t i, bool has_old)
{
    if (s->cfg.kind == CVX_SCHED_DDIM) {
        return 0;
    }
    return !has_old || prev_timestep(s, i) < 0 ? 1 : 2;
}

/* x0 = c[0]·sample + c[1]·model output. */
static void x0_coef(const cvx_sched *s, double a, float c[7])
{
    switch (s->cfg.prediction) {
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

/* get_variables and get_mult of CogVideoXDPMScheduler (DPM-Solver++ 2M, SDE form). */
static void dpm_coef(const cvx_sched *s, int64_t i, bool has_old, double a, double prev, float c[7])
{
    double lamb = log(sqrt(a / (1 - a))), next = log(sqrt(prev / (1 - prev)));
    double h = next - lamb;
    double m1 = sqrt((1 - prev) / (1 - a)) * exp(-h);
    double m2 = expm1(-2 * h) * sqrt(prev);
    double noise = sqrt(1 - prev) * sqrt(1 - exp(-2 * h));

    c[2] = (float)m1;
    c[3] = -(float)m2;
    c[6] = (float)noise;
    if (cvx_sched_draws(s, i, has_old) == 2) {
        double back = s->alphas[cvx_sched_timestep(s, i - 1)];
        double r = (lamb - log(sqrt(back / (1 - back)))) / h;
        c[3] = (float)(-m2 * (1 + 1 / (2 * r)));
        c[5] = (float)(m2 * (1 / (2 * r)));
    }
}

void cvx_sched_coef(const cvx_sched *s, int64_t i, bool has_old, float c[7])
{
    int64_t t = cvx_sched_timestep(s, i), p = prev_timestep(s, i);
    double a = s->alphas[t];
    double prev = p >= 0 ? s->alphas[p] : s->cfg.set_alpha_to_one ? 1.0 : s->alphas[0];

    memset(c, 0, 7 * sizeof *c);
    x0_coef(s, a, c);
    if (s->cfg.kind == CVX_SCHED_DPM) {
        dpm_coef(s, i, has_old, a, prev, c);
        return;
    }
    double a_t = sqrt((1 - prev) / (1 - a));
    c[2] = (float)a_t;
    c[3] = (float)(sqrt(prev) - sqrt(a) * a_t);
}
