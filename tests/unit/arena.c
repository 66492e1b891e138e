/* Arenas: alignment, limits, marks, dropped pages, and counting without memory. */
#include <string.h>

#include "../golden/golden.h"
#include "base/arena.h"

static void alignment_and_limit(void **state)
{
    cvx_arena a;
    void *p[3], *kept = &a;

    (void)state;
    OK(cvx_arena_open(&a, "job", 4000)); /* one page */
    OK(cvx_arena_alloc(&a, &p[0], 1));
    OK(cvx_arena_alloc(&a, &p[1], 65));
    OK(cvx_arena_alloc(&a, &p[2], 0));
    assert_ptr_equal((char *)p[1], (char *)p[0] + 64);
    assert_ptr_equal((char *)p[2], (char *)p[1] + 128);
    assert_int_equal((uintptr_t)p[0] % 64, 0);
    assert_int_equal(a.used, 192);

    assert_int_equal(cvx_arena_alloc(&a, &kept, 4096 - 192 + 1), CVX_ENOMEM);
    assert_non_null(strstr(cvx_error(), "job memory"));
    assert_int_equal(cvx_arena_alloc(&a, &kept, SIZE_MAX), CVX_ENOMEM);
    assert_int_equal(cvx_arena_alloc(&a, &kept, SIZE_MAX - 62), CVX_ENOMEM);
    assert_ptr_equal(kept, &a); /* outputs are set only on success */
    assert_int_equal(a.used, 192);
    OK(cvx_arena_alloc(&a, &kept, 4096 - 192));
    memset(kept, 1, 4096 - 192);
    cvx_arena_close(&a);
    cvx_arena_close(&a);
}

static void marks(void **state)
{
    cvx_arena a;
    void *p, *q, *again;

    (void)state;
    OK(cvx_arena_open(&a, "step", 1 << 20));
    OK(cvx_arena_alloc(&a, &p, 5000));
    size_t mark = cvx_arena_mark(&a);
    OK(cvx_arena_alloc(&a, &q, 100000));
    memset(p, 7, 5000);
    memset(q, 9, 100000);
    cvx_arena_release(&a, mark, false);
    OK(cvx_arena_alloc(&a, &again, 100000));
    assert_ptr_equal(again, q);
    assert_int_equal(((unsigned char *)q)[50000], 9);
    cvx_arena_release(&a, mark, true);
    OK(cvx_arena_alloc(&a, &again, 100000));
    assert_int_equal(((unsigned char *)q)[50000], 0); /* the pages went back */
    for (int i = 0; i < 5000; i++) {                  /* what lies before the mark did not */
        assert_int_equal(((unsigned char *)p)[i], 7);
    }
    assert_int_equal(a.peak, mark + 100032);
    cvx_arena_close(&a);
}

/* The same calls on a measuring arena count what the real one needs, to the byte. */
static void measuring(void **state)
{
    static const size_t sizes[] = {1, 64, 1000, 0, 123457};
    cvx_arena m, a;
    cvx_tensor t;
    void *p;

    (void)state;
    cvx_arena_open_measure(&m, "weights");
    for (int i = 0; i < 5; i++) {
        OK(cvx_arena_alloc(&m, &p, sizes[i]));
    }
    size_t mark = cvx_arena_mark(&m);
    OK(CVX_ALLOC(&m, &t, CVX_F32, 49, 480, 720, 128)); /* 8 GiB that nobody has to have */
    assert_int_equal(cvx_numel(&t), 49ll * 480 * 720 * 128);
    cvx_arena_release(&m, mark, true);
    assert_int_equal(m.peak, mark + (size_t)49 * 480 * 720 * 128 * 4);

    OK(cvx_arena_open(&a, "weights", mark));
    for (int i = 0; i < 5; i++) {
        OK(cvx_arena_alloc(&a, &p, sizes[i]));
    }
    assert_int_equal(a.used, mark);
    cvx_arena_close(&a);
    cvx_arena_close(&m);
}

static void impossible_sizes(void **state)
{
    cvx_arena a = {0};
    cvx_tensor t = {.ndim = 3};

    (void)state;
    assert_int_equal(cvx_arena_open(&a, "job", SIZE_MAX), CVX_ENOMEM);
    assert_int_equal(cvx_arena_open(&a, "job", SIZE_MAX / 4), CVX_ENOMEM);
    cvx_arena_close(&a);
    cvx_arena_open_measure(&a, "job");
    assert_int_equal(CVX_ALLOC(&a, &t, CVX_F32, INT64_C(1) << 40, INT64_C(1) << 40), CVX_ENOMEM);
    assert_int_equal(CVX_ALLOC(&a, &t, CVX_F32, 2, -1), CVX_ENOMEM);
    assert_int_equal(t.ndim, 3);
    cvx_arena_close(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(alignment_and_limit),
                                       cmocka_unit_test(marks), cmocka_unit_test(measuring),
                                       cmocka_unit_test(impossible_sizes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
