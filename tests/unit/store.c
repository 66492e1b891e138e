/* Jobs, queue and leases in a real Redis: what a pool may ask twice, what it may not take away, which answers mean "not now". Without
 * redis-server the tests are skipped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/jobs.h"
#include "tests/redis_server.h"

static redis_server server;
static cvx_redis *r;

static int enter(void **state)
{
    (void)state;
    if (redis_start(&server) &&
        (cvx_redis_open(&r, server.url) != CVX_OK || cvx_jobs_queue(r) != CVX_OK)) {
        return -1;
    }
    return 0;
}

static int leave(void **state)
{
    (void)state;
    cvx_redis_close(r);
    redis_stop(&server);
    return 0;
}

/* A number that Redis answers; -1: it is none. */
static int64_t number(const char *command)
{
    redisReply *reply;

    assert_int_equal(cvx_redis_command(r, &reply, command), CVX_OK);
    int64_t n = reply->type == REDIS_REPLY_INTEGER ? reply->integer : -1;
    freeReplyObject(reply);
    return n;
}

/* An empty Redis with one job, which a pool has read from the queue. */
static cvx_entry one_job(void)
{
    Cvx__JobSpec spec = CVX__JOB_SPEC__INIT;
    char id[CVX_ID_MAX], made[CVX_ID_MAX];
    cvx_entry e;
    redisReply *reply;
    bool found;
    int later;

    if (r == NULL) {
        skip();
    }
    assert_int_equal(cvx_redis_command(r, &reply, "FLUSHALL"), CVX_OK);
    freeReplyObject(reply);
    assert_int_equal(cvx_jobs_queue(r), CVX_OK);
    cvx_job_id(id);
    spec.version = 1;
    spec.id = id;
    spec.owner = "me";
    spec.prompt = "a red circle";
    spec.created_ms = cvx_now_ms();
    assert_int_equal(cvx_jobs_create(r, &spec, "", &(cvx_limits){0}, made, &later), CVX_OK);
    assert_int_equal(cvx_jobs_dispatch(r, 1, 0), CVX_OK);
    assert_int_equal(cvx_jobs_next(r, "pool", 0, &e, &found), CVX_OK);
    assert_true(found);
    assert_string_equal(e.id, id);
    return e;
}

static int64_t claim(const cvx_entry *e, const char *holder)
{
    Cvx__Assignment *a;

    assert_int_equal(cvx_jobs_claim(r, e, "pool", holder, 0, &a), CVX_OK);
    int64_t token = a != NULL ? a->token : 0;
    if (a != NULL) {
        assert_string_equal(a->spec->prompt, "a red circle");
        cvx__assignment__free_unpacked(a, NULL);
    }
    return token;
}

static void view(const cvx_entry *e, cvx_job_view *v)
{
    bool found;

    assert_int_equal(cvx_jobs_get(r, e->id, v, &found), CVX_OK);
    assert_true(found);
}

/* The connection broke before the answer came: whoever asks again has the same job, in the same try, under the same token. */
static void test_claim_whose_answer_was_lost(void **state)
{
    cvx_entry e = one_job();
    cvx_job_view v;
    char now[16];
    (void)state;

    int64_t token = claim(&e, "holder");
    assert_true(token > 0);
    assert_int_equal(claim(&e, "holder"), token);
    assert_int_equal(claim(&e, "somebody else"), 0);
    view(&e, &v);
    assert_int_equal(v.attempts, 1);
    cvx_job_view_free(&v);
    assert_int_equal(cvx_lease_finish(r, e.id, token, "completed", "", NULL, now), CVX_OK);
    assert_string_equal(now, "completed");
    assert_int_equal(claim(&e, "holder"), 0);
}

/* An entry that is given back, or looks unclaimed for long, while its job runs stays in the queue: the scheduler counts both. */
static void test_entry_under_a_running_job(void **state)
{
    cvx_entry e = one_job();
    char now[16];
    (void)state;

    int64_t token = claim(&e, "holder");
    assert_int_equal(claim(&e, "somebody else"), 0);
    assert_int_equal(cvx_jobs_give_back(r, &e), CVX_OK);
    assert_int_equal(number("XLEN cvx:queue"), 1);
    assert_int_equal(number("ZCARD cvx:running"), 1);
    assert_int_equal(number("ZCARD cvx:waiting:me"), 0);
    assert_int_equal(cvx_lease_finish(r, e.id, token, "completed", "", NULL, now), CVX_OK);
    assert_int_equal(number("XLEN cvx:queue"), 0);
    assert_int_equal(number("ZCARD cvx:running"), 0);
}

/* One that nobody claimed waits again, once. */
static void test_entry_that_is_given_back(void **state)
{
    cvx_entry e = one_job();
    (void)state;

    assert_int_equal(cvx_jobs_give_back(r, &e), CVX_OK);
    assert_int_equal(cvx_jobs_give_back(r, &e), CVX_OK);
    assert_int_equal(number("XLEN cvx:queue"), 0);
    assert_int_equal(number("ZCARD cvx:waiting:me"), 1);
    assert_int_equal(claim(&e, "holder"), 0);
}

