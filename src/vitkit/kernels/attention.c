/* Attention in bfloat16 on AVX-512: softmax(q k^T scale + bias) v for all heads of all images, in one call.

   Blocks of six queries are distributed evenly over the threads. The keys and values of a head are packed once for the
   instruction that multiplies pairs (vdpbf16ps). The logits of six queries stay in the first-level cache until they
   are multiplied with the values. Sums are float32; weights are rounded to bfloat16 as in torch. */

#include <stdint.h>

/* Memory layout of q, k and v: strides in elements, the last axis is dense. */
struct heads {
    const uint16_t *data;
    int64_t image, head, token;
};

struct attention {
    struct heads q, k, v;
    const float *bias; /* or NULL; the last axis is dense */
    int64_t bias_image, bias_head, bias_query;
    uint16_t *out; /* (b, m, h * width), dense */
    float *row; /* (b, h, m, 2), dense, or NULL: the maximum logit of each row (base 2), and 1 / its sum */
    int64_t b, h, m, n, width;
    float scale;
    int32_t failed;
};

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include "products.h"

/* Converts a row of logits to weights that are not divided by their sum; returns 1 / sum. */
INLINE float weigh(uint16_t *weights, float *logits, const float *bias, int64_t n, int64_t padded, float scale,
                   float *highest_logit)
{
    const float log2e = 1.44269504f;
    __m512 most = _mm512_set1_ps(-__builtin_inff()), factor = _mm512_set1_ps(scale * log2e);
    __mmask16 tail = (__mmask16)(0xffffu >> (VECTOR - 1 - (n - 1) % VECTOR));
    for (int64_t at = 0; at < padded; at += VECTOR) {
        __mmask16 valid = at + VECTOR <= n ? 0xffff : tail;
        __m512 x = _mm512_mul_ps(_mm512_loadu_ps(logits + at), factor);
        if (bias)
            x = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(valid, bias + at), _mm512_set1_ps(log2e), x);
        _mm512_storeu_ps(logits + at, x);
        most = _mm512_mask_max_ps(most, valid, most, x);
    }
    *highest_logit = _mm512_reduce_max_ps(most);
    __m512 highest = _mm512_set1_ps(*highest_logit), sum = _mm512_setzero_ps();
    for (int64_t at = 0; at < padded; at += VECTOR) {
        __mmask16 valid = at + VECTOR <= n ? 0xffff : tail;
        __m512 x = exp2_below(_mm512_sub_ps(_mm512_loadu_ps(logits + at), highest));
        x = _mm512_maskz_mov_ps(valid, x);
        sum = _mm512_add_ps(sum, x);
        _mm256_storeu_si256((__m256i *)(weights + at), (__m256i)_mm512_cvtneps_pbh(x));
    }
    return 1.0f / _mm512_reduce_add_ps(sum);
}

TARGET static void run_thread(void *argument)
{
    struct attention *job = argument;
    int64_t blocks = (job->m + ROWS - 1) / ROWS, from, to;
    thread_range(job->b * job->h * blocks, &from, &to);
    int64_t n = job->n, width = job->width, padded = (n + VECTOR - 1) / VECTOR * VECTOR;
    size_t bytes = (size_t)padded * width * 4 + ROWS * (padded * 6 + width * 4);
    uint8_t *scratch = from < to ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL;
    if (!scratch) {
        job->failed |= from < to;
        return;
    }
    uint32_t *keys = (uint32_t *)scratch, *values = keys + padded * width / 2;
    float *logits = (float *)(values + padded * width / 2), *sums = logits + ROWS * padded;
    uint16_t *weights = (uint16_t *)(sums + ROWS * width);
    for (int64_t index = from, packed = -1; index < to; index++) {
        int64_t group = index / blocks, image = group / job->h, head = group % job->h, first = index % blocks * ROWS;
        if (packed != group) {
            const uint16_t *k = job->k.data + image * job->k.image + head * job->k.head;
            const uint16_t *v = job->v.data + image * job->v.image + head * job->v.head;
            pack_across(keys, k, job->k.token, n, padded, width);
            pack_down(values, v, job->v.token, n, padded, width);
            packed = group;
        }
        const uint16_t *q = job->q.data + image * job->q.image + head * job->q.head;
        const uint32_t *rows[ROWS], *weighed[ROWS];
        float inverse[ROWS], highest[ROWS];
        int64_t count = job->m - first < ROWS ? job->m - first : ROWS;
        for (int i = 0; i < ROWS; i++) /* the last block repeats its last row */
            rows[i] = (const uint32_t *)(q + (first + (i < count ? i : count - 1)) * job->q.token);
        products(logits, padded, rows, keys, padded, width / 2, 0);
        for (int i = 0; i < ROWS; i++) {
            const float *bias = NULL;
            if (job->bias)
                bias = job->bias + image * job->bias_image + head * job->bias_head
                     + (first + (i < count ? i : count - 1)) * job->bias_query;
            weighed[i] = (const uint32_t *)(weights + i * padded);
            inverse[i] = weigh(weights + i * padded, logits + i * padded, bias, n, padded, job->scale, &highest[i]);
        }
        products(sums, width, weighed, values, width, padded / 2, 0);
        for (int64_t i = 0; i < count; i++) {
            if (job->row) {
                float *row = job->row + 2 * (group * job->m + first + i);
                row[0] = highest[i], row[1] = inverse[i];
            }
            uint16_t *out = job->out + ((image * job->m + first + i) * job->h + head) * width;
            for (int64_t at = 0; at < width; at += VECTOR) {
                __m512 x = _mm512_mul_ps(_mm512_loadu_ps(sums + i * width + at), _mm512_set1_ps(inverse[i]));
                _mm256_storeu_si256((__m256i *)(out + at), (__m256i)_mm512_cvtneps_pbh(x));
            }
        }
    }
    free(scratch);
}

/* Whether the CPU has every extension of TARGET. The compiler's runtime reads CPUID, and XCR0 for the registers that
   the operating system saves. */
int vitkit_attention_runs(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
}

/* Returns 0, or 1 if the allocation failed. */
int vitkit_attention(struct attention *job, int threads)
{
    run_parallel(run_thread, job, threads);
    return job->failed;
}
#else
int vitkit_attention_runs(void)
{
    return 0;
}

int vitkit_attention(struct attention *job, int threads)
{
    (void)job, (void)threads;
    return 1;
}
#endif
