/* The coordinator's parts without its HTTP: key files at their bounds, and `cvx plan` when it is slow or talks much. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>

#include "base/hash.h"
#include "coordinator/auth.h"
#include "coordinator/data_url.h"
#include "tests/redis_server.h"

static char dir[] = "/tmp/cvx-test-service-XXXXXX";
static redis_server server;
static bool redis;

static char *in_dir(const char *name)
{
    static char path[4][64];
    static int n;

    n = (n + 1) % 4;
    snprintf(path[n], sizeof path[n], "%s/%s", dir, name);
    return path[n];
}

static int enter(void **state)
{
    (void)state;
    redis = redis_start(&server);
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static int leave(void **state)
{
    static const char *const files[] = {"keys", "cvx", "begun", "go", "times"};

    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        (void)remove(in_dir(files[i]));
    }
    redis_stop(&server);
    return rmdir(dir);
}

static void write_file(const char *path, const char *text, mode_t mode)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, mode), 0);
}

/* A key file of n keys, "0", "1" ..., and a comment behind them. */
static void write_keys(int n)
{
    FILE *f = fopen(in_dir("keys"), "w");
    char key[12], hex[65];
    cvx_sha256 h;

    assert_non_null(f);
    for (int i = 0; i < n; i++) {
        snprintf(key, sizeof key, "%d", i);
        cvx_sha256_init(&h);
        cvx_sha256_add(&h, key, strlen(key));
        cvx_sha256_hex(&h, hex);
        fprintf(f, "name%d %s waiting=7\n", i, hex);
    }
    fprintf(f, "# no more\n");
    assert_int_equal(fclose(f), 0);
}

/* As many keys as there may be, and one more: nothing beside the keys changes. */
static void test_most_keys(void **state)
{
    static cvx_server s, before;
    char owner[64];
    (void)state;

    for (int more = 0; more < 2; more++) {
        memset(&s, 0x5a, sizeof s);
        s.keys = 0;
        s.limits = (cvx_limits){3, 4};
        before = s;
        write_keys(CVX_KEYS_MAX + more);
        assert_int_equal(cvx_auth_load(&s, in_dir("keys")), more == 0 ? CVX_OK : CVX_EFORMAT);
        assert_int_equal(s.keys, CVX_KEYS_MAX);
        assert_memory_equal(&s.limits, &before.limits, sizeof s - offsetof(cvx_server, limits));
        assert_true(cvx_auth_check(&s, "Bearer 255", owner, sizeof owner));
        assert_string_equal(owner, "name255");
        assert_false(cvx_auth_check(&s, "Bearer 256", owner, sizeof owner));
    }
}

/* Bytes written as a data URL and read in pieces of any size; what is none is refused. */
static void test_data_url(void **state)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static const char *const bad[] = {"data:image/png;base64,",
                                      "data:text/html;base64,QUJD",
                                      "http://localhost/x.png",
                                      "data:image/png,QUJD",
                                      "data:image/png;base64,QUJD=",
                                      "data:image/png;base64,Q",
                                      "data:image/png;base64,QUI=C",
                                      "data:image/png;base64,QU=J",
                                      "data:image/png;base64,Q===",
                                      "data:image/png;base64,QU JD",
                                      "data:image/png;base64,QUI=====",
                                      "data:image/png;base64,QUI_",
                                      "",
                                      "data:image/png;base64"};
    char text[400], head[100];
    unsigned char bytes[200], out[CVX_DATA_URL_ROOM(400)], got[300];
    size_t len;
    (void)state;

    for (size_t n = 1; n < 190; n++) {
        for (size_t i = 0; i < n; i++) {
            bytes[i] = (unsigned char)(i * i * 37 + n);
        }
        size_t k = (size_t)sprintf(text, "data:image/png;base64,");
        for (size_t i = 0; i < n; i += 3) { /* by definition: three bytes are four digits */
            uint32_t three = (uint32_t)bytes[i] << 16 |
                             (uint32_t)(i + 1 < n ? bytes[i + 1] : 0) << 8 |
                             (i + 2 < n ? bytes[i + 2] : 0);
            for (int d = 0; d < 4; d++) {
                text[k++] = i + (size_t)d <= n ? digits[three >> (18 - 6 * d) & 63] : '=';
            }
        }
        cvx_data_url u = {.n = 0};
        size_t have = 0, piece = 1 + n % 7;
        for (size_t at = 0; at < k; at += piece) {
            assert_true(
                cvx_data_url_take(&u, text + at, k - at < piece ? k - at : piece, out, &len));
            assert_true(len <= CVX_DATA_URL_ROOM(piece));
            memcpy(got + have, out, len);
            have += len;
        }
        assert_true(cvx_data_url_whole(&u));
        assert_int_equal(have, n);
        assert_memory_equal(got, bytes, n);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cvx_data_url u = {.n = 0};
        size_t had = 0;
        bool good = cvx_data_url_take(&u, bad[i], strlen(bad[i]), out, &had) &&
                    cvx_data_url_whole(&u) && had > 0;
        snprintf(head, sizeof head, "%d %s", good, bad[i]);
        assert_int_equal(head[0], '0');
    }
}

