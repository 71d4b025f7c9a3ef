/* Attention in bfloat16 on AVX-512: softmax(q k^T scale + bias) v for all heads of all pictures, in one call.

   Each thread takes an even share of the blocks of six queries. The keys and values of a head are laid out once for
   the instruction that multiplies pairs (vdpbf16ps); the logits of six queries live in the first-level cache from
   their product to the values they weigh. Sums are float32, weights are rounded to bfloat16 as torch rounds them. */

#include <stdint.h>

/* How q, k and v lie in memory: strides count elements, the last axis is dense. */
struct heads {
    const uint16_t *data;
    int64_t picture, head, token;
};

struct attention {
    struct heads q, k, v;
    const float *bias; /* or none; its last axis is dense */
    int64_t bias_picture, bias_head, bias_query;
    uint16_t *out; /* (b, m, h * width), dense */
    float *row; /* (b, h, m, 2), dense, or none: the highest logit of a row in powers of two, and 1 / its sum */
    int64_t b, h, m, n, width;
    float scale;
    int32_t failed;
};

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include "products.h"

/* One row of logits becomes weights, not yet divided by their sum, whose inverse is returned. */
INLINE float weigh(uint16_t *weights, float *logits, const float *bias, int64_t n, int64_t padded, float scale,
                   float *highest_logit)
{
    const float log2e = 1.44269504f;
    __m512 most = _mm512_set1_ps(-__builtin_inff()), factor = _mm512_set1_ps(scale * log2e);
    __mmask16 tail = (__mmask16)(0xffffu >> (LANES - 1 - (n - 1) % LANES));
    for (int64_t at = 0; at < padded; at += LANES) {
        __mmask16 valid = at + LANES <= n ? 0xffff : tail;
        __m512 x = _mm512_mul_ps(_mm512_loadu_ps(logits + at), factor);
        if (bias)
            x = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(valid, bias + at), _mm512_set1_ps(log2e), x);
        _mm512_storeu_ps(logits + at, x);
        most = _mm512_mask_max_ps(most, valid, most, x);
    }
    *highest_logit = _mm512_reduce_max_ps(most);
    __m512 highest = _mm512_set1_ps(*highest_logit), sum = _mm512_setzero_ps();
    for (int64_t at = 0; at < padded; at += LANES) {
        __mmask16 valid = at + LANES <= n ? 0xffff : tail;
        __m512 x = exp2_below(_mm512_sub_ps(_mm512_loadu_ps(logits + at), highest));
        x = _mm512_maskz_mov_ps(valid, x);
        sum = _mm512_add_ps(sum, x);
        _mm256_storeu_si256((__m256i *)(weights + at), (__m256i)_mm512_cvtneps_pbh(x));
    }
    return 1.0f / _mm512_reduce_add_ps(sum);
}

TARGET static void share(void *argument)
{
    struct attention *job = argument;
    int64_t blocks = (job->m + ROWS - 1) / ROWS, from, to;
    own(job->b * job->h * blocks, &from, &to);
    int64_t n = job->n, width = job->width, padded = (n + LANES - 1) / LANES * LANES;
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
        int64_t group = index / blocks, picture = group / job->h, head = group % job->h, first = index % blocks * ROWS;
        if (packed != group) {
            const uint16_t *k = job->k.data + picture * job->k.picture + head * job->k.head;
            const uint16_t *v = job->v.data + picture * job->v.picture + head * job->v.head;
            words_across(keys, k, job->k.token, n, padded, width);
            words_down(values, v, job->v.token, n, padded, width);
            packed = group;
        }
        const uint16_t *q = job->q.data + picture * job->q.picture + head * job->q.head;
        const uint32_t *rows[ROWS], *weighed[ROWS];
        float inverse[ROWS], highest[ROWS];
        int64_t count = job->m - first < ROWS ? job->m - first : ROWS;
        for (int i = 0; i < ROWS; i++) /* the last block does its last row again */
            rows[i] = (const uint32_t *)(q + (first + (i < count ? i : count - 1)) * job->q.token);
        products(logits, padded, rows, keys, padded, width / 2, 0);
        for (int i = 0; i < ROWS; i++) {
            const float *bias = NULL;
            if (job->bias)
                bias = job->bias + picture * job->bias_picture + head * job->bias_head
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
            uint16_t *out = job->out + ((picture * job->m + first + i) * job->h + head) * width;
            for (int64_t at = 0; at < width; at += LANES) {
                __m512 x = _mm512_mul_ps(_mm512_loadu_ps(sums + i * width + at), _mm512_set1_ps(inverse[i]));
                _mm256_storeu_si256((__m256i *)(out + at), (__m256i)_mm512_cvtneps_pbh(x));
            }
        }
    }
    free(scratch);
}

/* Whether the CPU has every extension of TARGET. The compiler's runtime reads CPUID, and XCR0 for the registers that the
   operating system saves. */
int vitkit_attention_runs(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
}

/* 0, or 1 where there was no memory. */
int vitkit_attention(struct attention *job, int threads)
{
    together(share, job, threads);
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
