/* Any bytes as a safetensors file: whatever opens must keep its promises, every byte of every tensor there. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "model/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/cvx-fuzz-safetensors-XXXXXX", path[128];
static int fd = -1;

static void leave(void)
{
    unlink(path);
    rmdir(dir);
}

/* A name ending in .safetensors for bytes in memory. */
static void enter(void)
{
    char memory[64];

    fd = memfd_create("weights", 0);
    snprintf(memory, sizeof memory, "/proc/self/fd/%d", fd);
    if (fd < 0 || mkdtemp(dir) == NULL) {
        abort();
    }
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    if (symlink(memory, path) != 0) {
        abort();
    }
    atexit(leave);
}

static void read_all(const cvx_weights *w)
{
    volatile unsigned char sink = 0;
    int64_t bytes = 0;

    for (int64_t i = 0; i < cvx_weights_count(w); i++) {
        cvx_tensor t = cvx_weights_at(w, i);
        int64_t n = cvx_numel(&t) * (int64_t)cvx_dtype_size(t.dtype);
        for (int64_t k = 0; t.data != NULL && k < n; k++) {
            sink = (unsigned char)(sink ^ ((const unsigned char *)t.data)[k]);
        }
        if (cvx_weights_find(w, cvx_weights_name(w, i)) != i) {
            abort();
        }
        bytes += n;
    }
    if (bytes < 0) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cvx_weights *w = NULL;

    if (fd < 0) {
        enter();
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size) {
        abort();
    }
    if (cvx_weights_open(&w, path) == CVX_OK) {
        read_all(w);
    } else if (cvx_error()[0] == 0) {
        abort();
    }
    cvx_weights_close(w);
    return 0;
}
