/* Backward pass of attention in bfloat16 on AVX-512: gradients of q, k and v from the gradient of the output.

   With P = softmax(q k^T scale) and o = P v: dv = P^T do, dS = P (do v^T - sum(do o)) scale, dq = dS k, dk = dS^T q
   (Dao et al. 2022, "FlashAttention", appendix B.4). Each thread computes complete heads, 96 queries at a time, so
   that the logits and their gradients stay in the second-level cache. P is recomputed from the row statistics of the
   forward pass. Sums are float32; P and dS are rounded to bfloat16 before they are multiplied. */

#include <stdint.h>

struct gradients {
    const uint16_t *q, *k, *v; /* in one tensor, with these strides of images, heads and tokens */
    int64_t image, head, token;
    const uint16_t *out, *dout; /* (b, n, h * width), dense */
    const float *row; /* (b, h, n, 2): see struct attention */
    uint16_t *dq, *dk, *dv; /* same strides as q, k and v */
    int64_t b, h, n, width;
    float scale;
    int32_t failed;
};

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include "products.h"

/* BLOCK is the number of queries at a time, a multiple of ROWS and of GROUP, the size of transposed squares. */
enum { BLOCK = 96, GROUP = 2 * VECTOR };

struct buffers {
    uint32_t *keys_across, *values_across, *keys_down, *queries_down, *dout_down, *weights_down, *slopes_down;
    uint16_t *slopes;
    float *logits, *dweights, *dkeys, *dvalues, *dqueries;
};

static int64_t up(int64_t size, int64_t to)
{
    return (size + to - 1) / to * to;
}

/* Sets the pointers of all buffers inside one allocation; returns its size (with memory NULL only that). */
static int64_t arrange(struct buffers *buffers, uint8_t *memory, int64_t n, int64_t width)
{
    int64_t padded = up(n, VECTOR), at = 0;
#define TAKE(field, count)                                       \
    do {                                                         \
        if (memory)                                              \
            buffers->field = (void *)(memory + at);                 \
        at += up((count) * (int64_t)sizeof(*buffers->field), 64);   \
    } while (0)
    TAKE(keys_across, padded * width / 2);
    TAKE(values_across, padded * width / 2);
    TAKE(keys_down, padded * width / 2);
    TAKE(queries_down, BLOCK * width / 2);
    TAKE(dout_down, BLOCK * width / 2);
    TAKE(weights_down, padded * BLOCK / 2);
    TAKE(slopes_down, padded * BLOCK / 2);
    TAKE(slopes, BLOCK * padded);
    TAKE(logits, BLOCK * padded);
    TAKE(dweights, BLOCK * padded);
    TAKE(dkeys, up(n, ROWS) * width);
    TAKE(dvalues, up(n, ROWS) * width);
    TAKE(dqueries, ROWS * width);
#undef TAKE
    return at;
}

INLINE __m512 wide(const uint16_t *x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16));
}

INLINE void narrow(uint16_t *to, const float *x, int64_t width)
{
    for (int64_t at = 0; at < width; at += VECTOR)
        _mm256_storeu_si256((__m256i *)(to + at), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + at)));
}

/* Converts a row of logits to weights, and the gradient of the weights to that of the logits, in place. */
INLINE void slopes(float *logits, float *dweights, uint16_t *rounded, const float row[2], float delta,
                   const struct gradients *job, int64_t padded)
{
    __m512 factor = _mm512_set1_ps(job->scale * 1.44269504f), highest = _mm512_set1_ps(row[0]);
    __m512 inverse = _mm512_set1_ps(row[1]), offset = _mm512_set1_ps(delta), scale = _mm512_set1_ps(job->scale);
    for (int64_t at = 0; at < padded; at += VECTOR) {
        __mmask16 valid = at + VECTOR <= job->n ? 0xffff : (__mmask16)((1u << (job->n - at)) - 1);
        __m512 weight = exp2_below(_mm512_fmsub_ps(_mm512_loadu_ps(logits + at), factor, highest));
        weight = _mm512_maskz_mul_ps(valid, weight, inverse);
        __m512 slope = _mm512_sub_ps(_mm512_loadu_ps(dweights + at), offset);
        slope = _mm512_mul_ps(_mm512_mul_ps(slope, weight), scale);
        _mm512_storeu_ps(logits + at, weight);
        _mm512_storeu_ps(dweights + at, slope);
        _mm256_storeu_si256((__m256i *)(rounded + at), (__m256i)_mm512_cvtneps_pbh(slope));
    }
}

/* to[column][pair] of x (rows, padded), rounded to bfloat16: a pair is one column of two adjacent rows. The number of
   rows is a multiple of GROUP. */
TARGET static void transpose_pairs(uint32_t *to, const float *x, int64_t rows, int64_t padded)
{
    for (int64_t group = 0; group < rows; group += GROUP)
        for (int64_t column = 0; column < padded; column += VECTOR) {
            __m512i r[16];
            for (int i = 0; i < VECTOR; i++) {
                const float *pair = x + (group + 2 * i) * padded + column;
                __m256i a = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(pair));
                __m256i b = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(pair + padded));
                r[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
            }
            transpose(r);
            for (int i = 0; i < VECTOR; i++)
                _mm512_storeu_si512(to + (column + i) * (BLOCK / 2) + group / 2, r[i]);
        }
}

/* Adds the contribution of a block to the gradient of keys or values: transposed (n, queries) times down (queries,
   width). */
