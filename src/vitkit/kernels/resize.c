/* Resizes RGB pixels bitwise as Pillow does: one pass per axis, fixed-point weights with 22 fractional bits, and 8-bit
   values between the passes. Only pixels inside the crop window are computed. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct resize {
    const uint8_t *in; /* (rows, columns, 3), dense */
    uint8_t *out; /* (crop_rows, crop_columns, 3), dense */
    int64_t rows, columns, to_rows, to_columns;
    int64_t top, left, crop_rows, crop_columns; /* the crop window of the resized image */
    int32_t cubic; /* the filter: bicubic, else bilinear */
    int32_t rows_first; /* the vertical pass comes before the horizontal one */
};

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))
enum { BITS = 22, CHANNELS = 3, SPARE = 16 };

/* Filter taps of `count` output pixels along one axis: the first input pixel, the number of taps, and their weights. */
struct taps {
    int64_t count, max_taps;
    int64_t *first, *used;
    int32_t *weights; /* (count, max_taps) */
};

static double filter(double x, int cubic)
{
    x = x < 0 ? -x : x;
    if (!cubic)
        return x < 1 ? 1 - x : 0;
    const double a = -0.5;
    if (x < 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

static void free_taps(struct taps *taps)
{
    free(taps->first);
    free(taps->used);
    free(taps->weights);
}

/* Computes the taps of `count` output pixels from `start`, for an axis of `length` pixels resized to `to`. Returns 0 if
   an allocation failed. */
static int compute_taps(struct taps *taps, int64_t length, int64_t to, int64_t start, int64_t count, int cubic)
{
    double scale = (double)length / (double)to, wide = scale < 1 ? 1 : scale;
    double support = (cubic ? 2.0 : 1.0) * wide, narrow = 1.0 / wide;
    taps->count = count;
    taps->max_taps = ((int64_t)support + 1) * 2 + 1;
    taps->first = malloc((size_t)count * sizeof *taps->first);
    taps->used = malloc((size_t)count * sizeof *taps->used);
    taps->weights = malloc((size_t)(count * taps->max_taps) * sizeof *taps->weights);
    double *exact = malloc((size_t)taps->max_taps * sizeof *exact);
    int allocated = taps->first && taps->used && taps->weights && exact;
    for (int64_t index = 0; allocated && index < count; index++) {
        double center = ((double)(start + index) + 0.5) * scale, sum = 0;
        int64_t low = (int64_t)(center - support + 0.5), high = (int64_t)(center + support + 0.5);
        low = low < 0 ? 0 : low;
        high = high > length ? length : high;
        for (int64_t at = low; at < high; at++)
            sum += exact[at - low] = filter(((double)at - center + 0.5) * narrow, cubic);
        for (int64_t at = 0; at < high - low; at++) {
            double weight = (sum != 0 ? exact[at] / sum : exact[at]) * (1 << BITS);
            taps->weights[index * taps->max_taps + at] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
        }
        taps->first[index] = low;
        taps->used[index] = high - low;
    }
    free(exact);
    return allocated;
}

static uint8_t clamp_pixel(int32_t sum)
{
    sum >>= BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* Resizes one row horizontally; `from` has SPARE bytes after its last pixel. */
TARGET static void across(uint8_t *to, const uint8_t *from, const struct taps *taps)
{
    for (int64_t index = 0; index < taps->count; index++) {
        const uint8_t *pixel = from + taps->first[index] * CHANNELS;
        const int32_t *weights = taps->weights + index * taps->max_taps;
        __m128i sum = _mm_set1_epi32(1 << (BITS - 1));
        for (int64_t at = 0; at < taps->used[index]; at++, pixel += CHANNELS) {
            int32_t bytes;
            memcpy(&bytes, pixel, 4);
            __m128i values = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes));
            sum = _mm_add_epi32(sum, _mm_mullo_epi32(values, _mm_set1_epi32(weights[at])));
        }
        sum = _mm_srai_epi32(sum, BITS);
        sum = _mm_packus_epi16(_mm_packs_epi32(sum, sum), sum);
        int32_t pixel_bytes = _mm_cvtsi128_si32(sum);
        memcpy(to + index * CHANNELS, &pixel_bytes, CHANNELS);
    }
}

/* Computes one output row of `bytes` values from `used` input rows, which are `stride` bytes apart. */
TARGET static void down(uint8_t *to, const uint8_t *from, int64_t stride, const int32_t *weights, int64_t used,
                        int64_t bytes)
{
    int64_t at = 0;
    for (; at + 32 <= bytes; at += 32) {
        __m256i sum[4];
        for (int i = 0; i < 4; i++)
            sum[i] = _mm256_set1_epi32(1 << (BITS - 1));
        for (int64_t tap = 0; tap < used; tap++) {
            const uint8_t *row = from + tap * stride + at;
            __m256i weight = _mm256_set1_epi32(weights[tap]);
            for (int i = 0; i < 4; i++) {
                __m256i values = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(row + 8 * i)));
                sum[i] = _mm256_add_epi32(sum[i], _mm256_mullo_epi32(values, weight));
            }
        }
        for (int i = 0; i < 4; i++)
            sum[i] = _mm256_srai_epi32(sum[i], BITS);
        __m256i low = _mm256_packs_epi32(sum[0], sum[1]), high = _mm256_packs_epi32(sum[2], sum[3]);
        /* The pack instructions work on halves of a vector: restore the order of its quarters. */
        __m256i all = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)(to + at), all);
    }
    for (; at < bytes; at++) {
        int32_t sum = 1 << (BITS - 1);
        for (int64_t tap = 0; tap < used; tap++)
            sum += from[tap * stride + at] * weights[tap];
        to[at] = clamp_pixel(sum);
    }
}