/* A server whose `cvx` is this shell script. */
static void scripted(cvx_server *s, const char *script)
{
    static char cvx[64];

    snprintf(cvx, sizeof cvx, "%s", in_dir("cvx"));
    *s = (cvx_server){.redis_url = server.url,
                      .data_dir = dir,
                      .model = "/the/model",
                      .model_name = "model",
                      .cvx = cvx};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->freed, NULL);
    write_file(cvx, script, 0700);
}

#define SAYS                                                                                                          \
    "echo '{\"num_frames\": 17, \"width\": 96, \"height\": 64, \"fps\": 8, \"seconds\": 3.5, \"needed_bytes\": 1000," \
    " \"image_to_video\": false, \"stages\": [{\"tflop\": 1.5}, {\"tflop\": 2}]}'\n"

/* It writes more than a pipe holds, to both of its outputs, before it ends: it can end, and its cause is heard. */
static void test_plan_that_talks_much(void **state)
{
    Cvx__JobSpec spec = CVX__JOB_SPEC__INIT;
    const char *param = NULL;
    cvx_server s;
    (void)state;

    scripted(
        &s,
        "#!/bin/sh\necho 'cvx: --num-frames 48: 45 and 49 would be right' >&2\n"
        "head -c 300000 /dev/zero | tr '\\0' x >&2\nhead -c 300000 /dev/zero | tr '\\0' x\nexit 2\n");
    spec.prompt = "x";
    assert_int_equal(cvx_spec_plan(&s, &spec, NULL, &param), CVX_EINVAL);
    assert_string_equal(cvx_error(), "num_frames 48: 45 and 49 would be right");
    assert_string_equal(param, "num_frames");
}

/* How often the script has run. */
static int64_t times(void)
{
    struct stat st;

    return stat(in_dir("times"), &st) == 0 ? (int64_t)st.st_size : 0;
}

/* The same shape under another prompt and seed is not planned again; another shape, a refusal and a picture are. */
static void test_plans_are_kept(void **state)
{
    Cvx__JobSpec spec = CVX__JOB_SPEC__INIT, other;
    Cvx__Plan plan = CVX__PLAN__INIT;
    const char *param = NULL;
    char script[800];
    cvx_server s;
    (void)state;

    snprintf(script, sizeof script,
             "#!/bin/sh\nprintf x >>%s\n" SAYS
             "case \"$*\" in *--num-frames*48*) echo 'cvx: no' >&2; exit 2;; esac\n",
             in_dir("times"));
    scripted(&s, script);
    spec.prompt = "one";
    spec.num_frames = 17;
    other = spec;
    other.prompt = "0: another";
    other.seed = 5;
    other.plan = &plan;
    assert_int_equal(cvx_spec_plan(&s, &spec, NULL, &param), CVX_OK);
    assert_int_equal(cvx_spec_plan(&s, &other, NULL, &param), CVX_OK);
    assert_int_equal(times(), 1);
    assert_int_equal(other.width, 96);
    assert_true(plan.tflop == 3.5 && plan.bytes == 1000);
    for (int i = 0; i < 2; i++) {
        other = spec;
        other.num_frames = 48;
        assert_int_equal(cvx_spec_plan(&s, &other, NULL, &param), CVX_EINVAL);
        assert_int_equal(times(), 2 + i);
    }
    for (int i = 0; i < 2; i++) {
        other = spec;
        other.image = "picture.png";
        assert_int_equal(cvx_spec_plan(&s, &other, NULL, &param), CVX_OK);
        assert_int_equal(times(), 4 + i);
    }
    other = spec;
    other.num_inference_steps = 7;
    assert_int_equal(cvx_spec_plan(&s, &other, NULL, &param), CVX_OK);
    assert_int_equal(times(), 6);
}

typedef struct asked {
    cvx_server *s;
    json_t *fields;
    cvx_http_answer a;
} asked;

