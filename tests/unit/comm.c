/* The group of one does what the contract says, and the counters count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "parallel/gather.h"

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
    memset(recv, 0, sizeof recv);
    cvx_comm_pending pending;
    assert_int_equal(cvx_comm_start_sendrecv(c, &pending, send, bytes, 0, recv, bytes, 0), CVX_OK);
    cvx_comm_poll(c, &pending);
    assert_int_equal(cvx_comm_wait(c, &pending), CVX_OK);
    assert_memory_equal(recv, send, sizeof send);
    assert_int_equal(cvx_comm_start_sendrecv(c, &pending, send, bytes, 1, recv, bytes, 0),
                     CVX_EINTERNAL);
    assert_int_equal(c->stat[CVX_COMM_SENDRECV].calls, 4);
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

/* A group that only counts: bytes that would leave a rank, by the formulas of comm.h. */
static void counted(void **state)
{
    (void)state;
    cvx_comm *c = NULL;
    cvx_comm_pending pending;

    assert_int_equal(cvx_comm_dry(&c, 1, 3), CVX_OK);
    assert_int_equal(cvx_comm_allreduce_f32(c, NULL, 10), CVX_OK); /* shards 3, 3, 4 */
    assert_int_equal(c->stat[CVX_COMM_ALLREDUCE].bytes_sent, 4 * 7 + 4 * 3 * 2);
    assert_int_equal(cvx_comm_start_sendrecv(c, &pending, NULL, 100, 2, NULL, 50, 0), CVX_OK);
    assert_int_equal(cvx_comm_wait(c, &pending), CVX_OK);
    assert_int_equal(c->stat[CVX_COMM_SENDRECV].bytes_sent, 100);
    cvx_comm_close(c);
}

/* All-gather where whole heads cannot be dealt out evenly; what is asked for wins. */
static void exchange(void **state)
{
    static const struct {
        int64_t heads;
        int size;
        cvx_exchange want;
    } rows[] = {{30, 2, CVX_EXCHANGE_ULYSSES},  {30, 3, CVX_EXCHANGE_ULYSSES},
                {30, 4, CVX_EXCHANGE_ULYSSES},  {30, 7, CVX_EXCHANGE_ULYSSES},
                {48, 8, CVX_EXCHANGE_ULYSSES},  {30, 14, CVX_EXCHANGE_ALLGATHER},
                {3, 2, CVX_EXCHANGE_ALLGATHER}, {2, 4, CVX_EXCHANGE_ALLGATHER},
                {3, 8, CVX_EXCHANGE_ALLGATHER}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(cvx_exchange_choose(CVX_EXCHANGE_AUTO, rows[i].heads, rows[i].size),
                         rows[i].want);
    }
    assert_int_equal(cvx_exchange_choose(CVX_EXCHANGE_ULYSSES, 2, 4), CVX_EXCHANGE_ULYSSES);
    assert_int_equal(cvx_exchange_choose(CVX_EXCHANGE_ALLGATHER, 30, 3), CVX_EXCHANGE_ALLGATHER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(self_collectives),
                                       cmocka_unit_test(counted), cmocka_unit_test(exchange)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
