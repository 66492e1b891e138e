/* cvx gif: a video becomes a GIF. */
#include "base/file.h"
#include "base/stop.h"
#include "cli/cli.h"
#include "media/video.h"

typedef struct options {
    double fps;
    int64_t width;
} options;

static const cvx_opt opts[] = {
    {"fps", CVX_OPT_DOUBLE, offsetof(options, fps), "N", "frames a second (default: the video's)",
     0.01, 1000, NULL},
    {"width", CVX_OPT_INT, offsetof(options, width), "PIXELS",
     "width; the height follows (default: the video's)", 1, 16384, NULL},
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

static int run(int argc, char **argv)
{
    options o = {0};
    const char *pos[2];
    int n, code;

    if (!cvx_cli_begin(&cvx_cmd_gif, &o, argc, argv, pos, 2, 2, &n, &code)) {
        return code;
    }
    cvx_stop_install();
    cvx_stop_on_interrupt();
    return cvx_cli_finish(cvx_has_extension(pos[1], ".gif")
                              ? cvx_media_gif_convert(pos[0], pos[1], o.fps, o.width)
                              : cvx_fail(CVX_EINVAL,
                                         "output %s: a GIF is written; its name must end with .gif",
                                         pos[1]));
}

const cvx_command cvx_cmd_gif = {
    .name = "cvx gif",
    .args = "IN.mp4 OUT.gif",
    .summary = "Converts a video to a GIF with a palette of its own.",
    .opts = opts,
    .run = run,
};
