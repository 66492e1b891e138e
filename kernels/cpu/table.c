/* The choice of an instruction set level at run time. */
#include <string.h>

#include "kernels/cpu/cpu.h"

const char *const cvx_cpu_levels[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx", NULL};

#if defined(__x86_64__)
#include <cpuid.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

/* Every CPU with AVX2 and FMA has F16C too (a name that clang 14's builtin does not know). */
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static bool has_avx512_bf16(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}

/* The kernel hands out the tile registers on request, once per process. */
static bool amx_granted;

static void ask_for_amx(void)
{
    unsigned a, b, c, d;
    bool there = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 1) && (d >> 22 & 1);

    amx_granted = there && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static bool has_amx(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, ask_for_amx);
    return has_avx512_bf16() && amx_granted;
}

static const struct {
    const char *isa;
    bool (*there)(void);
    const cvx_ops *table;
} better[] = {{"amx", has_amx, &cvx_cpu_table_amx},
              {"avx512_bf16", has_avx512_bf16, &cvx_cpu_table_avx512_bf16},
              {"avx512", has_avx512, &cvx_cpu_table_avx512},
              {"avx2", has_avx2, &cvx_cpu_table_avx2}};

const cvx_ops *cvx_cpu_ops(const char *isa)
{
    for (size_t i = 0; i < sizeof better / sizeof *better; i++) {
        if (strcmp(isa, better[i].isa) == 0) {
            return better[i].there() ? better[i].table : NULL;
        }
    }
    return strcmp(isa, "portable") == 0 ? &cvx_cpu_table_portable : NULL;
}

const char *cvx_cpu_isa(void)
{
    for (size_t i = 0; i < sizeof better / sizeof *better; i++) {
        if (better[i].there()) {
            return better[i].isa;
        }
    }
    return "portable";
}
#else
const cvx_ops *cvx_cpu_ops(const char *isa)
{
    return strcmp(isa, "portable") == 0 ? &cvx_cpu_table_portable : NULL;
}

const char *cvx_cpu_isa(void)
{
    return "portable";
}
#endif
