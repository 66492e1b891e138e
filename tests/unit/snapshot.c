/* A denoising loop's state survives its bytes; any changed or missing byte is noticed; files of a folder are kept,
 * found, refused and removed as docs/checkpoints.md says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/pipeline/resume.h"

#define VALUES (2 * 4 * 2 * 3)

static cvx_snapshot make(int64_t step, int64_t sets)
{
    cvx_snapshot s = {.job = json_pack("{s:s, s:i}", "prompt", "a \"red\" circle", "seed", 3),
                      .step = step,
                      .steps = 10,
                      .dim = {2, 4, 2, 3},
                      .latents = malloc(VALUES * sizeof(float)),
                      .sets = sets,
                      .cached = sets > 1 ? 2 : 0,
                      .kept = sets > 0 ? malloc((size_t)sets * VALUES * sizeof(float)) : NULL};
    float none[7];

    cvx_rng_seed(&s.rng, 5);
    cvx_rng_randn(&s.rng, s.latents, CVX_RNG_F32, VALUES);
    cvx_rng_randn(&s.rng, none, CVX_RNG_F32, 7); /* an odd number: a normal waits */
    for (int i = 0; i < sets * VALUES; i++) {
        s.kept[i] = (float)i / 7;
    }
    return s;
}

static void same(const cvx_snapshot *a, const cvx_snapshot *b)
{
    cvx_rng x = a->rng, y = b->rng;
    float p[40], q[40];

    assert_int_equal(a->step, b->step);
    assert_int_equal(a->steps, b->steps);
    assert_memory_equal(a->dim, b->dim, sizeof a->dim);
    assert_memory_equal(a->latents, b->latents, VALUES * sizeof(float));
    assert_int_equal(a->sets, b->sets);
    assert_int_equal(a->cached, b->cached);
    if (a->sets > 0) {
        assert_memory_equal(a->kept, b->kept, (size_t)a->sets * VALUES * sizeof(float));
    }
    assert_true(json_equal(a->job, b->job));
    for (int n = 1; n < 40; n += 12) { /* few: pair by pair; many: in blocks */
        cvx_rng_randn(&x, p, CVX_RNG_F32, n);
        cvx_rng_randn(&y, q, CVX_RNG_F32, n);
        assert_memory_equal(p, q, (size_t)n * sizeof *p);
    }
}

static void round_trip(void **state)
{
    (void)state;
    for (int64_t sets = 0; sets < 5; sets++) {
        cvx_snapshot s = make(4, sets), t = {0};
        unsigned char *bytes = NULL;
        size_t len = 0;
        assert_int_equal(cvx_snapshot_pack(&bytes, &len, &s), CVX_OK);
        assert_int_equal(cvx_snapshot_parse(&t, bytes, len, "it"), CVX_OK);
        same(&s, &t);
        cvx_snapshot_free(&t);
        cvx_snapshot_free(&s);
        free(bytes);
    }
}

/* Every byte matters: one that is changed, a file that ends early, a byte too many. */
static void damage(void **state)
{
    cvx_snapshot s = make(4, 1), t = {0};
    unsigned char *bytes = NULL;
    size_t len = 0;

    (void)state;
    assert_int_equal(cvx_snapshot_pack(&bytes, &len, &s), CVX_OK);
    unsigned char *copy = malloc(len + 1);
    for (size_t i = 0; i < len; i++) {
        memcpy(copy, bytes, len);
        copy[i] ^= (unsigned char)(1u << i % 8);
        assert_int_equal(cvx_snapshot_parse(&t, copy, len, "it"), CVX_EFORMAT);
        assert_non_null(strstr(cvx_error(), "it: "));
    }
    for (size_t n = 0; n < len; n++) {
        memcpy(copy, bytes, n); /* its own block, so that a sanitizer sees a step beyond the end */
        unsigned char *cut = malloc(n + 1);
        memcpy(cut, copy, n);
        assert_int_equal(cvx_snapshot_parse(&t, cut, n, "it"), CVX_EFORMAT);
        free(cut);
    }
    memcpy(copy, bytes, len);
    copy[len] = 0;
    assert_int_equal(cvx_snapshot_parse(&t, copy, len + 1, "it"), CVX_EFORMAT);
    assert_null(t.latents);
    free(copy);
    free(bytes);
    cvx_snapshot_free(&s);
}