static void *ask(void *payload)
{
    asked *x = payload;
    const cvx_http_request q = {
        .method = "POST", .path = "/v1/videos", .owner = "me", .fields = x->fields};

    cvx_api(x->s, &q, &x->a);
    return NULL;
}

/* While a job is planned, which may take long, its request holds no connection to Redis: others need them. */
static void test_plan_holds_no_connection(void **state)
{
    cvx_server s;
    char script[800];
    pthread_t thread;
    struct stat st;
    (void)state;

    if (!redis) {
        skip();
    }
    snprintf(script, sizeof script,
             "#!/bin/sh\n: >%s\nwhile [ ! -e %s ]; do sleep 0.02; done\n" SAYS, in_dir("begun"),
             in_dir("go"));
    scripted(&s, script);
    asked x = {.s = &s, .fields = json_pack("{s:s}", "prompt", "a red circle")};
    assert_int_equal(pthread_create(&thread, NULL, ask, &x), 0);
    for (int i = 0; i < 1000 && stat(in_dir("begun"), &st) != 0; i++) {
        usleep(10000);
    }
    int busy = 0;
    pthread_mutex_lock(&s.lock);
    for (int i = 0; i < CVX_REDIS_CONNECTIONS; i++) {
        busy += s.busy[i];
    }
    pthread_mutex_unlock(&s.lock);
    write_file(in_dir("go"), "", 0600);
    pthread_join(thread, NULL);
    assert_int_equal(busy, 0);
    assert_int_equal(x.a.status, 0); /* what is not said otherwise is 200 */
    assert_string_equal(json_string_value(json_object_get(x.a.json, "status")), "queued");
    assert_string_equal(json_string_value(json_object_get(x.a.json, "size")), "96x64");
    json_decref(x.a.json);
    json_decref(x.fields);
    for (int i = 0; i < CVX_REDIS_CONNECTIONS; i++) {
        cvx_redis_close(s.redis[i]);
    }
}

/* A job of an owner; its id. */
static const char *make_job(cvx_redis *r, const char *owner, int priority, double tflop,
                            int64_t bytes)
{
    static char made[8][CVX_ID_MAX];
    static int n;
    Cvx__JobSpec spec = CVX__JOB_SPEC__INIT;
    Cvx__Plan plan = CVX__PLAN__INIT;
    char id[CVX_ID_MAX];
    int later;

    cvx_job_id(id);
    plan.tflop = tflop;
    plan.bytes = bytes;
    spec.id = id;
    spec.owner = (char *)owner;
    spec.priority = priority;
    spec.created_ms = cvx_now_ms() + n; /* one after the other */
    spec.plan = &plan;
    n = (n + 1) % 8;
    assert_int_equal(cvx_jobs_create(r, &spec, "", &(cvx_limits){0}, made[n], &later), CVX_OK);
    return made[n];
}

/* A pool of ranks of 100 bytes each tells that it is there; tflops 0: it has run nothing yet. */
static void tell_pool(cvx_redis *r, const char *name, int ranks, int groups, double tflops)
{
    Cvx__PoolStatus p = CVX__POOL_STATUS__INIT;

    p.name = (char *)name;
    p.state = groups > 0 ? "busy" : "idle";
    p.size = ranks;
    p.groups = groups;
    p.rank_bytes = 100;
    p.tflops = tflops;
    assert_int_equal(cvx_pool_beat(r, &p, false), CVX_OK);
}

/* What is said of a job's wait; < 0: nothing. */
static void assert_wait(cvx_redis *r, const char *id, double seconds)
{
    double got = cvx_wait_seconds(r, id);

    if (seconds < 0 ? got >= 0 : !(fabs(got - seconds) < 1e-9)) {
        fail_msg("a wait of %g s; %g are meant", got, seconds);
    }
}

/* Sets when a job began, so many seconds ago. */
static void began(cvx_redis *r, const char *id, int seconds)
{
    redisReply *reply;

    assert_int_equal(cvx_redis_command(r, &reply, "HSET cvx:job:%s started_ms %lld", id,
                                       (long long)cvx_now_ms() - 1000LL * seconds),
                     CVX_OK);
    freeReplyObject(reply);
}

/* Until what was said before is too old to be said again. */
static void forget(void)
{
    usleep(1100000);
}

/* Who is before a job and how fast the pools are, by hand: priority first, then who has had less; a job goes to the pool that is
 * free first. */
