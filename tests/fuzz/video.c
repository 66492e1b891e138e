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
    cvx_media_reader *r = NULL;

    if (fd < 0) {
        fd = memfd_create("video", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size) {
        abort();
    }
    if (cvx_media_reader_open(&r, path) == CVX_OK) {
        const cvx_media_info *info = cvx_media_reader_info(r);
        uint8_t *rgb =
            info->w * info->h <= 1 << 22 ? malloc((size_t)(info->w * info->h * 3)) : NULL;
        bool got = rgb != NULL; /* immense frames only cost time here */
        for (int i = 0; i < 8 && got; i++) {
            if (cvx_media_reader_next(r, rgb, &got) != CVX_OK) {
                break;
            }
        }
        free(rgb);
    }
    cvx_media_reader_close(r);
    return 0;
}
