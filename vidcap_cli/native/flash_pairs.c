/* The products of attention in pairs of bfloat16 (pairs.c): queries, keys, weights and values are
 * rounded.
 */
#include "flash.h"
#include "pairs.h"

#if PAIRS

#define PAIRS_OF(n) (((n) + 1) / 2)
#define QUERY (MOST_HEAD_DIM / 2) /* from a query to the next; a multiple of 8 */

/* Of a head: panels of 16 keys by pairs of their numbers, then panels of 16 numbers of the values by
 * pairs of tokens. */
INLINE int64_t tokens_of(const flash *p)
{
    return PANELS_OF(p->keys) * PANEL;
}

INLINE int32_t *values_of(const flash *p, const float *packed)
{
    return (int32_t *)packed + tokens_of(p) * PAIRS_OF(p->head_dim);
}

static int64_t packed_floats(const flash *p)
{
    return tokens_of(p) * (PAIRS_OF(p->head_dim) + PANELS_OF(p->head_dim) * PANEL / 2);
}

/* Numbers of two rows, side by side. */
INLINE __m512i both(const float *first, int64_t count, const float *second, int64_t more)
{
    const __m512i low = _mm512_cvtepu16_epi32(round_numbers(first, count));
    const __m512i high = _mm512_cvtepu16_epi32(round_numbers(second, more));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

static void pack(const flash *p, const float *k, const float *v, int64_t start, float *packed)
{
    const int64_t end = least(start + PACKED, tokens_of(p));
    const int64_t depth = PAIRS_OF(p->head_dim);
    for (int64_t token = start; token < end; token++) {
        int32_t *to = (int32_t *)packed + token / PANEL * PANEL * depth + token % PANEL, key[QUERY];
        round_row(k + (token - start) * p->next_key, token < p->keys ? p->head_dim : 0, key, depth);
        for (int64_t pair = 0; pair < depth; pair++)
            to[pair * PANEL] = key[pair];
    }
    for (int64_t token = start; token < end; token += 2) {
        const float *value = v + (token - start) * p->next_value;
        int32_t *to = values_of(p, packed) + token / 2 * PANEL;
        for (int64_t i = 0; i < p->head_dim; i += PANEL, to += tokens_of(p) / 2 * PANEL) {
            const int64_t count = p->head_dim - i;
            _mm512_storeu_si512(
                to, both(
                        value + i, token < p->keys ? count : 0, value + p->next_value + i,
                        token + 1 < p->keys ? count : 0));
        }
    }
}

static void pack_queries(const flash *p, const float *q, int64_t rows, float by, float *queries)
{
    for (int64_t row = 0; row < STRIPS(rows) * STRIP; row++, q += p->next_query) {
        const int64_t count = row < rows ? p->head_dim : 0;
        float scaled[MOST_HEAD_DIM];
        for (int64_t i = 0; i < p->head_dim; i += PANEL)
            __builtin_prefetch(q + ROWS_AHEAD * p->next_query + i, 0, 3);
        for (int64_t i = 0; i < count; i++)
            scaled[i] = q[i] * by;
        round_row(scaled, count, (int32_t *)queries + row * QUERY, PAIRS_OF(p->head_dim));
    }
}

/* y [rows, 16 panels] (+)= x W^T of so many pairs; panels of W are ``size`` bytes. */
INLINE void multiply_pairs(
    const float *rounded_rows, const int64_t next_row, int64_t rows, const char *w, int64_t size,
    int64_t panels, int64_t pairs, float *y, int64_t stride, bool add)
{
    for (int64_t i = 0; i < panels; i += 2, w += 2 * size)
        for (int64_t strip = 0; strip < STRIPS(rows); strip++) {
            const int32_t *x = (const int32_t *)rounded_rows + strip * STRIP * next_row;
            float *to = y + strip * STRIP * stride + i * PANEL;
            if (i + 1 < panels)
                multiply_strip(STRIP, 2, false, x, next_row, w, size, w, pairs, to, stride, add);
            else
                multiply_strip(STRIP, 1, false, x, next_row, w, 0, w, pairs, to, stride, add);
        }
}

static void score(
    const flash *p, const float *queries, int64_t rows, const float *packed, int64_t start,
    int64_t panels, float *scores)
{
    const int64_t depth = PAIRS_OF(p->head_dim), size = PANEL * depth * 4;
    const char *keys = (const char *)packed + start / PANEL * size;
    multiply_pairs(queries, QUERY, rows, keys, size, panels, depth, scores, KEYS, false);
}

static void weigh(
    const flash *p, const float *weights, int64_t rows, const float *packed, int64_t start,
    int64_t panels, float *sums, bool add)
{
    const int64_t columns = PANELS_OF(p->head_dim), size = tokens_of(p) * PANEL * 2;
    const char *values = (const char *)(values_of(p, packed) + start / 2 * PANEL);
    multiply_pairs(
        weights, KEYS, rows, values, size, columns, panels * PANEL / 2, sums, columns * PANEL, add);
}

const products on_pairs = {MOST_QUERIES, IN_PAIRS, packed_floats, pack, pack_queries, score, weigh};

#else

const products on_pairs = {0};

#endif
