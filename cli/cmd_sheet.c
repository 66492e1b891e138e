/* cvx sheet: a video's frames on one picture. */
#include "cli/cli.h"
#include "media/plot.h"

typedef struct options {
    int64_t tiles, columns, tile_width;
    const char *title;
} options;

static const cvx_opt opts[] = {
    {"tiles", CVX_OPT_INT, offsetof(options, tiles), "N",
     "frames, spread evenly, first and last included (default: up to 12)", 1, 1000, NULL},
    {"columns", CVX_OPT_INT, offsetof(options, columns), "N", "default: about 3:2 in all", 1, 1000,
     NULL},
    {"tile-width", CVX_OPT_INT, offsetof(options, tile_width), "PIXELS",
     "default: 240, other for very wide or high frames", 16, 4096, NULL},
    {"title", CVX_OPT_STR, offsetof(options, title), "TEXT", "a line above the frames", 0, 0, NULL},
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

static int run(int argc, char **argv)
{
    options o = {0};
    const char *pos[2];
    int n, code;

    if (!cvx_cli_begin(&cvx_cmd_sheet, &o, argc, argv, pos, 2, 2, &n, &code)) {
        return code;
    }
    cvx_status st = cvx_sheet_of_video(pos[1], pos[0],
                                       &(cvx_sheet_opts){.tiles = o.tiles,
                                                         .columns = o.columns,
                                                         .tile_w = o.tile_width,
                                                         .title = o.title},
                                       NULL, NULL);
    return cvx_cli_finish(st);
}

const cvx_command cvx_cmd_sheet = {
    .name = "cvx sheet",
    .args = "VIDEO OUT.png",
    .summary = "Writes a contact sheet of a video.",
    .opts = opts,
    .run = run,
};
