/* Quantizes rows to 8-bit integers, optionally after a LayerNorm: one pass over the memory instead of five for separate
   operations. */

#include <stdint.h>

struct quantize {
    const void *x; /* (rows, width), dense */
    const float *weight, *bias; /* of a LayerNorm, or NULL */
    uint8_t *out; /* (rows, width), dense */
    int64_t rows, width;
    float epsilon, inverse, zero; /* out is x * inverse + zero, rounded */
    int32_t is_bfloat16; /* x is bfloat16, else float32 */
};

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>
#include "threads.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define INLINE static inline __attribute__((always_inline)) TARGET
enum { VECTOR = 16 };

INLINE __m512 load(const struct quantize *job, int64_t row, int64_t at, __mmask16 valid)
{
    int64_t index = row * job->width + at;
    if (!job->is_bfloat16)
        return _mm512_maskz_loadu_ps(valid, (const float *)job->x + index);
    __m256i halves = _mm256_maskz_loadu_epi16(valid, (const uint16_t *)job->x + index);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

INLINE __mmask16 valid_mask(const struct quantize *job, int64_t at)
{
    return job->width - at >= VECTOR ? 0xffff : (__mmask16)((1u << (job->width - at)) - 1);
}

TARGET static void run_thread(void *argument)
{
    const struct quantize *job = argument;
    int64_t from, to;
    thread_range(job->rows, &from, &to);
    const __m512 inverse = _mm512_set1_ps(job->inverse), highest = _mm512_set1_ps(255.0f), lowest = _mm512_setzero_ps();
    /* Adding 0.5 and truncating rounds values that are not negative. */
    const __m512 zero = _mm512_set1_ps(job->zero + 0.5f);
    for (int64_t row = from; row < to; row++) {
        __m512 mean = _mm512_setzero_ps(), factor = _mm512_set1_ps(1.0f);
        if (job->weight) {
            __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
            for (int64_t at = 0; at < job->width; at += VECTOR)
                sum = _mm512_add_ps(sum, load(job, row, at, valid_mask(job, at)));
            mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)job->width);
            for (int64_t at = 0; at < job->width; at += VECTOR) {
                __mmask16 valid = valid_mask(job, at);
                __m512 off = _mm512_maskz_sub_ps(valid, load(job, row, at, valid), mean);
                squares = _mm512_fmadd_ps(off, off, squares);
            }
            float variance = _mm512_reduce_add_ps(squares) / (float)job->width;
            factor = _mm512_set1_ps(1.0f / __builtin_sqrtf(variance + job->epsilon));
        }
        for (int64_t at = 0; at < job->width; at += VECTOR) {
            __mmask16 valid = valid_mask(job, at);
            __m512 x = load(job, row, at, valid);
            if (job->weight) {
                x = _mm512_mul_ps(_mm512_sub_ps(x, mean), factor);
                x = _mm512_mul_ps(x, _mm512_maskz_loadu_ps(valid, job->weight + at));
                if (job->bias)
                    x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(valid, job->bias + at));
            }
            x = _mm512_add_ps(_mm512_mul_ps(x, inverse), zero);
            x = _mm512_min_ps(_mm512_max_ps(x, lowest), highest);
            _mm_mask_storeu_epi8(job->out + row * job->width + at, valid, _mm512_cvtusepi32_epi8(_mm512_cvttps_epi32(x)));
        }
    }
}

/* Whether the CPU has every extension of TARGET. The compiler's runtime reads CPUID, and XCR0 for the registers that
   the operating system saves. */
int vitkit_quantize_runs(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

void vitkit_quantize(struct quantize *job, int threads)
{
    run_parallel(run_thread, job, threads);
}
#else
int vitkit_quantize_runs(void)
{
    return 0;
}

void vitkit_quantize(struct quantize *job, int threads)
{
    (void)job, (void)threads;
}
#endif
