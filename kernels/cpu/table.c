/* The choice of an instruction set level at run time. */
#include <string.h>

#include "kernels/cpu/cpu.h"

#if defined(__x86_64__)
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

const cvx_ops *cvx_cpu_ops(const char *isa)
{
    if (strcmp(isa, "avx2") == 0) {
        return has_avx2() ? &cvx_cpu_table_avx2 : NULL;
    }
    if (strcmp(isa, "avx512") == 0) {
        return has_avx512() ? &cvx_cpu_table_avx512 : NULL;
    }
    return strcmp(isa, "portable") == 0 ? &cvx_cpu_table_portable : NULL;
}

const char *cvx_cpu_isa(void)
{
    return has_avx512() ? "avx512" : has_avx2() ? "avx2" : "portable";
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
