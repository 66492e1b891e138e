/* The coordinator's parts without its HTTP: key files at their bounds, and `cvx plan` when it is slow or talks much. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sys/stat.h>

#include "base/hash.h"
#include "coordinator/auth.h"
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

/* A server whose `cvx` is this shell script. */
static void scripted(cvx_server *s, const char *script)
{
    *s = (cvx_server){.redis_url = server.url,
                      .data_dir = dir,
                      .model = "/the/model",
                      .model_name = "model",
                      .cvx = in_dir("cvx")};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->freed, NULL);
    write_file(in_dir("cvx"), script, 0700);
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
    assert_string_equal(cvx_error(), "--num-frames 48: 45 and 49 would be right");
    assert_string_equal(param, "num_frames");
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
    char script[400];
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

int main(void)
{
    alarm(120); /* a plan that is not listened to never ends */
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_most_keys),
                                       cmocka_unit_test(test_plan_that_talks_much),
                                       cmocka_unit_test(test_plan_holds_no_connection)};
    return cmocka_run_group_tests(tests, enter, leave);
}
