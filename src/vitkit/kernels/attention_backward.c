/* The gradients of attention in bfloat16 on AVX-512: of q, k and v from that of what was attended.

   With P = softmax(q k^T scale) and o = P v: dv = P^T do, dS = P (do v^T - sum(do o)) scale, dq = dS k, dk = dS^T q
   (Dao et al. 2022, "FlashAttention", appendix B.4). Each thread takes whole heads, and of a head 96 queries at a time,
   so that its logits and their gradients stay in the second-level cache; P is made again from what the forward pass
   kept of each row. Sums are float32; P and dS are rounded to bfloat16 for the products they go into. */

#include <stdint.h>

struct gradients {
    const uint16_t *q, *k, *v; /* in one tensor, with these strides of pictures, heads and tokens */
    int64_t picture, head, token;
    const uint16_t *out, *dout; /* (b, n, h * width), dense */
    const float *row; /* (b, h, n, 2): see struct attention */
    uint16_t *dq, *dk, *dv; /* strides as those of q, k and v */
    int64_t b, h, n, width;
    float scale;
    int32_t failed;
};

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include "products.h"

enum { BLOCK = 96, GROUP = 2 * LANES }; /* queries at a time: whole blocks of products, whole squares of words */

struct room {
    uint32_t *keys_across, *values_across, *keys_down, *queries_down, *dout_down, *weights_down, *slopes_down;
    uint16_t *slopes;
    float *logits, *dweights, *dkeys, *dvalues, *dqueries;
};

static int64_t up(int64_t size, int64_t to)
{
    return (size + to - 1) / to * to;
}

/* Lays the arrays out in one piece of memory, or says how large it is. */
static int64_t arrange(struct room *room, uint8_t *memory, int64_t n, int64_t width)
{
    int64_t padded = up(n, LANES), at = 0;
#define TAKE(field, count)                                       \
    do {                                                         \
        if (memory)                                              \
            room->field = (void *)(memory + at);                 \
        at += up((count) * (int64_t)sizeof(*room->field), 64);   \
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
    for (int64_t at = 0; at < width; at += LANES)
        _mm256_storeu_si256((__m256i *)(to + at), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + at)));
}

/* A row of logits becomes its weights, the gradient of its weights that of its logits. */
INLINE void slopes(float *logits, float *dweights, uint16_t *rounded, const float row[2], float delta,
                   const struct gradients *job, int64_t padded)
{
    __m512 factor = _mm512_set1_ps(job->scale * 1.44269504f), highest = _mm512_set1_ps(row[0]);
    __m512 inverse = _mm512_set1_ps(row[1]), less = _mm512_set1_ps(delta), scale = _mm512_set1_ps(job->scale);
    for (int64_t at = 0; at < padded; at += LANES) {
        __mmask16 valid = at + LANES <= job->n ? 0xffff : (__mmask16)((1u << (job->n - at)) - 1);
        __m512 weight = exp2_below(_mm512_fmsub_ps(_mm512_loadu_ps(logits + at), factor, highest));
        weight = _mm512_maskz_mul_ps(valid, weight, inverse);
        __m512 slope = _mm512_sub_ps(_mm512_loadu_ps(dweights + at), less);
        slope = _mm512_mul_ps(_mm512_mul_ps(slope, weight), scale);
        _mm512_storeu_ps(logits + at, weight);
        _mm512_storeu_ps(dweights + at, slope);
        _mm256_storeu_si256((__m256i *)(rounded + at), (__m256i)_mm512_cvtneps_pbh(slope));
    }
}

/* to[column][word]: a word is a column of two neighbouring ones of so many rows of x, a multiple of GROUP. */
TARGET static void turn(uint32_t *to, const float *x, int64_t rows, int64_t padded)
{
    for (int64_t group = 0; group < rows; group += GROUP)
        for (int64_t column = 0; column < padded; column += LANES) {
            __m512i r[16];
            for (int i = 0; i < LANES; i++) {
                const float *pair = x + (group + 2 * i) * padded + column;
                __m256i a = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(pair));
                __m256i b = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(pair + padded));
                r[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
            }
            transpose(r);
            for (int i = 0; i < LANES; i++)
                _mm512_storeu_si512(to + (column + i) * (BLOCK / 2) + group / 2, r[i]);
        }
}

/* Adds the block's part of a gradient of keys or values: turned (n, queries) times down (queries, width). */
TARGET static void gather(float *to, const uint32_t *turned, const uint32_t *down, int64_t n, int64_t width,
                          int64_t queries)
{
    for (int64_t first = 0; first < n; first += ROWS) {
        const uint32_t *rows[ROWS];
        for (int i = 0; i < ROWS; i++)
            rows[i] = turned + (first + i < n ? first + i : n - 1) * (BLOCK / 2);
        products(to + first * width, width, rows, down, width, queries / 2, 1);
    }
}

