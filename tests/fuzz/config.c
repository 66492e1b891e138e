/* Any bytes as the JSON of each config that a checkpoint has, and as a manifest: accepted values must be such that
 * a model can be sized from them. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/clip/config.h"
#include "model/pipeline/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {"config.json", "scheduler_config.json", "model_index.json"};
static char dir[] = "/tmp/cvx-fuzz-config-XXXXXX", path[3][128];
static int fd = -1;

static void leave(void)
{
    for (int i = 0; i < 3; i++) {
        unlink(path[i]);
    }
    rmdir(dir);
}

/* The file names that the loaders look for, all of them the same bytes in memory. */
static void enter(void)
{
    char memory[64];

    fd = memfd_create("config", 0);
    snprintf(memory, sizeof memory, "/proc/self/fd/%d", fd);
    if (fd < 0 || mkdtemp(dir) == NULL) {
        abort();
    }
    for (int i = 0; i < 3; i++) {
        snprintf(path[i], sizeof path[i], "%s/%s", dir, names[i]);
        if (symlink(memory, path[i]) != 0) {
            abort();
        }
    }
    atexit(leave);
}

static void load_all(void)
{
    cvx_dit_config dit;
    cvx_vae_config vae;
    cvx_t5_config t5;
    cvx_sched_config sched;
    cvx_clip_config clip;
    cvx_request request = CVX_REQUEST_INIT, asked = CVX_REQUEST_INIT;
    json_t *doc = NULL;

    if (cvx_dit_config_load(&dit, dir) == CVX_OK &&
        (dit.num_attention_heads < 1 || dit.num_layers < 1 || dit.patch_size < 1)) {
        abort();
    }
    if (cvx_vae_config_load(&vae, dir) == CVX_OK &&
        (vae.n_blocks < 1 || vae.n_blocks > CVX_VAE_MAX_BLOCKS || cvx_vae_spatial(&vae) < 1)) {
        abort();
    }
    if (cvx_t5_config_load(&t5, dir) == CVX_OK && t5.d_model < 1) {
        abort();
    }
    if (cvx_sched_config_load(&sched, dir) == CVX_OK && sched.num_train_timesteps < 1) {
        abort();
    }
    bool refused = cvx_clip_config_load(&clip, dir) != CVX_OK;
    if (refused && cvx_error()[0] == 0) {
        abort();
    }
    asked.replay = path[0];
    if (cvx_manifest_replay(&doc, &request, &asked) == CVX_OK) {
        json_decref(doc);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (fd < 0) {
        enter();
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size) {
        abort();
    }
    load_all();
    return 0;
}
