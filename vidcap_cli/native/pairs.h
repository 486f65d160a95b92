/* Products of pairs of bfloat16 numbers (pairs.c). */
#ifndef VIDCAP_PAIRS_H
#define VIDCAP_PAIRS_H

#include "product.h"

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__) && LANES == 16
#define PAIRS 1
#else
#define PAIRS 0
#endif

#define STRIP 12 /* rows of x: their sums with two panels have registers */
#define MOST_WIDE 4 /* panels that meet a strip at once */
#define FETCH_PAIRS 256 /* bytes, into the first cache: product.c says why */
/* Bytes, into the second cache, for strips that compute about as long as memory takes: beyond the page
 * of 4,096 in which the processor fetches ahead by itself, so that it goes on there (Zen 4, measured). */
#define FETCH_FAR 6144
#define STRIPS(rows) parts_of(rows, STRIP)

/* y = x W^T of rows of x that are rounded to bfloat16. Weights of bfloat16 only. */
void multiply_by_pairs(const product *p);

/* 16 numbers and the 16 that follow, rounded, one after the other. */
INLINE void round_pairs(vec first, vec second, void *to)
{
#if PAIRS
    const __m512bh numbers = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    memcpy(to, &numbers, sizeof numbers);
#endif
}

/* ``total`` and the products of 16 pairs with 16 others, each pair's two together. */
INLINE vec dot_pairs(vec total, vec a, vec b)
{
#if PAIRS
    return (vec)_mm512_dpbf16_ps((__m512)total, (__m512bh)a, (__m512bh)b);
#else
    (void)a, (void)b;
    return total;
#endif
}

/* A pair as often as there are lanes. */
INLINE vec splat_pair(const void *pair)
{
    int32_t bits;
    memcpy(&bits, pair, sizeof bits);
    return (vec)((ivec){0} + bits);
}

/* 32 numbers of bfloat16 and 32 others as pairs of one of each: those of the lower four of each eight
 * numbers, then those of the upper four. */
INLINE void interleave(const void *first, const void *second, vec pairs[2])
{
#if PAIRS
    const __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(second);
    pairs[0] = (vec)_mm512_unpacklo_epi16(a, b);
    pairs[1] = (vec)_mm512_unpackhi_epi16(a, b);
#endif
}

#if PAIRS

/* 16 numbers, of which ``count`` are there, rounded; zeros for the others. */
INLINE __m256i round_numbers(const float *x, int64_t count)
{
    const __mmask16 there = count >= 16 ? 0xffff : count > 0 ? (1 << count) - 1 : 0;
    return (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(there, x));
}

#endif

/* ``count`` numbers of a row, then zeros to ``pairs`` of them. */
INLINE void round_row(const float *x, int64_t count, int32_t *to, int64_t pairs)
{
#if PAIRS
    for (int64_t i = 0; i < pairs; i += 8) {
        const __m256i some = round_numbers(x + 2 * i, count - 2 * i);
        if (pairs - i >= 8)
            memcpy(to + i, &some, sizeof some);
        else
            memcpy(to + i, &some, (size_t)(pairs - i) * 4);
    }
#endif
}

#if PAIRS

/* y [rows, 16 panels] (+)= x W^T of so many panels of so many pairs. Rows of x are ``next_row`` pairs
 * apart, panels ``next`` bytes, rows of y ``stride`` floats. Meanwhile what follows
 * of W is fetched if this comes from memory; else the next rows of x and, into the second cache, what is
 * needed ``soon``. */
INLINE void multiply_strip(
    const int rows, const int panels, const bool from_memory, const int32_t *x, const int64_t next_row,
    const char *w, int64_t next, const char *soon, int64_t pairs, float *y, int64_t stride, bool add)
{
    __m512 sums[MOST_WIDE][STRIP];
    for (int p = 0; p < panels; p++)
        for (int r = 0; r < rows; r++)
            sums[p][r] = add ? _mm512_loadu_ps(y + r * stride + p * PANEL) : _mm512_setzero_ps();
    const int32_t *ahead = x + rows * next_row;
    for (int64_t i = 0; i < pairs; i++, x++, ahead += rows, w += PANEL * 4) {
        __m512i numbers[MOST_WIDE];
        if (!from_memory) {
            __builtin_prefetch(ahead);
            __builtin_prefetch(soon + i * PANEL * 4, 0, 2);
        }
        for (int p = 0; p < panels; p++) {
            if (from_memory)
                __builtin_prefetch(w + p * next + FETCH_PAIRS, 0, 3);
            if (from_memory && panels == 2) /* at the end of these, what the next begin with */
                __builtin_prefetch(
                    w + p * next + FETCH_FAR + (i + FETCH_FAR / (PANEL * 4) < pairs ? 0 : next), 0, 2);
            numbers[p] = _mm512_loadu_si512(w + p * next);
        }
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < panels; p++)
                sums[p][r] = _mm512_dpbf16_ps(
                    sums[p][r], (__m512bh)numbers[p], (__m512bh)_mm512_set1_epi32(x[r * next_row]));
    }
    for (int p = 0; p < panels; p++)
        for (int r = 0; r < rows; r++)
            _mm512_storeu_ps(y + r * stride + p * PANEL, sums[p][r]);
}

#endif

#endif