/* 96 queries of one head, or what is left of them. */
TARGET static void block(const struct gradients *job, struct room *room, int64_t picture, int64_t head, int64_t first)
{
    int64_t n = job->n, width = job->width, padded = up(n, LANES);
    int64_t count = n - first < BLOCK ? n - first : BLOCK, whole = up(count, GROUP), all = job->h * width;
    const uint16_t *q = job->q + picture * job->picture + head * job->head + first * job->token;
    const uint16_t *out = job->out + (picture * n + first) * all + head * width;
    const uint16_t *dout = job->dout + (picture * n + first) * all + head * width;
    const float *kept = job->row + 2 * ((picture * job->h + head) * n + first);
    words_down(room->queries_down, q, job->token, count, whole, width);
    words_down(room->dout_down, dout, all, count, whole, width);
    for (int64_t at = 0; at < count; at += ROWS) {
        const uint32_t *asked[ROWS], *given[ROWS], *sloped[ROWS];
        for (int i = 0; i < ROWS; i++) { /* beyond the last query the last one again, which is then not counted */
            int64_t row = at + i < count ? at + i : count - 1;
            asked[i] = (const uint32_t *)(q + row * job->token);
            given[i] = (const uint32_t *)(dout + row * all);
            sloped[i] = (const uint32_t *)(room->slopes + (at + i) * padded);
        }
        products(room->logits + at * padded, padded, asked, room->keys_across, padded, width / 2, 0);
        products(room->dweights + at * padded, padded, given, room->values_across, padded, width / 2, 0);
        for (int64_t row = at; row < at + ROWS; row++) {
            const float nothing[2] = {3e38f, 0.0f}; /* weights of zero */
            __m512 sum = _mm512_setzero_ps();
            for (int64_t channel = 0; row < count && channel < width; channel += LANES)
                sum = _mm512_fmadd_ps(wide(dout + row * all + channel), wide(out + row * all + channel), sum);
            slopes(room->logits + row * padded, room->dweights + row * padded, room->slopes + row * padded,
                   row < count ? kept + 2 * row : nothing, _mm512_reduce_add_ps(sum), job, padded);
        }
        products(room->dqueries, width, sloped, room->keys_down, width, padded / 2, 0);
        uint16_t *dq = job->dq + picture * job->picture + head * job->head + (first + at) * job->token;
        for (int64_t i = 0; i < ROWS && at + i < count; i++)
            narrow(dq + i * job->token, room->dqueries + i * width, width);
    }
    for (int64_t i = up(count, ROWS) * padded; i < whole * padded; i++)
        room->logits[i] = room->dweights[i] = 0.0f;
    turn(room->weights_down, room->logits, whole, padded);
    turn(room->slopes_down, room->dweights, whole, padded);
    gather(room->dvalues, room->weights_down, room->dout_down, n, width, whole);
    gather(room->dkeys, room->slopes_down, room->queries_down, n, width, whole);
}

TARGET static void share(void *argument)
{
    struct gradients *job = argument;
    int64_t n = job->n, width = job->width, padded = up(n, LANES), from, to;
    struct room room;
    own(job->b * job->h, &from, &to);
    uint8_t *memory = from < to ? aligned_alloc(64, (size_t)arrange(&room, NULL, n, width)) : NULL;
    if (!memory) {
        job->failed |= from < to;
        return;
    }
    arrange(&room, memory, n, width);
    for (int64_t group = from; group < to; group++) {
        int64_t picture = group / job->h, head = group % job->h, place = picture * job->picture + head * job->head;
        words_across(room.keys_across, job->k + place, job->token, n, padded, width);
        words_across(room.values_across, job->v + place, job->token, n, padded, width);
        words_down(room.keys_down, job->k + place, job->token, n, padded, width);
        for (int64_t i = 0; i < up(n, ROWS) * width; i++)
            room.dkeys[i] = room.dvalues[i] = 0.0f;
        for (int64_t first = 0; first < n; first += BLOCK)
            block(job, &room, picture, head, first);
        for (int64_t i = 0; i < n; i++) {
            narrow(job->dk + place + i * job->token, room.dkeys + i * width, width);
            narrow(job->dv + place + i * job->token, room.dvalues + i * width, width);
        }
    }
    free(memory);
}

/* 0, or 1 where there was no memory. */
int vitkit_attention_backward(struct gradients *job, int threads)
{
    together(share, job, threads);
    return job->failed;
}
#else
int vitkit_attention_backward(struct gradients *job, int threads)
{
    (void)job, (void)threads;
    return 1;
}
#endif
