/* Windows cover every frame, shares sum to 1, dilated ones reach from end to end, noise is moved as FreeNoise says; prompts
 * on a timeline. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/pipeline/windows.h"
#include "model/prompts.h"

static void shares(void **state)
{
    (void)state;
    for (int64_t frames = 1; frames < 40; frames++) {
        for (int64_t length = 1; length < 14; length++) {
            for (int64_t stride = 1; stride <= length; stride++) {
                cvx_windows w = cvx_windows_make(frames, length, stride);
                assert_int_equal(cvx_windows_start(&w, 0), 0);
                assert_int_equal(cvx_windows_start(&w, w.n - 1) + w.length, frames);
                for (int64_t f = 0; f < frames; f++) {
                    double sum = 0;
                    int64_t covering = 0;
                    for (int64_t i = 0; i < w.n; i++) {
                        float s = cvx_windows_share(&w, i, f);
                        sum += s;
                        covering += s > 0;
                        assert_true(covering != 1 || s <= 1);
                    }
                    assert_true(covering >= 1);
                    /* each share is rounded to f32: half an ulp of at most 1 */
                    assert_true(sum - 1 <= covering * 6e-8 && 1 - sum <= covering * 6e-8);
                    assert_true(covering > 1 || sum == 1);
                }
            }
        }
    }
    cvx_windows one = cvx_windows_make(5, 9, 4);
    assert_true(one.n == 1 && one.length == 5);
}

static void dilated(void **state)
{
    (void)state;
    for (int64_t unit = 1; unit <= 2; unit++) {
        for (int64_t frames = unit; frames < 70; frames += unit) {
            for (int64_t length = 2 * unit; length < 14; length += unit) {
                const cvx_windows w = cvx_windows_make(frames, length, unit);
                for (int64_t d = 1; d <= 16; d *= 2) {
                    cvx_windows at = cvx_windows_at(&w, 0, d, unit);
                    assert_true(at.video == frames && at.frames <= frames);
                    assert_true(at.length == w.length && at.frames % unit == 0);
                    assert_int_equal(cvx_windows_place(&at, 0), 0);
                    assert_int_equal(cvx_windows_place(&at, at.frames - 1), frames - 1);
                    for (int64_t k = 1; k < at.frames; k++) {
                        int64_t gap = cvx_windows_place(&at, k) - cvx_windows_place(&at, k - 1);
                        assert_true(gap >= 1 && gap <= d);
                    }
                    /* never fewer frames than fill a window, and dilated wherever they do */
                    assert_true(at.frames >= w.length);
                    assert_true(at.frames < frames || d == 1 || frames <= 2 * length);
                }
            }
        }
    }
    /* 65 frames in windows of 17: one window, then three, then seven as ever */
    const cvx_windows w = cvx_windows_make(17, 5, 2);
    static const double signal[] = {0, 0.5999, 0.6001, 0.9486, 0.9487, 1};
    static const int64_t frames[] = {5, 5, 9, 9, 17, 17}, n[] = {1, 1, 3, 3, 7, 7};
    for (int i = 0; i < 6; i++) {
        cvx_windows at = cvx_windows_at(&w, signal[i], 4, 1);
        assert_true(at.frames == frames[i] && at.n == n[i]);
        assert_int_equal(cvx_windows_at(&w, signal[i], 1, 1).n, 7);
    }
    const cvx_windows one = cvx_windows_make(5, 5, 2);
    assert_int_equal(cvx_windows_at(&one, 0, 4, 1).n, 1);
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Each stretch behind the first window holds the frames of a stretch before it, in another order. */
static void free_noise(void **state)
{
    enum { FRAMES = 19, VALUES = 3, LENGTH = 6, STRIDE = 4 };
    cvx_windows w = cvx_windows_make(FRAMES, LENGTH, STRIDE);
    float x[FRAMES * VALUES], y[FRAMES * VALUES];
    cvx_rng rng;
    bool moved = false;

    (void)state;
    cvx_rng_seed(&rng, 3);
    cvx_rng_randn(&rng, x, CVX_RNG_F32, FRAMES * VALUES);
    memcpy(y, x, sizeof x);
    cvx_windows_reschedule(&w, y, VALUES, &rng);
    assert_memory_equal(x, y, LENGTH * VALUES * sizeof *x);
    for (int64_t to = LENGTH; to < FRAMES; to += STRIDE) {
        int64_t n = FRAMES - to < STRIDE ? FRAMES - to : STRIDE;
        float *got = y + to * VALUES, *from = y + (to - LENGTH) * VALUES;
        float a[STRIDE], b[STRIDE];
        for (int64_t k = 0; k < n; k++) {
            a[k] = got[k * VALUES];
            b[k] = from[k * VALUES];
            moved |= a[k] != b[k];
            int64_t source = 0; /* a frame moves as a whole */
            while (source < n && from[source * VALUES] != a[k]) {
                source++;
            }
            assert_true(source < n);
            assert_memory_equal(got + k * VALUES, from + source * VALUES, VALUES * sizeof *got);
        }
        qsort(a, (size_t)n, sizeof *a, ascending);
        qsort(b, (size_t)n, sizeof *b, ascending);
        assert_memory_equal(a, b, (size_t)n * sizeof *a);
    }
    assert_true(moved);
}

static void timeline(void **state)
{
    cvx_prompts p;
    char title[64];
    const cvx_opt_list one = {{"2001: a space odyssey"}, 1};
    const cvx_opt_list three = {{"0: a", "9:b", "33:  c: d"}, 3};

    (void)state;
    assert_int_equal(cvx_prompts_parse(&p, &one), CVX_OK);
    assert_true(p.n == 1 && p.text[0] == one.item[0]);
    assert_int_equal(cvx_prompts_at(&p, 5000), 0);
    assert_int_equal(cvx_prompts_parse(&p, &three), CVX_OK);
    assert_int_equal(p.n, 3);
    assert_string_equal(p.text[0], "a");
    assert_string_equal(p.text[1], "b");
    assert_string_equal(p.text[2], "c: d");
    static const int64_t frames[] = {0, 8, 9, 32, 33, 1000}, want[] = {0, 0, 1, 1, 2, 2};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(cvx_prompts_at(&p, frames[i]), want[i]);
    }
    assert_string_equal(cvx_prompts_title(&three, title, sizeof title), "0: a | 9:b | 33:  c: d");
    const cvx_opt_list wide = {{"a\xe2\x82\xac"}, 1};
    assert_string_equal(cvx_prompts_title(&wide, title, 4), "a"); /* no half of a character */
    assert_string_equal(cvx_prompts_title(&wide, title, 6), "a\xe2\x82\xac");

    static const cvx_opt_list bad[] = {
        {{NULL}, 0},           {{"a", "b"}, 2},        {{"1: a", "2: b"}, 2},
        {{"0: a", "0: b"}, 2}, {{"0: a", "-3: b"}, 2}, {{"0: a", "99999999999999999999: b"}, 2},
        {{"\xff"}, 1},         {{"0: a", "5 b"}, 2},   {{"0: a", "7: b", "6: c"}, 3},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(cvx_prompts_parse(&p, &bad[i]), CVX_EINVAL);
        assert_non_null(strstr(cvx_error(), "--prompt"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares),
        cmocka_unit_test(dilated),
        cmocka_unit_test(free_noise),
        cmocka_unit_test(timeline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
