/* Fills a Redis with jobs that are long done, by the way that records a run: how lists behave when there are many.
 * usage: bench_history URL OWNER N */
#include <stdio.h>
#include <stdlib.h>

#include "store/jobs.h"

static cvx_status fill(cvx_redis *r, char *owner, long n)
{
    int64_t begin = cvx_now_ms() - 1000 * (int64_t)n;
    double frame[17];
    Cvx__FrameScores scores = CVX__FRAME_SCORES__INIT;

    for (int i = 0; i < 17; i++) {
        frame[i] = 60 + 0.3 * i;
    }
    scores.version = 1;
    scores.n_frame = 17;
    scores.frame = frame;
    scores.mean = 62.4;
    for (long i = 0; i < n; i++) {
        char id[CVX_ID_MAX];
        Cvx__JobSpec spec = CVX__JOB_SPEC__INIT;
        Cvx__Result result = CVX__RESULT__INIT;
        cvx_job_id(id);
        spec.version = result.version = 1;
        spec.id = id;
        spec.owner = owner;
        spec.prompt = "a red circle moving right on a white background";
        spec.width = result.width = 96;
        spec.height = result.height = 64;
        spec.num_frames = result.num_frames = 17;
        spec.fps = result.fps = 8;
        spec.priority = 1;
        spec.created_ms = begin + 1000 * i;
        result.video = "/nowhere/video.mp4";
        result.scores = &scores;
        CVX_RETURN_IF(cvx_jobs_record(r, &spec, &result));
    }
    return CVX_OK;
}

int main(int argc, char **argv)
{
    cvx_redis *r = NULL;

    if (argc != 4) {
        fprintf(stderr, "usage: bench_history URL OWNER N\n");
        return 2;
    }
    cvx_status st = cvx_redis_open(&r, argv[1]);
    if (st == CVX_OK) {
        st = fill(r, argv[2], strtol(argv[3], NULL, 10));
    }
    cvx_redis_close(r);
    if (st != CVX_OK) {
        fprintf(stderr, "bench_history: %s\n", cvx_error());
    }
    return cvx_status_exit(st);
}