/* The range of input pixels that any output pixel needs. */
static void input_range(const struct taps *taps, int64_t *low, int64_t *high)
{
    *low = taps->first[0];
    *high = taps->first[taps->count - 1] + taps->used[taps->count - 1];
}

int vitkit_resize_runs(void)
{
    return __builtin_cpu_supports("avx2") != 0;
}

/* Returns 0, or 1 if an allocation failed. */
int vitkit_resize(struct resize *job)
{
    struct taps columns = {0}, rows = {0};
    uint8_t *between = NULL, *row = NULL;
    int failed = 1;
    int64_t wide = job->columns * CHANNELS, crop = job->crop_columns * CHANNELS, low, high;
    if (!compute_taps(&columns, job->columns, job->to_columns, job->left, job->crop_columns, job->cubic) ||
        !compute_taps(&rows, job->rows, job->to_rows, job->top, job->crop_rows, job->cubic))
        goto end;
    row = calloc((size_t)(wide + SPARE), 1);
    if (!row)
        goto end;
    if (job->rows_first) {
        input_range(&columns, &low, &high);
        int64_t bytes = (high - low) * CHANNELS;
        for (int64_t index = 0; index < columns.count; index++)
            columns.first[index] -= low;
        for (int64_t at = 0; at < job->crop_rows; at++) {
            const uint8_t *from = job->in + rows.first[at] * wide + low * CHANNELS;
            down(row, from, wide, rows.weights + at * rows.max_taps, rows.used[at], bytes);
            across(job->out + at * crop, row, &columns);
        }
    } else {
        input_range(&rows, &low, &high);
        between = malloc((size_t)((high - low) * crop));
        if (!between)
            goto end;
        for (int64_t at = low; at < high; at++) {
            memcpy(row, job->in + at * wide, (size_t)wide);
            across(between + (at - low) * crop, row, &columns);
        }
        for (int64_t at = 0; at < job->crop_rows; at++)
            down(job->out + at * crop, between + (rows.first[at] - low) * crop, crop, rows.weights + at * rows.max_taps,
                 rows.used[at], crop);
    }
    failed = 0;
end:
    free_taps(&columns);
    free_taps(&rows);
    free(between);
    free(row);
    return failed;
}
#else
int vitkit_resize_runs(void)
{
    return 0;
}

int vitkit_resize(struct resize *job)
{
    (void)job;
    return 1;
}
#endif
