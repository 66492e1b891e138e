/* A pool's talk with a real Redis while its job goes on. Without redis-server the tests are skipped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "rankworker/link.h"
#include "store/message.h"
#include "tests/redis_server.h"

static redis_server server;

static int enter(void **state)
{
    *state = redis_start(&server) ? &server : NULL;
    return 0;
}

static int leave(void **state)
{
    (void)state;
    redis_stop(&server);
    return 0;
}

/* Whether the pool's entry in Redis names a mesh; it is one of the two then. */
static bool whole_mesh(cvx_redis *r, const char *a, const char *b)
{
    redisReply *reply;

    assert_int_equal(cvx_redis_command(r, &reply, "GET cvx:pool:pool"), CVX_OK);
    Cvx__PoolStatus *s = CVX_UNPACK(cvx__pool_status, reply);
    freeReplyObject(reply);
    bool told = s != NULL && s->mesh[0] != 0;
    if (told && strcmp(s->mesh, a) != 0 && strcmp(s->mesh, b) != 0) {
        fail_msg("neither of the two texts: '%s'", s->mesh);
    }
    cvx__pool_status__free_unpacked(s, NULL);
    return told;
}

/* The mesh changes while the other thread tells it: what is told is one text or the other. */
static void test_mesh_is_told_whole(void **state)
{
    static const char a[] =
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                      b[] = "b";
    Cvx__JobSpec spec = CVX__JOB_SPEC__INIT;
    Cvx__Assignment job = CVX__ASSIGNMENT__INIT;
    Cvx__PoolStatus status = CVX__POOL_STATUS__INIT;
    cvx_event step = {.kind = CVX_EVENT_STAGE, .stage = "denoise", .total = 1};
    cvx_redis *r;
    cvx_link *l;
    int told = 0;

    if (*state == NULL) {
        skip();
    }
    spec.id = "video_00000000000000000000000000000000";
    job.spec = &spec;
    status.name = "pool";
    status.size = 1;
    assert_int_equal(cvx_redis_open(&r, server.url), CVX_OK);
    assert_int_equal(cvx_link_open(&l, server.url, &status, true), CVX_OK);
    cvx_link_begin(l, &job);
    double begin = cvx_now();
    for (int i = 0; cvx_now() - begin < 2; i++) { /* it is told ten times a second */
        cvx_link_mesh(l, i % 2 == 0 ? a : b);
        if (i % 1000 == 0) {
            assert_int_equal(cvx_link_event(l, &step), CVX_OK);
            told += whole_mesh(r, a, b);
        }
    }
    assert_true(told > 0);
    cvx_link_close(l);
    cvx_redis_close(r);
}

int main(void)
{
    alarm(60); /* half a text may also be half a message, whose reader waits for the rest */
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mesh_is_told_whole)};
    return cmocka_run_group_tests(tests, enter, leave);
}
