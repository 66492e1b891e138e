/* JSON: what is refused and how it is named, integers of any length, and the typed getters. */
#include <string.h>
#include <unistd.h>

#include "../golden/golden.h"
#include "base/file.h"
#include "base/json.h"

static void refuses(const char *text, size_t n, const char *why)
{
    json_t *j = NULL;

    if (cvx_json_parse(&j, text, n, "x.json") != CVX_EFORMAT) {
        fail_msg("accepted: %s", text);
    }
    assert_null(j);
    assert_ptr_equal(strstr(cvx_error(), "x.json: "), cvx_error());
    if (strstr(cvx_error(), why) == NULL) {
        fail_msg("'%s' is not in: %s", why, cvx_error());
    }
}

static void refused(void **state)
{
    static const struct {
        const char *text, *why;
    } rows[] = {
        {"", "not JSON at line 1"},
        {"{", "not JSON at line 1"},
        {"{\n \"a\": 1,\n}", "not JSON at line 3"},
        {"{\"a\": 1} {", "not JSON"},
        {"{\"a\": 1, \"a\": 2}", "duplicate"},
        {"{\"a\": NaN}", "not JSON"},
        {"{\"a\": 1e999}", "not JSON"},
        {"{\"a\": \"\xff\"}", "not JSON"},
        {"{\"a\\u0000b\": 1}", "not JSON"},
        {"{\"a\": \"\\u0000\"}", "not JSON"},
        {"[]", "object"},
        {"7", "not JSON"},
        {"null", "not JSON"},
    };
    const size_t deep = 100000;
    char *nested = malloc(deep + 7);

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        refuses(rows[i].text, strlen(rows[i].text), rows[i].why);
    }
    refuses("{\"a\": 1}\0", 9, "not JSON");
    memcpy(nested, "{\"a\": ", 6);
    memset(nested + 6, '[', deep);
    nested[deep + 6] = 0;
    refuses(nested, deep + 6, "not JSON");
    free(nested);
}

/* Integers beyond 64 bits are read as reals; what merely looks like one stays as it is. */
static void long_integers(void **state)
{
    static const char text[] =
        "{\"huge\": 1000000000000000019884624838656, \"neg\":-99999999999999999999,"
        "\"list\":[123456789012345678901,1], \"max\": 9223372036854775807,"
        "\"min\": -9223372036854775808, \"s\": \"1234567890123456789012 \\\" 12345678901234567890\","
        "\"frac\": 0.12345678901234567890123, \"exp\": 12345678901234567890123e-3,"
        "\"12345678901234567890123\": 1}";
    json_t *j = NULL;
    int64_t i = 0;
    double d = 0;
    const char *s = NULL;

    (void)state;
    OK(cvx_json_parse(&j, text, sizeof text - 1, "x.json"));
    OK(cvx_json_double(j, "x.json", "huge", &d));
    assert_true(d == 1000000000000000019884624838656.0);
    assert_int_equal(cvx_json_int(j, "x.json", "huge", &i), CVX_EFORMAT);
    OK(cvx_json_double(j, "x.json", "neg", &d));
    assert_true(d == -1e20);
    assert_true(json_real_value(json_array_get(json_object_get(j, "list"), 0)) ==
                123456789012345678901.0);
    assert_true(json_is_integer(json_array_get(json_object_get(j, "list"), 1)));
    OK(cvx_json_str(j, "x.json", "s", &s));
    assert_string_equal(s, "1234567890123456789012 \" 12345678901234567890");
    OK(cvx_json_double(j, "x.json", "frac", &d));
    assert_true(d == 0.12345678901234567890123);
    OK(cvx_json_double(j, "x.json", "exp", &d));
    assert_true(d == 12345678901234567890123e-3);
    assert_true(cvx_json_has(j, "12345678901234567890123"));
    json_decref(j);

    static const char edge[] = "{\"max\": 9223372036854775807, \"min\": -9223372036854775808}";
    OK(cvx_json_parse(&j, edge, sizeof edge - 1, "x.json"));
    OK(cvx_json_int(j, "x.json", "max", &i));
    assert_true(i == INT64_MAX);
    OK(cvx_json_int(j, "x.json", "min", &i));
    assert_true(i == INT64_MIN);
    json_decref(j);
}

static void getters(void **state)
{
    static const char text[] =
        "{\"i\": 5, \"d\": 2.5, \"b\": true, \"s\": \"text\", \"n\": null, \"l\": []}";
    static const char *const keys[] = {"i", "d", "b", "s", "l"};
    json_t *j = NULL;
    int64_t i = -1;
    double d = -1;
    bool b = false;
    const char *s = "kept";

    (void)state;
    OK(cvx_json_parse(&j, text, sizeof text - 1, "x.json"));
    for (int k = 0; k < 5; k++) { /* each getter takes its own type, double also integers */
        cvx_status st[4] = {cvx_json_int(j, "x.json", keys[k], &i),
                            cvx_json_double(j, "x.json", keys[k], &d),
                            cvx_json_bool(j, "x.json", keys[k], &b),
                            cvx_json_str(j, "x.json", keys[k], &s)};
        for (int g = 0; g < 4; g++) {
            bool right = g == k || (g == 1 && k == 0);
            assert_int_equal(st[g], right ? CVX_OK : CVX_EFORMAT);
        }
    }
    assert_int_equal(i, 5);
    assert_true(d == 2.5);
    assert_true(b);
    assert_string_equal(s, "text");
    OK(cvx_json_int(j, "x.json", "n", &i)); /* null and missing keep the default */
    OK(cvx_json_str(j, "x.json", "none", &s));
    assert_int_equal(i, 5);
    assert_string_equal(s, "text");
    assert_false(cvx_json_has(j, "n"));
    assert_false(cvx_json_has(j, "none"));
    assert_true(cvx_json_has(j, "l"));
    assert_int_equal(cvx_json_bool(j, "x.json", "i", &b), CVX_EFORMAT);
    assert_string_equal(cvx_error(), "x.json: \"i\" must be true or false");
    json_decref(j);
}

static void files(void **state)
{
    char path[] = "/tmp/cvx-json-XXXXXX";
    json_t *j = NULL;
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    OK(cvx_file_write(path, "{\"a\": 1}\n", 9));
    OK(cvx_json_load(&j, path));
    json_decref(j);
    assert_int_equal(truncate(path, 5), 0);
    assert_int_equal(cvx_json_load(&j, path), CVX_EFORMAT);
    assert_non_null(strstr(cvx_error(), path));
    assert_int_equal(truncate(path, ((off_t)64 << 20) + 1), 0);
    assert_int_equal(cvx_json_load(&j, path), CVX_EFORMAT);
    assert_non_null(strstr(cvx_error(), "67108865 bytes"));
    unlink(path);
    assert_int_equal(cvx_json_load(&j, path), CVX_EIO);
    assert_int_equal(cvx_json_load(&j, "/tmp"), CVX_EIO);
    assert_non_null(strstr(cvx_error(), "not a regular file"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(refused), cmocka_unit_test(long_integers),
                                       cmocka_unit_test(getters), cmocka_unit_test(files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
