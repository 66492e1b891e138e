/* Messages: one line of printable UTF-8 whatever was quoted in it; codes and their exits. */
#include <pthread.h>
#include <string.h>

#include "../golden/golden.h"

static void one_line(void **state)
{
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"plain", "plain"},
        {"two\nlines\r\tand\x1b[31m a colour", "two lines  and [31m a colour"},
        {"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"\xff\xfe", "??"},
        {"a\xc3", "a?"},              /* cut off */
        {"\xc0\xaf", "??"},           /* overlong */
        {"\xe0\x80\x80", "???"},      /* overlong */
        {"\xed\xa0\x80", "???"},      /* a surrogate */
        {"\xf4\x90\x80\x80", "????"}, /* beyond the last character */
        {"\xc2\x9b"
         "31m",
         "??31m"}, /* a terminal's control sequence in one character */
        {"\xc2\xa0", "\xc2\xa0"},
        {"\x7f", " "},
        {"", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(cvx_fail(CVX_EIO, "%s", rows[i].in), CVX_EIO);
        assert_string_equal(cvx_error(), rows[i].out);
    }
}

/* A long message is cut, also in the middle of a character, and stays a string. */
static void long_message(void **state)
{
    char text[4000] = "";

    (void)state;
    for (int i = 0; i < 1333; i++) {
        strcat(text, "\xe2\x82\xac");
    }
    for (int shift = 0; shift < 3; shift++) {
        assert_int_equal(cvx_fail(CVX_EINVAL, "%.*s%s", shift, "ab", text), CVX_EINVAL);
        size_t n = strlen(cvx_error());
        assert_true(n > 900 && n < 1024);
        for (size_t k = (size_t)shift; k + 3 <= n; k += 3) {
            assert_memory_equal(cvx_error() + k, "\xe2\x82\xac", 3);
        }
    }
}

static void prefixes(void **state)
{
    (void)state;
    (void)cvx_fail(CVX_EFORMAT, "cause %d", 7);
    assert_int_equal(cvx_fail_prefix(CVX_EFORMAT, "job %d", 3), CVX_EFORMAT);
    assert_string_equal(cvx_error(), "job 3: cause 7");
}

static void *other_thread(void *payload)
{
    (void)payload;
    return cvx_error()[0] == 0 && cvx_fail(CVX_EPEER, "theirs") == CVX_EPEER ? payload : NULL;
}

static void message_is_the_threads_own(void **state)
{
    pthread_t t;
    void *good = NULL;
    int token;

    (void)state;
    (void)cvx_fail(CVX_EIO, "ours");
    assert_int_equal(pthread_create(&t, NULL, other_thread, &token), 0);
    assert_int_equal(pthread_join(t, &good), 0);
    assert_ptr_equal(good, &token);
    assert_string_equal(cvx_error(), "ours");
}

static void codes(void **state)
{
    static const int exits[] = {0, 2, 3, 4, 5, 6, 7, 8, 70, 75};

    (void)state;
    for (int i = 0; i <= 9; i++) {
        assert_int_equal(cvx_status_exit((cvx_status)-i), exits[i]);
        assert_string_not_equal(cvx_status_name((cvx_status)-i), "unknown status");
    }
    assert_int_equal(cvx_status_exit((cvx_status)-99), 70);
    assert_string_equal(cvx_status_name((cvx_status)-99), "unknown status");
}

static cvx_status tried(cvx_status give, int *after)
{
    cvx_status st = CVX_OK;

    CVX_TRY(st, give, done);
    ++*after;
done:
    CVX_RETURN_IF(st);
    ++*after;
    return st;
}

static void early_returns(void **state)
{
    int after = 0;

    (void)state;
    assert_int_equal(tried(CVX_OK, &after), CVX_OK);
    assert_int_equal(after, 2);
    assert_int_equal(tried(CVX_ENOMEM, &after), CVX_ENOMEM);
    assert_int_equal(after, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_line), cmocka_unit_test(long_message),
        cmocka_unit_test(prefixes), cmocka_unit_test(message_is_the_threads_own),
        cmocka_unit_test(codes),    cmocka_unit_test(early_returns)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
