/* A line of a batch is a request on top of the defaults. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/pipeline/batch.h"

static cvx_status read_line(cvx_request *r, json_t **doc, const char *text)
{
    return cvx_batch_line(r, doc, text, strlen(text), "jobs:7");
}

static void good(void **state)
{
    cvx_request r = CVX_REQUEST_INIT;
    json_t *doc = NULL;

    (void)state;
    r.prompt = (cvx_opt_list){{"a circle"}, 1};
    r.seed = 9;
    r.batch = "jobs";
    r.lora.item[r.lora.n++] = "default";
    assert_int_equal(
        read_line(&r, &doc,
                  "{\"num_frames\": 17, \"guidance-scale\": 2, \"lora\": [\"a\", \"b:2\"], "
                  "\"enable_tiling\": true, \"output\": \"x.gif\"}"),
        CVX_OK);
    assert_int_equal(r.num_frames, 17);
    assert_true(r.guidance_scale == 2 && r.enable_tiling && r.seed == 9);
    assert_string_equal(r.prompt.item[0], "a circle");
    assert_string_equal(r.output, "x.gif");
    assert_int_equal(r.lora.n, 2); /* instead of the default's */
    assert_string_equal(r.lora.item[0], "a");
    assert_null(r.batch);
    json_decref(doc);
}

static void bad(void **state)
{
    static const char *const lines[][2] = {
        {"[]", "the top level must be a JSON object"},
        {"{\"seed\": 1", "jobs:7: not JSON"},
        {"{\"sed\": 1}", "did you mean --seed?"},
        {"{\"seed\": \"one\"}", "--seed one: must be a whole number"},
        {"{\"prompt\": 3}", "\"prompt\" must be a string"},
        {"{\"batch\": \"other\"}", "a job of a batch is no batch"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        cvx_request r = CVX_REQUEST_INIT, before = r;
        json_t *doc = NULL;
        assert_int_not_equal(read_line(&r, &doc, lines[i][0]), CVX_OK);
        assert_non_null(strstr(cvx_error(), lines[i][1]));
        assert_non_null(strstr(cvx_error(), "jobs:7"));
        assert_null(doc);
        assert_memory_equal(&r, &before, sizeof r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(good), cmocka_unit_test(bad)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
