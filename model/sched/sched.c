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

static const struct {
    const char *name, *cls;
    int64_t kept;
} solvers[CVX_SCHED_KINDS] = {
    [CVX_SCHED_DDIM] = {"ddim", "CogVideoXDDIMScheduler", 0},
    [CVX_SCHED_DPM] = {"dpm", "CogVideoXDPMScheduler", 1},
    [CVX_SCHED_DPMSOLVERPP] = {"dpmsolver++", "DPMSolverMultistepScheduler", 1},
    [CVX_SCHED_UNIPC] = {"unipc", "UniPCMultistepScheduler", 4},
};

const char *cvx_sched_name(cvx_sched_kind kind)
{
    return solvers[kind].name;
}

const char *cvx_sched_class(cvx_sched_kind kind)
{
    return solvers[kind].cls;
}

cvx_sched_kind cvx_sched_find(const char *name)
{
    cvx_sched_kind k = CVX_SCHED_DDIM;

    while (k < CVX_SCHED_KINDS && strcmp(name, solvers[k].name) != 0) {
        k++;
    }
    return k;
}

int64_t cvx_sched_kept(cvx_sched_kind kind)
{
    return solvers[kind].kept;
}

/* Multistep solvers make their timesteps and their last alpha in ways of their own. */
static bool multistep(const cvx_sched_config *c)
{
    return c->kind == CVX_SCHED_DPMSOLVERPP || c->kind == CVX_SCHED_UNIPC;
}

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
    while (c->kind < CVX_SCHED_KINDS && strcmp(cls, solvers[c->kind].cls) != 0) {
        c->kind++;
    }
    if (c->kind == CVX_SCHED_KINDS) {
        return unknown(path, "_class_name", cls,
                       "CogVideoXDDIMScheduler, CogVideoXDPMScheduler, "
                       "DPMSolverMultistepScheduler, UniPCMultistepScheduler");
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

/* Options of DPMSolverMultistepScheduler and UniPCMultistepScheduler: what is computed here is their default. */
static cvx_status read_multistep(const cvx_sched_config *c, const json_t *j, const char *path)
{
    static const struct {
        const char *key;
        bool want;
    } flags[] = {{"use_karras_sigmas", false}, {"use_exponential_sigmas", false},
                 {"use_beta_sigmas", false},   {"use_flow_sigmas", false},
                 {"use_lu_lambdas", false},    {"thresholding", false},
                 {"euler_at_final", false},    {"predict_x0", true},
                 {"lower_order_final", true}};
    const char *algorithm = "dpmsolver++", *final = "zero",
               *wanted = c->kind == CVX_SCHED_UNIPC ? "bh2" : "midpoint", *type = wanted;
    int64_t order = 2;

    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool got = flags[i].want;
        CVX_RETURN_IF(cvx_json_bool(j, path, flags[i].key, &got));
        if (got != flags[i].want) {
            return cvx_fail(CVX_EUNSUPPORTED, "%s: %s is %s; only %s is computed here", path,
                            flags[i].key, got ? "true" : "false", got ? "false" : "true");
        }
    }
    CVX_RETURN_IF(cvx_json_int(j, path, "solver_order", &order));
    CVX_RETURN_IF(cvx_json_str(j, path, "algorithm_type", &algorithm));
    CVX_RETURN_IF(cvx_json_str(j, path, "final_sigmas_type", &final));
    CVX_RETURN_IF(cvx_json_str(j, path, "solver_type", &type));
    if (order != 2) {
        return cvx_fail(CVX_EUNSUPPORTED, "%s: solver_order is %lld; only 2 is computed here", path,
                        (long long)order);
    }
    if (strcmp(algorithm, "dpmsolver++") != 0) {
        return unknown(path, "algorithm_type", algorithm, "dpmsolver++");
    }
    if (strcmp(final, "zero") != 0) {
        return unknown(path, "final_sigmas_type", final, "zero");
    }
    return strcmp(type, wanted) == 0 ? CVX_OK : unknown(path, "solver_type", type, wanted);
}

static cvx_status read_config(cvx_sched_config *c, const json_t *j, const char *path)
{
    CVX_RETURN_IF(read_names(c, j, path));
    if (multistep(c)) {
        CVX_RETURN_IF(read_multistep(c, j, path));
    }
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
    if (multistep(c)) {
        a[n - 1] = 0x1p-24; /* in place of 0, so that the first sigma is finite */
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
        } else if (multistep(c) && c->spacing == CVX_LEADING) {
            t[i] = (n - i) * (train / (n + 1)) + c->steps_offset;
        } else if (multistep(c)) {
            t[i] = (int64_t)rint(i == 0 ? (double)(train - 1)
                                        : (double)(n - i) * ((double)(train - 1) / (double)n));
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

const cvx_sched_config *cvx_sched_cfg(const cvx_sched *s)
{
    return &s->cfg;
}

int64_t cvx_sched_asked(const cvx_sched *s)
{
    return s->asked;
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
