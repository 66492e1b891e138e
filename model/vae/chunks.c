/* The chunks in which the VAE goes through time. */
#include "model/vae/parts.h"

int64_t cvx_vae_time_up(int64_t t)
{
    return t == 1 ? 1 : t % 2 == 1 ? 2 * t - 1 : 2 * t;
}

int64_t cvx_vae_time_down(int64_t t)
{
    return (t + 1) / 2;
}

int64_t cvx_vae_chunks(int64_t frames, int64_t batch)
{
    return frames < batch ? 1 : frames / batch;
}

void cvx_vae_chunk(int64_t frames, int64_t batch, int64_t i, int64_t *first, int64_t *len)
{
    int64_t rest = frames % batch, start = i == 0 ? 0 : batch * i + rest;
    int64_t end = batch * (i + 1) + rest;

    *first = start;
    *len = (end < frames ? end : frames) - start;
}

static int64_t whole(const cvx_vae_config *cfg, int64_t frames, int64_t batch,
                     int64_t (*f)(int64_t))
{
    int64_t first, len, sum = 0;

    for (int64_t i = 0; i < cvx_vae_chunks(frames, batch); i++) {
        cvx_vae_chunk(frames, batch, i, &first, &len);
        for (int64_t k = 1; k < cfg->temporal_compression_ratio; k *= 2) {
            len = f(len);
        }
        sum += len;
    }
    return sum;
}

int64_t cvx_vae_video_frames(const cvx_vae_config *cfg, int64_t latent_frames)
{
    return whole(cfg, latent_frames, CVX_VAE_LATENT_BATCH, cvx_vae_time_up);
}

int64_t cvx_vae_latent_frames(const cvx_vae_config *cfg, int64_t frames)
{
    return whole(cfg, frames, CVX_VAE_SAMPLE_BATCH, cvx_vae_time_down);
}