TARGET static void accumulate(float *to, const uint32_t *transposed, const uint32_t *down, int64_t n, int64_t width,
                          int64_t queries)
{
    for (int64_t first = 0; first < n; first += ROWS) {
        const uint32_t *rows[ROWS];
        for (int i = 0; i < ROWS; i++)
            rows[i] = transposed + (first + i < n ? first + i : n - 1) * (BLOCK / 2);
        products(to + first * width, width, rows, down, width, queries / 2, 1);
    }
}

/* Processes up to 96 queries of one head. */
TARGET static void block(const struct gradients *job, struct buffers *buffers, int64_t image, int64_t head,
                         int64_t first)
{
    int64_t n = job->n, width = job->width, padded = up(n, VECTOR);
    int64_t count = n - first < BLOCK ? n - first : BLOCK, rounded_count = up(count, GROUP), all = job->h * width;
    const uint16_t *q = job->q + image * job->image + head * job->head + first * job->token;
    const uint16_t *out = job->out + (image * n + first) * all + head * width;
    const uint16_t *dout = job->dout + (image * n + first) * all + head * width;
    const float *statistics = job->row + 2 * ((image * job->h + head) * n + first);
    pack_down(buffers->queries_down, q, job->token, count, rounded_count, width);
    pack_down(buffers->dout_down, dout, all, count, rounded_count, width);
    for (int64_t at = 0; at < count; at += ROWS) {
        const uint32_t *query_rows[ROWS], *dout_rows[ROWS], *slope_rows[ROWS];
        for (int i = 0; i < ROWS; i++) { /* rows after the last query repeat it; their results are ignored */
            int64_t row = at + i < count ? at + i : count - 1;
            query_rows[i] = (const uint32_t *)(q + row * job->token);
            dout_rows[i] = (const uint32_t *)(dout + row * all);
            slope_rows[i] = (const uint32_t *)(buffers->slopes + (at + i) * padded);
        }
        products(buffers->logits + at * padded, padded, query_rows, buffers->keys_across, padded, width / 2, 0);
        products(buffers->dweights + at * padded, padded, dout_rows, buffers->values_across, padded, width / 2, 0);
        for (int64_t row = at; row < at + ROWS; row++) {
            const float no_weights[2] = {3e38f, 0.0f}; /* gives weights of zero */
            __m512 sum = _mm512_setzero_ps();
            for (int64_t channel = 0; row < count && channel < width; channel += VECTOR)
                sum = _mm512_fmadd_ps(wide(dout + row * all + channel), wide(out + row * all + channel), sum);
            slopes(buffers->logits + row * padded, buffers->dweights + row * padded, buffers->slopes + row * padded,
                   row < count ? statistics + 2 * row : no_weights, _mm512_reduce_add_ps(sum), job, padded);
        }
        products(buffers->dqueries, width, slope_rows, buffers->keys_down, width, padded / 2, 0);
        uint16_t *dq = job->dq + image * job->image + head * job->head + (first + at) * job->token;
        for (int64_t i = 0; i < ROWS && at + i < count; i++)
            narrow(dq + i * job->token, buffers->dqueries + i * width, width);
    }
    for (int64_t i = up(count, ROWS) * padded; i < rounded_count * padded; i++)
        buffers->logits[i] = buffers->dweights[i] = 0.0f;
    transpose_pairs(buffers->weights_down, buffers->logits, rounded_count, padded);
    transpose_pairs(buffers->slopes_down, buffers->dweights, rounded_count, padded);
    accumulate(buffers->dvalues, buffers->weights_down, buffers->dout_down, n, width, rounded_count);
    accumulate(buffers->dkeys, buffers->slopes_down, buffers->queries_down, n, width, rounded_count);
}

TARGET static void run_thread(void *argument)
{
    struct gradients *job = argument;
    int64_t n = job->n, width = job->width, padded = up(n, VECTOR), from, to;
    struct buffers buffers;
    thread_range(job->b * job->h, &from, &to);
    uint8_t *memory = from < to ? aligned_alloc(64, (size_t)arrange(&buffers, NULL, n, width)) : NULL;
    if (!memory) {
        job->failed |= from < to;
        return;
    }
    arrange(&buffers, memory, n, width);
    for (int64_t group = from; group < to; group++) {
        int64_t image = group / job->h, head = group % job->h, start = image * job->image + head * job->head;
        pack_across(buffers.keys_across, job->k + start, job->token, n, padded, width);
        pack_across(buffers.values_across, job->v + start, job->token, n, padded, width);
        pack_down(buffers.keys_down, job->k + start, job->token, n, padded, width);
        for (int64_t i = 0; i < up(n, ROWS) * width; i++)
            buffers.dkeys[i] = buffers.dvalues[i] = 0.0f;
        for (int64_t first = 0; first < n; first += BLOCK)
            block(job, &buffers, image, head, first);
        for (int64_t i = 0; i < n; i++) {
            narrow(job->dk + start + i * job->token, buffers.dkeys + i * width, width);
            narrow(job->dv + start + i * job->token, buffers.dvalues + i * width, width);
        }
    }
    free(memory);
}

/* Returns 0, or 1 if the allocation failed. */
int vitkit_attention_backward(struct gradients *job, int threads)
{
    run_parallel(run_thread, job, threads);
    return job->failed;
}
#else
int vitkit_attention_backward(struct gradients *job, int threads)
{
    (void)job, (void)threads;
    return 1;
}
#endif
