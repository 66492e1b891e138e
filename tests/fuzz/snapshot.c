/* Any bytes as a checkpoint of the denoising loop: what is accepted must be whole, and give the same values again when
 * it is written and read once more. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "model/pipeline/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Most changes would end at a checksum: the frames' are put right, so that what lies behind is reached. */
static void mend(uint8_t *p, size_t size)
{
    for (size_t at = 8; at + 24 <= size;) {
        uint64_t packed = 0;
        for (int i = 0; i < 8; i++) {
            packed |= (uint64_t)p[at + 12 + (size_t)i] << 8 * i;
        }
        if (packed > size - at - 24) {
            return;
        }
        uLong crc = crc32(crc32(0, NULL, 0), p + at, 20);
        crc = crc32_z(crc, p + at + 24, (z_size_t)packed);
        for (int i = 0; i < 4; i++) {
            p[at + 20 + (size_t)i] = (uint8_t)(crc >> 8 * i);
        }
        at += 24 + (size_t)packed;
    }
}

static void look(const uint8_t *data, size_t size)
{
    cvx_snapshot s = {0}, again = {0};
    unsigned char *bytes = NULL;
    size_t len = 0;

    if (cvx_snapshot_parse(&s, data, size, "fuzz") != CVX_OK) {
        if (cvx_error()[0] == 0 || s.latents != NULL) {
            abort();
        }
        return;
    }
    size_t n = (size_t)cvx_snapshot_count(&s) * sizeof *s.latents;
    if (s.step < 1 || s.step > s.steps || n == 0 || !json_is_object(s.job)) {
        abort();
    }
    if (cvx_snapshot_pack(&bytes, &len, &s) != CVX_OK ||
        cvx_snapshot_parse(&again, bytes, len, "again") != CVX_OK ||
        memcmp(s.latents, again.latents, n) != 0 || again.step != s.step || s.sets != again.sets ||
        s.cached != again.cached ||
        (s.sets > 0 && memcmp(s.kept, again.kept, (size_t)s.sets * n) != 0)) {
        abort();
    }
    free(bytes);
    cvx_snapshot_free(&s);
    cvx_snapshot_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + 1);

    look(data, size);
    if (copy != NULL) {
        memcpy(copy, data, size);
        mend(copy, size);
        look(copy, size);
    }
    free(copy);
    return 0;
}
