/* Attention in bfloat16 on AVX-512: softmax(q k^T scale + bias) v for all heads of all pictures, in one call.

   Each thread takes an even share of the blocks of six queries. The keys and values of a head are laid out once for
   the instruction that multiplies pairs (vdpbf16ps); the logits of six queries live in the first-level cache from
   their product to the values they weigh. Sums are float32, weights are rounded to bfloat16 as torch rounds them. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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
    int64_t b, h, m, n, width;
    float scale;
    int32_t failed;
};

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define INLINE static inline __attribute__((always_inline)) TARGET
enum { ROWS = 6, LANES = 16, WIDE = 4 };

/* torch's own OpenMP runtime, whichever it is; without one the caller's thread does it all. */
extern void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak));
extern int omp_get_thread_num(void) __attribute__((weak));
extern int omp_get_num_threads(void) __attribute__((weak));

/* 16 rows of 16 words become 16 columns. */
INLINE void transpose(__m512i r[16])
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* keys[pair][token]: a word is two neighbours of a key; tokens beyond the last are zero. */
TARGET static void pack_keys(uint32_t *to, const uint16_t *k, int64_t token, int64_t n, int64_t padded, int64_t width)
{
    for (int64_t first = 0; first < padded; first += LANES)
        for (int64_t word = 0; word < width / 2; word += LANES) {
            int64_t words = width / 2 - word < LANES ? width / 2 - word : LANES;
            __m512i r[16];
            for (int i = 0; i < 16; i++)
                r[i] = first + i < n ? _mm512_maskz_loadu_epi32((__mmask16)((1u << words) - 1),
                                                               k + (first + i) * token + 2 * word)
                                     : _mm512_setzero_si512();
            transpose(r);
            for (int64_t i = 0; i < words; i++)
                _mm512_storeu_si512(to + (word + i) * padded + first, r[i]);
        }
}

/* values[pair of tokens][channel]: a word is a channel of two neighbouring tokens. */
TARGET static void pack_values(uint32_t *to, const uint16_t *v, int64_t token, int64_t n, int64_t padded, int64_t width)
{
    for (int64_t row = 0; row < padded; row += 2)
        for (int64_t channel = 0; channel < width; channel += LANES) {
            __m256i zero = _mm256_setzero_si256();
            __m256i a = row < n ? _mm256_loadu_si256((const __m256i *)(v + row * token + channel)) : zero;
            __m256i b = row + 1 < n ? _mm256_loadu_si256((const __m256i *)(v + (row + 1) * token + channel)) : zero;
            __m512i words = _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
            _mm512_storeu_si512(to + row / 2 * width + channel, words);
        }
}

/* A block of six rows times `wide` vectors of columns: rows hold pairs, columns are laid out as above. */
INLINE void product(float *out, int64_t out_row, const uint32_t *const rows[ROWS], const uint32_t *columns,
                    int64_t column_row, int64_t pairs, const int wide)
{
    __m512 sum[ROWS][WIDE];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < wide; j++)
            sum[i][j] = _mm512_setzero_ps();
    for (int64_t p = 0; p < pairs; p++) {
        __m512bh right[WIDE];
        for (int j = 0; j < wide; j++)
            right[j] = (__m512bh)_mm512_loadu_si512(columns + p * column_row + j * LANES);
        for (int i = 0; i < ROWS; i++) {
            __m512bh left = (__m512bh)_mm512_set1_epi32((int)rows[i][p]);
            for (int j = 0; j < wide; j++)
                sum[i][j] = _mm512_dpbf16_ps(sum[i][j], left, right[j]);
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < wide; j++)
            _mm512_storeu_ps(out + i * out_row + j * LANES, sum[i][j]);
}

