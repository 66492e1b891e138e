#include "model/pipeline/extend.h"

#include "model/pipeline/inputs.h"

/* The greatest 4k + 1 up to n >= 1. */
static int64_t whole(int64_t n, int64_t temporal)
{
    return (n - 1) / temporal * temporal + 1;
}

/* Frames of the clip's end that the model sees. */
static cvx_status choose_overlap(const cvx_job *j, const cvx_checkpoint *c, int64_t *out)
{
    const cvx_request *r = j->request;
    int64_t most = j->num_frames - c->temporal, there = j->source.frames;
    int64_t window = j->windows.n > 1 ? r->window_frames : j->num_frames;

    if (most < 1) {
        return cvx_fail(CVX_EINVAL, "num_frames %lld: with --extend at least %lld",
                        (long long)j->num_frames, (long long)c->temporal + 1);
    }
    if (c->image_to_video) {
        *out = 1;
        return r->extend_overlap <= 1
                   ? CVX_OK
                   : cvx_fail(CVX_EINVAL,
                              "--extend-overlap %lld: an image-to-video checkpoint goes on from "
                              "the last frame alone",
                              (long long)r->extend_overlap);
    }
    if (r->extend_overlap > most) {
        return cvx_fail(CVX_EINVAL,
                        "--extend-overlap %lld: leaves none of %lld frames to be made; at most "
                        "%lld",
                        (long long)r->extend_overlap, (long long)j->num_frames, (long long)most);
    }
    if (r->extend_overlap > there) {
        return cvx_fail(CVX_EINVAL, "--extend-overlap %lld: %s has only %lld frames",
                        (long long)r->extend_overlap, r->extend, (long long)there);
    }
    /* 8k + 1 where it can be, as the VAE was trained */
    int64_t half = window / 2 + 1, unit = half > 2 * c->temporal ? 2 * c->temporal : c->temporal;
    half = whole(half, unit);
    *out = r->extend_overlap > 0 ? r->extend_overlap : half < most ? half : most;
    *out = *out <= there ? *out : whole(there, c->temporal);
    return CVX_OK;
}

cvx_status cvx_extend_resolve(cvx_job *j, const cvx_checkpoint *c)
{
    const cvx_request *r = j->request;
    cvx_extension *e = &j->extension;

    if (r->extend == NULL) {
        return CVX_OK;
    }
    CVX_RETURN_IF(choose_overlap(j, c, &e->overlap));
    /* each latent frame after the known ones makes so many, at the video's end; of the known ones an even number in all
     * gives more than the 4k + 1 that went in */
    int64_t known = (e->overlap - 1) / c->temporal + 1;
    int64_t fresh = (j->latent_frames - known) * c->temporal;
    e->latents = c->image_to_video ? 0 : known;
    e->skip = j->decoded - fresh;
    e->kept = r->extend_only ? 0 : j->source.frames;
    j->out_frames = e->kept + fresh;
    j->first_frame = e->kept - e->overlap;
    return CVX_OK;
}

cvx_status cvx_extend_fill(cvx_output *o, const cvx_job *j)
{
    int64_t n = j->extension.kept, values = n * o->h * o->w * 3, hw = o->h * o->w;

    if (n == 0) {
        return CVX_OK;
    }
    CVX_RETURN_IF(cvx_load_frames(j->request->extend, o->rgb, n, o->h, o->w));
    for (int64_t i = 0; o->planes != NULL && i < values; i++) {
        int64_t frame = i / (3 * hw), at = i % (3 * hw);
        o->planes[i] = (float)o->rgb[(frame * hw + at % hw) * 3 + at / hw] / 255.0f;
    }
    return CVX_OK;
}

cvx_status cvx_extend_frames(cvx_output *o, const cvx_job *j, const float *rgb, int64_t first,
                             int64_t n, int64_t h, int64_t w)
{
    const cvx_extension *e = &j->extension;
    int64_t old = first < e->skip ? e->skip - first : 0;

    if (old >= n) {
        return CVX_OK;
    }
    return cvx_output_frames(o, rgb + old * 3 * h * w, e->kept + first + old - e->skip, n - old, h,
                             w);
}
