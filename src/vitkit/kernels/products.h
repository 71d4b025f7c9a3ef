/* Shared code of the attention kernels: packing of pairs, matrix products, exponentials.

   A pair is two adjacent bfloat16 values in 32 bits. A matrix product takes rows of pairs, dense along the summed axis,
   and columns packed as [pair][column]. pack_across and pack_down create such columns. */

#include <stdint.h>
#include <stdlib.h>
#include <immintrin.h>
#include "threads.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define INLINE static inline __attribute__((always_inline)) TARGET
enum { ROWS = 6, VECTOR = 16, WIDE = 4 };

/* Transposes 16 rows of 16 pairs. */
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

/* to[pair][token]: a pair is two adjacent channels of a token; tokens from n to padded are zero. */
TARGET static void pack_across(uint32_t *to, const uint16_t *x, int64_t token, int64_t n, int64_t padded, int64_t width)
{
    for (int64_t first = 0; first < padded; first += VECTOR)
        for (int64_t pair = 0; pair < width / 2; pair += VECTOR) {
            int64_t pairs = width / 2 - pair < VECTOR ? width / 2 - pair : VECTOR;
            __m512i r[16];
            for (int i = 0; i < 16; i++)
                r[i] = first + i < n ? _mm512_maskz_loadu_epi32((__mmask16)((1u << pairs) - 1),
                                                               x + (first + i) * token + 2 * pair)
                                     : _mm512_setzero_si512();
            transpose(r);
            for (int64_t i = 0; i < pairs; i++)
                _mm512_storeu_si512(to + (pair + i) * padded + first, r[i]);
        }
}

/* to[pair][channel]: a pair is one channel of two adjacent tokens; tokens from n to padded are zero. */
TARGET static void pack_down(uint32_t *to, const uint16_t *x, int64_t token, int64_t n, int64_t padded, int64_t width)
{
    for (int64_t row = 0; row < padded; row += 2)
        for (int64_t channel = 0; channel < width; channel += VECTOR) {
            __m256i zero = _mm256_setzero_si256();
            __m256i a = row < n ? _mm256_loadu_si256((const __m256i *)(x + row * token + channel)) : zero;
            __m256i b = row + 1 < n ? _mm256_loadu_si256((const __m256i *)(x + (row + 1) * token + channel)) : zero;
            __m512i pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
            _mm512_storeu_si512(to + row / 2 * width + channel, pairs);
        }
}

/* Multiplies six rows of pairs with `wide` vectors of packed columns. */
INLINE void product(float *out, int64_t out_row, const uint32_t *const rows[ROWS], const uint32_t *columns,
                    int64_t column_row, int64_t pairs, const int wide, const int add)
{
    __m512 sum[ROWS][WIDE];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < wide; j++)
            sum[i][j] = add ? _mm512_loadu_ps(out + i * out_row + j * VECTOR) : _mm512_setzero_ps();
    for (int64_t p = 0; p < pairs; p++) {
        __m512bh right[WIDE];
        for (int j = 0; j < wide; j++)
            right[j] = (__m512bh)_mm512_loadu_si512(columns + p * column_row + j * VECTOR);
        for (int i = 0; i < ROWS; i++) {
            __m512bh left = (__m512bh)_mm512_set1_epi32((int)rows[i][p]);
            for (int j = 0; j < wide; j++)
                sum[i][j] = _mm512_dpbf16_ps(sum[i][j], left, right[j]);
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < wide; j++)
            _mm512_storeu_ps(out + i * out_row + j * VECTOR, sum[i][j]);
}

INLINE void products(float *out, int64_t out_row, const uint32_t *const rows[ROWS], const uint32_t *columns,
                            int64_t width, int64_t pairs, const int add)
{
    int64_t at = 0;
    for (; at + WIDE * VECTOR <= width; at += WIDE * VECTOR)
        product(out + at, out_row, rows, columns + at, width, pairs, WIDE, add);
    switch ((width - at) / VECTOR) {
    case 3: product(out + at, out_row, rows, columns + at, width, pairs, 3, add); break;
    case 2: product(out + at, out_row, rows, columns + at, width, pairs, 2, add); break;
    case 1: product(out + at, out_row, rows, columns + at, width, pairs, 1, add); break;
    }
}

/* 2^x for x <= 0 with an error of 4e-6: a polynomial of the fractional part, scaled by 2^floor(x). */
INLINE __m512 exp2_below(__m512 x)
{
    x = _mm512_max_ps(x, _mm512_set1_ps(-126.0f));
    __m512 integer = _mm512_roundscale_ps(x, 8);
    __m512 fraction = _mm512_sub_ps(x, integer);
    __m512 y = _mm512_set1_ps(9.618129e-3f);
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(5.550411e-2f));
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(2.402265e-1f));
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(6.931472e-1f));
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, integer);
}