/* A pool thought dead changes nothing of what its successor does. */
static void test_old_token(void **state)
{
    cvx_entry e = one_job();
    cvx_job_view v;
    cvx_lease lease;
    char now[16];
    redisReply *reply;
    bool found;
    (void)state;

    int64_t old = claim(&e, "holder");
    assert_int_equal(cvx_redis_command(r, &reply, "DEL cvx:lease:%s", e.id), CVX_OK);
    freeReplyObject(reply);
    assert_int_equal(cvx_jobs_reap(r), CVX_OK);
    assert_int_equal(cvx_jobs_dispatch(r, 1, 0), CVX_OK);
    assert_int_equal(cvx_jobs_next(r, "next", 0, &e, &found), CVX_OK);
    assert_true(found);
    int64_t token = claim(&e, "next");
    assert_true(token > old);
    assert_int_equal(cvx_lease_renew(r, e.id, old, NULL, &lease), CVX_OK);
    assert_int_equal(lease, CVX_LEASE_LOST);
    assert_int_equal(cvx_lease_finish(r, e.id, old, "completed", "", NULL, now), CVX_OK);
    assert_string_equal(now, "lost");
    view(&e, &v);
    assert_string_equal(v.state, "in_progress");
    assert_int_equal(v.token, token);
    cvx_job_view_free(&v);
}

/* Answers of a Redis that can do nothing just now are CVX_EIO, which is tried again; a command that is wrong is not. */
static void test_not_now(void **state)
{
    static const struct {
        const char *text;
        cvx_status want;
    } cases[] = {{"OOM command not allowed when used memory > 'maxmemory'.", CVX_EIO},
                 {"MISCONF Errors writing to the AOF file: No space left on device", CVX_EIO},
                 {"READONLY You can't write against a read only replica.", CVX_EIO},
                 {"NOAUTH Authentication required.", CVX_EIO},
                 {"NOPERM this user has no permissions to run the 'set' command", CVX_EIO},
                 {"UNBLOCKED the stream key no longer exists", CVX_EIO},
                 {"NOREPLICAS Not enough good replicas to write.", CVX_EIO},
                 {"ERR max number of clients reached", CVX_EIO},
                 {"ERR The user executing the script can't run this command or subcommand",
                  CVX_EIO},
                 {"LOADING Redis is loading the dataset in memory", CVX_EIO},
                 {"WRONGTYPE Operation against a key", CVX_EFORMAT}};
    char script[160];
    redisReply *reply;
    (void)state;

    if (r == NULL) {
        skip();
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(script, sizeof script, "return redis.error_reply(\"%s\")", cases[i].text);
        assert_int_equal(cvx_redis_command(r, &reply, "EVAL %s 0", script), cases[i].want);
        assert_non_null(strstr(cvx_error(), cases[i].text));
    }
}

/* A job whose bytes are none any more ends, and its reader gets no error that it would have to end by. */
static void test_unreadable(void **state)
{
    cvx_entry e = one_job();
    redisReply *reply;
    (void)state;

    assert_int_equal(cvx_redis_command(r, &reply, "HSET cvx:job:%s spec %s", e.id, "\xff"), CVX_OK);
    freeReplyObject(reply);
    assert_int_equal(claim(&e, "holder"), 0);
    assert_int_equal(cvx_redis_command(r, &reply, "HMGET cvx:job:%s state cause", e.id), CVX_OK);
    assert_string_equal(reply->element[0]->str, "failed");
    assert_non_null(strstr(reply->element[1]->str, e.id));
    freeReplyObject(reply);
    assert_int_equal(number("ZCARD cvx:running"), 0);
    assert_int_equal(number("XLEN cvx:queue"), 0);
}

/* "Not now" by a Redis that has no memory: a job is not made, and can be made once there is some again. */
static void test_no_memory(void **state)
{
    cvx_entry e = one_job();
    Cvx__JobSpec spec = CVX__JOB_SPEC__INIT;
    char made[CVX_ID_MAX];
    redisReply *reply;
    int later;
    (void)state;

    e.id[6] = e.id[6] == '0' ? '1' : '0'; /* another id */
    spec.version = 1;
    spec.id = e.id;
    spec.owner = "me";
    assert_int_equal(cvx_redis_command(r, &reply, "CONFIG SET maxmemory 1"), CVX_OK);
    freeReplyObject(reply);
    assert_int_equal(cvx_jobs_create(r, &spec, "", &(cvx_limits){0}, made, &later), CVX_EIO);
    assert_int_equal(cvx_redis_command(r, &reply, "CONFIG SET maxmemory 0"), CVX_OK);
    freeReplyObject(reply);
    assert_int_equal(number("ZCARD cvx:jobs"), 1);
    assert_int_equal(cvx_jobs_create(r, &spec, "", &(cvx_limits){0}, made, &later), CVX_OK);
    assert_int_equal(number("ZCARD cvx:jobs"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_claim_whose_answer_was_lost),
        cmocka_unit_test(test_entry_under_a_running_job),
        cmocka_unit_test(test_entry_that_is_given_back),
        cmocka_unit_test(test_old_token),
        cmocka_unit_test(test_not_now),
        cmocka_unit_test(test_unreadable),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, enter, leave);
}
