/* The arithmetic peak of this machine: fused multiply-adds in f32 on every thread, registers only, with the
 * widest vectors it has. Prints GFLOP/s, the best of several runs: what shares of the peak are measured by. */
#include <immintrin.h>
#include <omp.h>
#include <stdio.h>
#include <time.h>

#define ROUNDS 20000000L
#define CHAINS 12 /* enough independent sums to hide the latency of one */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* One function per vector width: CHAINS sums, each step one fused multiply-add of WIDTH floats. */
#define FMA_LOOP(name, isa, vec, set1, fma, store, width)                                          \
    __attribute__((target(isa))) static float name(long rounds)                                    \
    {                                                                                              \
        vec s[CHAINS], a = set1(0.999f), b = set1(1e-3f);                                          \
        float out[width];                                                                          \
        for (int i = 0; i < CHAINS; i++) {                                                         \
            s[i] = set1((float)i);                                                                 \
        }                                                                                          \
        for (long r = 0; r < rounds; r++) {                                                        \
            _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++)                              \
            {                                                                                      \
                s[i] = fma(s[i], a, b);                                                            \
            }                                                                                      \
        }                                                                                          \
        for (int i = 1; i < CHAINS; i++) {                                                         \
            s[0] = fma(s[0], a, s[i]);                                                             \
        }                                                                                          \
        store(out, s[0]);                                                                          \
        return out[0];                                                                             \
    }

FMA_LOOP(run_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps, 16)
FMA_LOOP(run_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps, 8)

int main(void)
{
    int wide = __builtin_cpu_supports("avx512f"), some = wide || __builtin_cpu_supports("fma");
    int width = wide ? 16 : 8, threads = omp_get_max_threads();
    double best = 0;
    float sum = 0;

    if (!some) {
        fprintf(stderr, "bench_peak: this CPU has no fused multiply-add\n");
        return 1;
    }
    for (int i = 0; i < 5; i++) {
        double start = now();
#pragma omp parallel reduction(+ : sum)
        sum += wide ? run_avx512(ROUNDS) : run_avx2(ROUNDS);
        double gflops = 2.0 * width * CHAINS * (double)ROUNDS * threads / (now() - start) / 1e9;
        best = gflops > best ? gflops : best;
    }
    volatile float keep = sum; /* or the compiler would leave the work out */
    (void)keep;
    printf("%.1f\n", best);
    return 0;
}
