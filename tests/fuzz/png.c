/* Any bytes as a picture file: PNG, JPEG or whatever libav takes them for. Start with
 * tests/data/media as the corpus. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "media/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    cvx_image img = {0};

    if (fd < 0) {
        fd = memfd_create("picture", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size) {
        abort();
    }
    if (cvx_image_read(&img, path) == CVX_OK) {
        uint64_t sum = 0; /* every pixel must be there */
        for (int64_t i = 0; i < img.w * img.h * 3; i++) {
            sum += img.rgb[i];
        }
        if (img.w < 1 || img.h < 1 || sum > (uint64_t)(img.w * img.h) * 765) {
            abort();
        }
    }
    cvx_image_free(&img);
    return 0;
}