TARGET static void products(float *out, int64_t out_row, const uint32_t *const rows[ROWS], const uint32_t *columns,
                            int64_t width, int64_t pairs)
{
    int64_t at = 0;
    for (; at + WIDE * LANES <= width; at += WIDE * LANES)
        product(out + at, out_row, rows, columns + at, width, pairs, WIDE);
    switch ((width - at) / LANES) {
    case 3: product(out + at, out_row, rows, columns + at, width, pairs, 3); break;
    case 2: product(out + at, out_row, rows, columns + at, width, pairs, 2); break;
    case 1: product(out + at, out_row, rows, columns + at, width, pairs, 1); break;
    }
}

/* 2^x for x <= 0, to 4e-6: a polynomial between two whole numbers, scaled by the lower one. */
INLINE __m512 exp2_below(__m512 x)
{
    x = _mm512_max_ps(x, _mm512_set1_ps(-126.0f));
    __m512 whole = _mm512_roundscale_ps(x, 8);
    __m512 part = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(9.618129e-3f);
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(5.550411e-2f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(2.402265e-1f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(6.931472e-1f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}

/* One row of logits becomes weights, not yet divided by their sum, whose inverse is returned. */
INLINE float weigh(uint16_t *weights, float *logits, const float *bias, int64_t n, int64_t padded, float scale)
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
    __m512 highest = _mm512_set1_ps(_mm512_reduce_max_ps(most)), sum = _mm512_setzero_ps();
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
    int64_t thread = omp_get_thread_num ? omp_get_thread_num() : 0;
    int64_t threads = omp_get_num_threads ? omp_get_num_threads() : 1;
    int64_t blocks = (job->m + ROWS - 1) / ROWS, all = job->b * job->h * blocks;
    int64_t from = all * thread / threads, to = all * (thread + 1) / threads;
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
            pack_keys(keys, k, job->k.token, n, padded, width);
            pack_values(values, v, job->v.token, n, padded, width);
            packed = group;
        }
        const uint16_t *q = job->q.data + picture * job->q.picture + head * job->q.head;
        const uint32_t *rows[ROWS], *weighed[ROWS];
        float inverse[ROWS];
        int64_t count = job->m - first < ROWS ? job->m - first : ROWS;
        for (int i = 0; i < ROWS; i++) /* the last block does its last row again */
            rows[i] = (const uint32_t *)(q + (first + (i < count ? i : count - 1)) * job->q.token);
        products(logits, padded, rows, keys, padded, width / 2);
        for (int i = 0; i < ROWS; i++) {
            const float *bias = NULL;
            if (job->bias)
                bias = job->bias + picture * job->bias_picture + head * job->bias_head
                     + (first + (i < count ? i : count - 1)) * job->bias_query;
            weighed[i] = (const uint32_t *)(weights + i * padded);
            inverse[i] = weigh(weights + i * padded, logits + i * padded, bias, n, padded, job->scale);
        }
        products(sums, width, weighed, values, width, padded / 2);
        for (int64_t i = 0; i < count; i++) {
            uint16_t *out = job->out + ((picture * job->m + first + i) * job->h + head) * width;
            for (int64_t at = 0; at < width; at += LANES) {
                __m512 x = _mm512_mul_ps(_mm512_loadu_ps(sums + i * width + at), _mm512_set1_ps(inverse[i]));
                _mm256_storeu_si256((__m256i *)(out + at), (__m256i)_mm512_cvtneps_pbh(x));
            }
        }
    }
    free(scratch);
}

/* The number of the interface above: kernels/library.py asks. */
int vitkit_interface(void)
{
    return 1;
}

int vitkit_attention_runs(void)
{
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

/* 0, or 1 where there was no memory. */
int vitkit_attention(struct attention *job, int threads)
{
    if (threads > 1 && GOMP_parallel && omp_get_thread_num && omp_get_num_threads)
        GOMP_parallel(share, job, (unsigned)threads, 0);
    else
        share(job);
    return job->failed;
}
#else
int vitkit_interface(void)
{
    return 1;
}

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