static void generator_state(void **state)
{
    unsigned char bytes[CVX_RNG_BYTES];
    cvx_rng r;

    (void)state;
    cvx_rng_seed(&r, 1);
    cvx_rng_save(&r, bytes);
    assert_int_equal(bytes[0], 1); /* mt19937's first word is the seed: little-endian */
    assert_int_equal(cvx_rng_load(&r, bytes), CVX_OK);
    bytes[4 * 624] = 0x71; /* 625 words used of 624 */
    bytes[4 * 624 + 1] = 2;
    assert_int_equal(cvx_rng_load(&r, bytes), CVX_EFORMAT);
}

/* --- the folder --- */

static char dir[] = "/tmp/cvx-resume-XXXXXX", out[64], last_note[1024];

static cvx_status on_event(void *payload, const cvx_event *e)
{
    (void)payload;
    if (e->kind == CVX_EVENT_NOTE) {
        snprintf(last_note, sizeof last_note, "%s", e->text);
    }
    return CVX_OK;
}

static cvx_progress notes = {.fn = on_event};

static json_t *job(const char *prompt)
{
    return json_pack("{s:s, s:i}", "prompt", prompt, "seed", 3);
}

static cvx_status open_it(cvx_resume *r, const char *prompt)
{
    last_note[0] = 0;
    return cvx_resume_open(r, dir, 3, out, job(prompt), &notes);
}

static int files(void)
{
    char command[128], text[32] = "";
    snprintf(command, sizeof command, "ls %s | wc -l", dir);
    FILE *f = popen(command, "r");
    assert_non_null(fgets(text, sizeof text, f));
    pclose(f);
    return (int)strtol(text, NULL, 10);
}

static void folder(void **state)
{
    cvx_resume r;
    char path[256];

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(out, sizeof out, "%s.gif", dir);
    assert_int_equal(open_it(&r, "a"), CVX_OK);
    assert_int_equal(r.at.step, 0);
    assert_string_equal(last_note, "");
    assert_true(cvx_resume_due(&r, 3, 10) && cvx_resume_due(&r, 10, 10));
    assert_false(cvx_resume_due(&r, 4, 10));
    for (int64_t step = 1; step < 5; step++) {
        cvx_snapshot s = make(step, 1);
        assert_true(cvx_resume_save(&r, &s, &notes));
        cvx_snapshot_free(&s);
    }
    assert_int_equal(files(), 2);
    cvx_resume_close(&r);

    /* the newest is found, and what an interrupted write left is gone */
    assert_int_equal(open_it(&r, "a"), CVX_OK);
    assert_int_equal(r.at.step, 4);
    assert_non_null(strstr(last_note, "going on after step 4 of 10"));
    snprintf(path, sizeof path, "%s/%s.step-000009.cvxckpt.part-77", dir, r.name);
    assert_int_equal(cvx_file_write(path, "half", 4), CVX_OK);
    snprintf(path, sizeof path, "%s/%s.step-000009.cvxckpt", dir, r.name);
    assert_int_equal(cvx_file_write(path, "CVXSNAP1 and no more", 20), CVX_OK);
    assert_int_equal(files(), 4);
    cvx_resume_close(&r);

    /* a damaged one is passed over */
    assert_int_equal(open_it(&r, "a"), CVX_OK);
    assert_int_equal(r.at.step, 4);
    assert_int_equal(files(), 3);
    cvx_resume_close(&r);

    /* another job is refused, and names itself */
    assert_int_equal(open_it(&r, "b"), CVX_EINVAL);
    assert_non_null(strstr(cvx_error(), "prompt is \"a\" there, \"b\" here"));
    cvx_resume_close(&r);

    /* another output is another job's business */
    snprintf(out, sizeof out, "%s.mp4", dir);
    assert_int_equal(open_it(&r, "b"), CVX_OK);
    assert_int_equal(r.at.step, 0);
    cvx_resume_clear(&r);
    assert_int_equal(files(), 3);
    cvx_resume_close(&r);
    snprintf(out, sizeof out, "%s.gif", dir);
    assert_int_equal(open_it(&r, "a"), CVX_OK);
    cvx_resume_clear(&r);
    assert_int_equal(files(), 0);
    assert_int_equal(rmdir(dir), 0);

    /* a folder that went: told, and no failure */
    cvx_snapshot s = make(5, 0);
    assert_false(cvx_resume_save(&r, &s, &notes));
    assert_non_null(strstr(last_note, "no checkpoint after step 5: cannot write"));
    cvx_snapshot_free(&s);
    cvx_resume_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(damage),
        cmocka_unit_test(generator_state),
        cmocka_unit_test(folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
