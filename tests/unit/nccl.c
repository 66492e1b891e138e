/* The communicators of device memory as far as they go without a device: errors come back as statuses with what would
 * be right, nothing hangs and nothing stays allocated (the sanitizers' build watches). With a device: one rank's
 * collectives, also through NCCL. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "kernels/ops.h"
#include "parallel/comm.h"

#ifdef CVX_HAVE_CUDA
#include "parallel/nccl/comm_nccl.h"

static void without_device(void **state)
{
    (void)state;
    char what[160], note[200];
    cvx_comm *self = NULL, *c = NULL;
    const cvx_device_exchange hows[] = {CVX_DEVICE_AUTO, CVX_DEVICE_NCCL, CVX_DEVICE_STAGED};

    if (cvx_cuda_usable(what)) {
        print_message("SKIP: there is a device: %s\n", what);
        return;
    }
    assert_int_equal(cvx_comm_self(&self), CVX_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(cvx_comm_device_open(&c, self, hows[i], note), CVX_EUNSUPPORTED);
        assert_null(c);
        assert_non_null(strstr(cvx_error(), "no CUDA device"));
    }
    cvx_comm_close(self);
}

/* The id and its broadcast work without a driver; the communicator itself is refused, again and again alike. */
static void nccl_without_device(void **state)
{
    (void)state;
    char what[160];
    cvx_comm *self = NULL;
    bool usable = cvx_cuda_usable(what);

    assert_int_equal(cvx_comm_self(&self), CVX_OK);
    for (int i = 0; i < 3; i++) {
        cvx_status st = cvx_nccl_try(self);
        if (usable) {
            assert_int_equal(st, CVX_OK);
        } else {
            assert_int_not_equal(st, CVX_OK);
            assert_true(strstr(cvx_error(), "NCCL") != NULL);
            print_message("NCCL without a device: %s\n", cvx_error());
        }
    }
    assert_int_equal(self->stat[CVX_COMM_BROADCAST].calls, 3);
    cvx_comm_close(self);
}

static void one_rank(void **state)
{
    (void)state;
    char what[160], note[200];
    cvx_comm *self = NULL, *c = NULL, *part = NULL;
    int least = 7;

    if (!cvx_cuda_usable(what)) {
        print_message("SKIP one rank: %s\n", what);
        return;
    }
    assert_int_equal(cvx_comm_self(&self), CVX_OK);
    assert_int_equal(cvx_comm_device_open(&c, self, CVX_DEVICE_AUTO, note), CVX_OK);
    assert_int_equal(cvx_comm_least(c, &least), CVX_OK);
    assert_int_equal(least, 7);
    assert_int_equal(cvx_comm_split(c, 0, 0, &part), CVX_OK);
    cvx_comm_close(part);
    cvx_comm_close(c);
    cvx_comm_close(self);
}
#else
static void without_device(void **state)
{
    (void)state;
    char what[160];

    assert_false(cvx_cuda_built());
    assert_false(cvx_cuda_usable(what));
    print_message("SKIP: this build has no CUDA\n");
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_device),
#ifdef CVX_HAVE_CUDA
        cmocka_unit_test(nccl_without_device),
        cmocka_unit_test(one_rank),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
