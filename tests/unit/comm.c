/* The group of one does what the contract says, and the counters count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "parallel/comm.h"

static void self_collectives(void **state)
{
    (void)state;
    cvx_comm *c = NULL;
    float send[3] = {1, 2, 3}, recv[5] = {0};
    const int64_t bytes = sizeof send, at = 8, zero = 0, n = 3;

    assert_int_equal(cvx_comm_self(&c), CVX_OK);
    assert_int_equal(cvx_comm_allgatherv(c, send, bytes, recv, &bytes, &at), CVX_OK);
    assert_memory_equal(recv + 2, send, sizeof send);
    memset(recv, 0, sizeof recv);
    assert_int_equal(cvx_comm_alltoallv(c, send, &bytes, &zero, recv, &bytes, &zero), CVX_OK);
    assert_memory_equal(recv, send, sizeof send);
    memset(recv, 0, sizeof recv);
    assert_int_equal(cvx_comm_reduce_scatterv_f32(c, send, recv, &n), CVX_OK);
    assert_memory_equal(recv, send, sizeof send);
    assert_int_equal(cvx_comm_allreduce_f32(c, send, 3), CVX_OK);
    assert_true(send[2] == 3);
    memset(recv, 0, sizeof recv);
    assert_int_equal(cvx_comm_sendrecv(c, send, bytes, 0, recv, bytes, 0), CVX_OK);
    assert_memory_equal(recv, send, sizeof send);
    assert_int_equal(cvx_comm_sendrecv(c, send, bytes, 1, recv, bytes, 0), CVX_EINTERNAL);
    assert_int_equal(cvx_comm_broadcast(c, send, bytes, 0), CVX_OK);
    assert_int_equal(cvx_comm_agree(c, CVX_OK), CVX_OK);
    assert_int_equal(cvx_comm_agree(c, CVX_EIO), CVX_EIO);
    int least = -3;
    assert_int_equal(cvx_comm_least(c, &least), CVX_OK);
    assert_int_equal(least, -3);
    assert_int_equal(c->stat[CVX_COMM_ALLGATHER].calls, 1);
    assert_int_equal(c->stat[CVX_COMM_ALLGATHER].bytes_sent, 0);
    assert_int_equal(c->stat[CVX_COMM_AGREE].calls, 3);
    cvx_comm_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(self_collectives)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
