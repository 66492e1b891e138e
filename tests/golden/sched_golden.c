/* Timesteps and alphas for many step counts, and the counts that are refused. */
#include <string.h>

#include "golden.h"
#include "model/sched/sched.h"

static cvx_sched_config config(cvx_sched_kind kind, double snr)
{
    return (cvx_sched_config){.kind = kind,
                              .num_train_timesteps = 1000,
                              .beta_start = 0.00085,
                              .beta_end = 0.012,
                              .snr_shift_scale = snr,
                              .scaled_linear = true,
                              .rescale_betas_zero_snr = true,
                              .set_alpha_to_one = true};
}

static void schedules(void **state)
{
    cvx_weights *w = NULL;
    int seen = 0;

    (void)state;
    OK(cvx_weights_open(&w, DATA "extra/schedules.safetensors"));
    for (int64_t i = 0; i < cvx_weights_count(w); i++) {
        const char *name = cvx_weights_name(w, i);
        cvx_tensor g = golden(w, name);
        cvx_sched_config c =
            config(strncmp(name, "dpm", 3) == 0 ? CVX_SCHED_DPM : CVX_SCHED_DDIM, 1.0);
        const char *dot = strchr(name, '.') + 1;
        cvx_sched *s = NULL;
        if (strncmp(dot, "alphas", 6) == 0) {
            c.snr_shift_scale = atof(strstr(dot, "snr") + 3);
            OK(cvx_sched_open(&s, &c, 50));
            for (int64_t k = 0; k < 1000; k++) {
                double want = cvx_weights_at(w, i).dtype == CVX_F64
                                  ? ((double *)cvx_weights_at(w, i).data)[k]
                                  : ((float *)g.data)[k];
                assert_true(fabs(cvx_sched_alphas(s)[k] - want) <= 1e-6 * want + 1e-9);
            }
        } else {
            OK(cvx_sched_open(&s, &c, cvx_numel(&g)));
            assert_int_equal(cvx_sched_steps(s), cvx_numel(&g));
            for (int64_t k = 0; k < cvx_numel(&g); k++) {
                assert_int_equal(cvx_sched_timestep(s, k), (int64_t)((float *)g.data)[k]);
            }
        }
        cvx_sched_close(s);
        free(g.data);
        seen++;
    }
    assert_true(seen > 20);
    cvx_weights_close(w);
}

/* diffusers gives t = -1 for 62 of the counts below 1000, 61 the first of them. */
static void refused_counts(void **state)
{
    cvx_sched_config c = config(CVX_SCHED_DDIM, 1.0);
    int refused = 0, first = 0;

    (void)state;
    for (int n = 1; n < 1000; n++) {
        cvx_sched *s = NULL;
        if (cvx_sched_open(&s, &c, n) != CVX_OK) {
            refused++;
            first = first == 0 ? n : first;
        }
        cvx_sched_close(s);
    }
    assert_int_equal(refused, 62);
    assert_int_equal(first, 61);
    cvx_sched *s = NULL;
    assert_int_equal(cvx_sched_open(&s, &c, 61), CVX_EINVAL);
    assert_non_null(strstr(cvx_error(), "60"));
    assert_non_null(strstr(cvx_error(), "62"));
    assert_int_equal(cvx_sched_open(&s, &c, 1001), CVX_EINVAL);
    assert_int_equal(cvx_sched_open(&s, &c, 0), CVX_EINVAL);
}

/* The formula of the pipeline in double: at t = 999 of 50 steps f32 would be off by half. */
static void dynamic_guidance(void **state)
{
    cvx_sched_config c = config(CVX_SCHED_DDIM, 1.0);
    cvx_sched *s = NULL;

    (void)state;
    OK(cvx_sched_open(&s, &c, 50));
    double t = (double)cvx_sched_timestep(s, 0);
    double want = 1 + 6.0 * ((1 - cos(M_PI * pow((50.0 - t) / 50.0, 5.0))) / 2);
    assert_true(cvx_sched_guidance(s, 0, 6.0, true) == want);
    assert_true(cvx_sched_guidance(s, 0, 6.0, false) == 6.0);
    OK(cvx_sched_set_strength(s, 0.8));
    assert_int_equal(cvx_sched_steps(s), 40);
    t = (double)cvx_sched_timestep(s, 3);
    want = 1 + 6.0 * ((1 - cos(M_PI * pow((40.0 - t) / 40.0, 5.0))) / 2);
    assert_true(cvx_sched_guidance(s, 3, 6.0, true) == want);
    assert_int_equal(cvx_sched_set_strength(s, 0.001), CVX_EINVAL);
    cvx_sched_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(schedules),
                                       cmocka_unit_test(refused_counts),
                                       cmocka_unit_test(dynamic_guidance)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
