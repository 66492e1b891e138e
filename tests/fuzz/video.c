/* Any bytes as a video file: at most eight frames of it are decoded. Start with tests/data/media as
 * the corpus. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "media/video.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    cvx_frames f = {0};

    if (fd < 0) {
        fd = memfd_create("video", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size) {
        abort();
    }
    if (cvx_frames_read(&f, path, 8) == CVX_OK && (f.n < 1 || f.n > 8 || f.w < 1 || f.h < 1)) {
        abort();
    }
    cvx_frames_free(&f);
    return 0;
}
