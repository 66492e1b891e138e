/* cvx doctor: what this machine has and lacks. */
#include <libavcodec/avcodec.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "cli/cli.h"
#include "kernels/ops.h"

static struct {
    int needed, optional;
    bool in_optional; /* what is looked at now */
} missing;

static void line(bool ok, const char *what, const char *detail, const char *advice)
{
    printf("  %-4s %-22s %s%s%s\n", ok ? "ok" : "--", what, detail, ok || !advice[0] ? "" : ": ",
           ok ? "" : advice);
    *(missing.in_optional ? &missing.optional : &missing.needed) += !ok;
}

static void check_cpu(void)
{
    char text[128] = "";

    for (int i = 0; cvx_cpu_levels[i] != NULL; i++) {
        if (cvx_cpu_ops(cvx_cpu_levels[i]) != NULL) {
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s ", cvx_cpu_levels[i]);
        }
    }
    printf("processor\n");
    snprintf(text + strlen(text), sizeof text - strlen(text), "(used: %s), %ld cores",
             cvx_cpu_isa(), sysconf(_SC_NPROCESSORS_ONLN));
    line(true, "instruction sets", text, "");
    double gib = (double)(1 << 30);
    snprintf(text, sizeof text, "%.1f GiB available of %.1f", (double)cvx_memory_available() / gib,
             (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / gib);
    line(cvx_memory_available() > (size_t)1 << 30, "memory", text,
         "less than 1 GiB is free, only small jobs will fit");
}

static void check_media(void)
{
    static const struct {
        const char *encoder, *format;
    } encoders[] = {{"libx264", ".mp4"}, {"gif", ".gif"}, {"libvpx-vp9", ".webm"}, {"png", "PNG"}};
    char text[64];

    printf("outputs\n");
    for (size_t i = 0; i < sizeof encoders / sizeof *encoders; i++) {
        bool ok = avcodec_find_encoder_by_name(encoders[i].encoder) != NULL;
        snprintf(text, sizeof text, "%s", encoders[i].encoder);
        line(ok, encoders[i].format, text, "libav was built without it");
    }
}

static void check_gpu(void)
{
    printf("GPU (optional)\n");
    bool driver = access("/dev/nvidiactl", F_OK) == 0;
    line(driver, "NVIDIA driver", driver ? "present" : "none", "jobs run on the CPU");
    char what[160];
    bool usable = cvx_cuda_usable(what);
    line(usable, "CUDA backend", what, "jobs run on the CPU");
    usable = cvx_cudnn_usable(what);
    line(usable, "cuDNN", what, "the program's own kernels are used");
}

static void check_programs(void)
{
    static const struct {
        const char *name, *use;
    } programs[] = {{"mpirun", "many ranks"},
                    {"redis-server", "the service"},
                    {"sbatch", "Slurm jobs"},
                    {"ffprobe", "tests of outputs"}};
    const char *path = getenv("PATH");

    printf("programs (optional)\n");
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        char full[CVX_PATH_MAX], found[CVX_PATH_MAX] = "";
        for (const char *p = path; p != NULL && *p != 0 && !found[0];) {
            int n = (int)strcspn(p, ":");
            snprintf(full, sizeof full, "%.*s/%s", n, p, programs[i].name);
            if (access(full, X_OK) == 0) {
                snprintf(found, sizeof found, "%s", full);
            }
            p += n + (p[n] == ':');
        }
        line(found[0] != 0, programs[i].name, found[0] ? found : "not on PATH", programs[i].use);
    }
}

static const cvx_opt none[] = {{NULL, 0, 0, NULL, NULL, 0, 0, NULL}};

static int run(int argc, char **argv)
{
    int n, code;

    if (!cvx_cli_begin(&cvx_cmd_doctor, NULL, argc, argv, NULL, 0, 0, &n, &code)) {
        return code;
    }
    printf("cvx %s\n", CVX_VERSION);
    check_cpu();
    check_media();
    missing.in_optional = true;
    check_gpu();
    check_programs();
    if (missing.needed > 0) {
        printf("%d of what cvx needs %s not there.\n", missing.needed,
               missing.needed == 1 ? "is" : "are");
    } else if (missing.optional > 0) {
        printf("Nothing that cvx needs is missing; %d of what it could use %s not there.\n",
               missing.optional, missing.optional == 1 ? "is" : "are");
    } else {
        printf("Everything is there.\n");
    }
    return 0;
}

const cvx_command cvx_cmd_doctor = {
    .name = "cvx doctor",
    .args = "",
    .summary = "Tells what this machine has and lacks.",
    .opts = none,
    .run = run,
};
