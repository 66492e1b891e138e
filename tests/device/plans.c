/* Whether the real cuDNN has plans for the graphs of kernels/cuda/cudnn_graphs.c at the model's shapes, on an A100 and an H100 that need
 * not be there: it accepts the descriptors, chooses engines and compiles their kernels from a device's properties
 * alone. Numbers are looked at elsewhere (tests/op/op_cudnn.c). Without the library: 77 (skipped).
 * usage: plans [all]; without `all` a few shapes, since a plan takes seconds */
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/cudnn.h"

#define DEVICE(name, version, processors, shared)                                                  \
    "{\"deviceName\":\"" name "\",\"cudaDeviceId\":0,\"deviceVer\":" version                       \
    ",\"driverVer\":13000,\"multiProcessorCount\":" processors                                     \
    ",\"warpSize\":32,\"regsPerBlock\":65536,\"maxSharedMemoryPerBlock\":49152,"                   \
    "\"maxSharedMemoryPerBlockOptin\":" shared                                                     \
    ",\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,"      \
    "\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,\"pciDeviceId\":0,\"isTccDriver\":0,"    \
    "\"supportCoopLaunch\":1,\"totalGlobalMem\":85000000000,\"smClockRateKHz\":1980000,"           \
    "\"memClockRateKHz\":2619000,\"l2CacheSize\":52428800,"                                        \
    "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64]}"

static const char *const devices[][2] = {
    {"H100", DEVICE("NVIDIA H100 80GB HBM3", "900", "132", "232448")},
    {"A100", DEVICE("NVIDIA A100-SXM4-80GB", "800", "108", "166912")}};

static int wrong;

static void report(const char *device, const char *what, cvx_status st, const cvx_cudnn_plan *p)
{
    if (st == CVX_OK && p != NULL) {
        printf("ok    %s, %s: a plan, %zu KiB of scratch\n", device, what,
               cvx_cudnn_workspace(p) >> 10);
    } else {
        printf("WRONG %s, %s: %s\n", device, what, st == CVX_OK ? "no plan" : cvx_error());
        wrong++;
    }
}

/* Queries, keys and values lie side by side in one product's output. */
static void attention(cvx_cudnn *c, const char *device, int64_t b, int64_t sq, int64_t sk,
                      int64_t h, int d, bool lse)
{
    const int64_t in = 3 * h * d, out = h * d;
    char what[96], *at = (char *)NULL + 4096;
    const cvx_cudnn_plan *p = NULL;
    cvx_flash f = {.q = at,
                   .k = at,
                   .v = at,
                   .o = at,
                   .lse = lse ? (float *)(void *)at : NULL,
                   .b = b,
                   .sq = sq,
                   .sk = sk,
                   .h = h,
                   .d = d,
                   .qs = {sq * in, in, d},
                   .ks = {sk * in, in, d},
                   .vs = {sk * in, in, d},
                   .os = {sq * out, out, d},
                   .ls = {h * sq, sq},
                   .scale = 0.125f};

    snprintf(what, sizeof what, "attention of %lld and %lld tokens, %lld heads of %d%s",
             (long long)sq, (long long)sk, (long long)h, d, lse ? ", log-sum-exp" : "");
    cvx_status st = cvx_cudnn_plan_attention(c, &f, &p);
    report(device, what, st, p);
}

/* x and y with borders of one pixel, as the VAE's are. */
static void conv(cvx_cudnn *c, const char *device, int64_t t, int64_t h, int64_t w, int64_t cin,
                 int64_t cout, int k, int stride, bool residual)
{
    char what[96], *at = (char *)NULL + 4096;
    const cvx_cudnn_plan *p = NULL;
    int64_t xw = (w - 1) * stride + k, xh = (h - 1) * stride + k,
            kt = k == 3 && stride == 1 ? 3 : 1;
    cvx_cuda_conv a = {.x = at,
                       .w = at,
                       .b = (float *)(void *)at,
                       .y = (float *)(void *)at,
                       .residual = residual ? (float *)(void *)at : NULL,
                       .t = CVX_BF16,
                       .frames = t + kt - 1,
                       .xs = {xh * xw * cin, xw * cin, cin},
                       .ys = {(h + 2) * (w + 2) * cout, (w + 2) * cout, cout},
                       .rs = {h * w * cout, w * cout, cout},
                       .out = {t, h, w},
                       .cin = cin,
                       .cout = cout,
                       .kp = cin,
                       .kt = (int)kt,
                       .kh = k,
                       .kw = k,
                       .stride = stride};

    snprintf(what, sizeof what,
             "convolution of %lld x %lld x %lld pixels, %lld to %lld channels%s%s", (long long)t,
             (long long)h, (long long)w, (long long)cin, (long long)cout,
             stride == 2 ? ", stride 2" : "", residual ? ", residual" : "");
    cvx_status st = cvx_cudnn_plan_conv(c, &a, &p);
    report(device, what, st, p);
}

static void all_shapes(cvx_cudnn *c, const char *d)
{
    attention(c, d, 1, 17776, 17776, 48, 64, false);
    attention(c, d, 1, 4444, 17776, 48, 64, true);
    attention(c, d, 1, 65, 129, 3, 128, true);
    conv(c, d, 8, 480, 720, 128, 128, 3, 1, false);
    conv(c, d, 2, 60, 90, 512, 512, 3, 1, true);
    conv(c, d, 4, 240, 360, 256, 128, 1, 1, false);
    conv(c, d, 8, 480, 720, 128, 3, 3, 1, false);
    conv(c, d, 8, 240, 360, 128, 128, 3, 2, false);
}

int main(int argc, char **argv)
{
    bool all = argc > 1 && strcmp(argv[1], "all") == 0;
    char version[160];

    if (!cvx_cudnn_usable(version)) {
        printf("SKIP: %s\n", version);
        return 77;
    }
    printf("cuDNN %s\n", version);
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        cvx_cudnn *c = NULL;
        if (cvx_cudnn_open(&c, devices[i][1]) != CVX_OK) {
            printf("WRONG %s: %s\n", devices[i][0], cvx_error());
            return 1;
        }
        if (all) {
            all_shapes(c, devices[i][0]);
        } else {
            attention(c, devices[i][0], 2, 17776, 17776, 30, 64, true);
            conv(c, devices[i][0], 8, 480, 720, 128, 128, 3, 1, true);
        }
        cvx_cudnn_close(c);
    }
    return wrong > 0;
}
