/* Messages of a newer version: what this one does not know is passed on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/cvx.pb-c.h"

/* Field 900, a varint, and field 901, a text. */
static const uint8_t newer[] = {0xa0, 0x38, 0x96, 0x01, 0xaa, 0x38, 5, 'n', 'e', 'w', 'e', 'r'};

static size_t count(const uint8_t *data, size_t n)
{
    size_t found = 0;

    for (size_t i = 0; i + sizeof newer <= n; i++) {
        found += memcmp(data + i, newer, sizeof newer) == 0;
    }
    return found;
}

/* A spec with fields of a later version, in an assignment that has some too: read, changed and written again. */
static void test_unknown_fields_stay(void **state)
{
    Cvx__JobSpec spec = CVX__JOB_SPEC__INIT;
    Cvx__Assignment a = CVX__ASSIGNMENT__INIT;
    uint8_t data[512];
    (void)state;

    spec.version = 2;
    spec.id = "video_x";
    spec.prompt = "a red circle";
    size_t n = cvx__job_spec__pack(&spec, data);
    memcpy(data + n, newer, sizeof newer);
    Cvx__JobSpec *read = cvx__job_spec__unpack(NULL, n + sizeof newer, data);
    assert_non_null(read);
    assert_int_equal(read->version, 2);
    a.version = 2;
    a.spec = read;
    n = cvx__assignment__pack(&a, data);
    memcpy(data + n, newer, sizeof newer);
    Cvx__Assignment *b = cvx__assignment__unpack(NULL, n + sizeof newer, data);
    assert_non_null(b);
    b->token = 7;
    assert_int_equal(cvx__assignment__get_packed_size(b), n + sizeof newer + 2);
    n = cvx__assignment__pack(b, data);
    assert_int_equal(count(data, n), 2);
    assert_string_equal(b->spec->prompt, "a red circle");
    cvx__assignment__free_unpacked(b, NULL);
    cvx__job_spec__free_unpacked(read, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_unknown_fields_stay)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