static void test_wait(void **state)
{
    Cvx__Assignment *a;
    cvx_entry e;
    redisReply *reply;
    cvx_redis *r;
    bool found;
    (void)state;

    if (!redis) {
        skip();
    }
    assert_int_equal(cvx_redis_open(&r, server.url), CVX_OK);
    assert_int_equal(cvx_redis_command(r, &reply, "FLUSHALL"), CVX_OK);
    freeReplyObject(reply);
    assert_int_equal(cvx_jobs_queue(r), CVX_OK);
    const char *runs = make_job(r, "me", 1, 40, 10);
    assert_wait(r, runs, -1); /* no pool */
    tell_pool(r, "one", 2, 1, 0);
    assert_int_equal(cvx_jobs_dispatch(r, 1, 0), CVX_OK);
    assert_int_equal(cvx_jobs_next(r, "one", 0, &e, &found), CVX_OK);
    assert_int_equal(cvx_jobs_claim(r, &e, "one", "holder", 0, &a), CVX_OK);
    assert_non_null(a);
    cvx__assignment__free_unpacked(a, NULL);
    began(r, runs, -3600); /* a clock that goes ahead: it has all of its work before it */
    const char *low = make_job(r, "me", 2, 4, 10), *normal = make_job(r, "me", 1, 8, 10);
    const char *other = make_job(r, "other", 1, 12, 10), *high = make_job(r, "me", 0, 20, 10);
    const char *large = make_job(r, "me", 0, 1, 1000);
    assert_wait(r, high, -1); /* no speed is known */
    tell_pool(r, "one", 2, 1, 1);
    forget();
    assert_wait(r, high, 20);  /* 40 TFLOP at 2 a second */
    assert_wait(r, other, 30); /* has had nothing, and 20 TFLOP more are before it */
    assert_wait(r, normal, 36);
    assert_wait(r, low, 40);
    assert_wait(r, large, -1); /* no pool has the memory */
    assert_wait(r, runs, -1);
    began(r, runs, 15);
    forget();
    double less = cvx_wait_seconds(r, high);
    assert_true(less >= 0 && less <= 5);
    began(r, runs, -3600);
    tell_pool(r, "two", 4, 0, 0); /* idle, as fast as the other's ranks: 4 a second */
    forget();
    assert_wait(r, high, 0);
    assert_wait(r, other, 5);
    assert_wait(r, normal, 8);
    assert_wait(r, low, 10);
    tell_pool(r, "two", 4, 2, 0); /* two groups of 2 a second, one of which waits as well */
    forget();
    assert_wait(r, high, 0);
    assert_wait(r, other, 0);
    assert_wait(r, normal, 6);
    assert_wait(r, low, 10);
    cvx_redis_close(r);
}

/* Of uploads of nobody the old ones go; what a job begins with, what is new and what is no upload stays. */
static void test_orphans(void **state)
{
    static const char *const names[] = {"video_00000000000000000000000000000000",
                                        "video_00000000000000000000000000000001",
                                        "video_00000000000000000000000000000002", "README"};
    const struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    cvx_server s = {.data_dir = dir};
    char path[4][128];
    redisReply *reply;
    struct stat st;
    cvx_redis *r;
    (void)state;

    if (!redis) {
        skip();
    }
    assert_int_equal(cvx_redis_open(&r, server.url), CVX_OK);
    assert_int_equal(cvx_keep_orphans(&s, r), CVX_OK); /* no folder yet */
    assert_int_equal(mkdir(in_dir("uploads"), 0700), 0);
    for (int i = 0; i < 4; i++) {
        snprintf(path[i], sizeof path[i], "%s/uploads/%s", dir, names[i]);
        write_file(path[i], "x", 0600);
        if (i != 1) {
            assert_int_equal(utimensat(AT_FDCWD, path[i], old, 0), 0);
        }
    }
    assert_int_equal(cvx_redis_command(r, &reply, "HSET cvx:images %s 1", path[2]), CVX_OK);
    freeReplyObject(reply);
    assert_int_equal(cvx_keep_orphans(&s, r), CVX_OK);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(stat(path[i], &st) == 0, i != 0);
        (void)remove(path[i]);
    }
    assert_int_equal(rmdir(in_dir("uploads")), 0);
    cvx_redis_close(r);
}

int main(void)
{
    alarm(120); /* a plan that is not listened to never ends */
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_most_keys),
                                       cmocka_unit_test(test_data_url),
                                       cmocka_unit_test(test_plan_that_talks_much),
                                       cmocka_unit_test(test_plans_are_kept),
                                       cmocka_unit_test(test_orphans),
                                       cmocka_unit_test(test_plan_holds_no_connection),
                                       cmocka_unit_test(test_wait)};
    return cmocka_run_group_tests(tests, enter, leave);
}
