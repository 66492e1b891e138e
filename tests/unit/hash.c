/* SHA-256 against FIPS 180-4's examples and lengths around the block and the padding. */
#include <string.h>
#include <unistd.h>

#include "../golden/golden.h"
#include "base/file.h"
#include "base/hash.h"

static void hex_of(const void *data, size_t n, size_t step, char hex[65])
{
    cvx_sha256 h;

    cvx_sha256_init(&h);
    for (size_t at = 0; at < n; at += step) {
        cvx_sha256_add(&h, (const char *)data + at, n - at < step ? n - at : step);
    }
    cvx_sha256_hex(&h, hex);
}

/* The first three are the standard's own; the last row is its million letters a. */
static void known_answers(void **state)
{
    static const struct {
        const char *text;
        size_t repeat;
        const char *hex;
    } rows[] = {
        {"", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
    };
    char hex[65];

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t m = strlen(rows[i].text), n = m * rows[i].repeat;
        char *data = malloc(n + 1);
        for (size_t k = 0; k < rows[i].repeat; k++) {
            memcpy(data + k * m, rows[i].text, m);
        }
        hex_of(data, n, 4096, hex);
        assert_string_equal(hex, rows[i].hex);
        free(data);
    }
}

/* Every length from 0 to 130 of the bytes 0, 1, 2 ..., and a digest of all their digests (hashlib's). */
static void every_length(void **state)
{
    unsigned char data[131];
    char hex[65], other[65];
    cvx_sha256 all;

    (void)state;
    cvx_sha256_init(&all);
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (unsigned char)i;
    }
    for (size_t n = 0; n < sizeof data; n++) {
        hex_of(data, n, 1000, hex);
        for (size_t step = 1; step < 70; step += 17) { /* the pieces do not matter */
            hex_of(data, n, step, other);
            assert_string_equal(hex, other);
        }
        cvx_sha256_add(&all, hex, 64);
    }
    cvx_sha256_hex(&all, hex);
    assert_string_equal(hex, "287ec38b0ef48cad9a69255fec0a3dd90bd752a394316d26a81b6c9b71e29a55");
}

static void of_a_file(void **state)
{
    char path[] = "/tmp/cvx-hash-XXXXXX", hex[65];
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    OK(cvx_sha256_file(path, hex)); /* an empty file maps to nothing */
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    OK(cvx_file_write(path, "abc", 3));
    OK(cvx_sha256_file(path, hex));
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    unlink(path);
    assert_int_equal(cvx_sha256_file(path, hex), CVX_EIO);
    assert_non_null(strstr(cvx_error(), path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(known_answers),
                                       cmocka_unit_test(every_length), cmocka_unit_test(of_a_file)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
