/* The products of attention on matrix registers: queries, keys, weights and values are each two of
 * bfloat16, what they round to and what that leaves (tiles.c).
 */
#include "flash.h"
#include "tiles.h"

#if TILES

#define QUERIES 32
#define STEPS_OF(n) parts_of(n, STEP)

/* Of a head: panels of 16 keys, each the tiles of its high parts, then those of its low parts; then
 * panels of 16 numbers of the values in the same way. */
INLINE int64_t key_panel(const flash *p)
{
    return 2 * STEPS_OF(p->head_dim) * TILE;
}

INLINE int64_t value_panel(const flash *p)
{
    return 2 * STEPS_OF(p->keys) * TILE;
}

INLINE char *values_of(const flash *p, const float *packed)
{
    return (char *)packed + STEPS_OF(p->keys) * 2 * key_panel(p);
}

static int64_t packed_floats(const flash *p)
{
    return (STEPS_OF(p->keys) * 2 * key_panel(p) + PANELS_OF(p->head_dim) * value_panel(p)) / 4;
}

/* 16 numbers, of which ``count`` are there. */
INLINE vec some(const float *from, int64_t count)
{
    return (vec)_mm512_maskz_loadu_ps(count >= 16 ? 0xffff : count > 0 ? (1 << count) - 1 : 0, from);
}

/* A step of depth is in the order 0, 16, 1, 17, ... everywhere. */
static void pack(const flash *p, const float *k, const float *v, int64_t start, float *packed)
{
    const int64_t depth = STEPS_OF(p->head_dim);
    const __m512i column = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
        _mm512_set1_epi32(PANEL));
    for (int64_t token = start; token < start + PACKED; token++) {
        char *to = (char *)packed + token / PANEL * key_panel(p) + token % PANEL * 4;
        const float *from = k + (token - start) * p->next_key;
        for (int64_t step = 0; step < depth; step++, to += TILE, from += STEP) {
            const int64_t count = token < p->keys ? p->head_dim - step * STEP : 0;
            __m512i parts[2];
            split_pairs(some(from, count), some(from + 16, count - 16), parts, parts + 1);
            _mm512_i32scatter_epi32(to, column, parts[0], 4);
            _mm512_i32scatter_epi32(to + depth * TILE, column, parts[1], 4);
        }
    }
    for (int64_t token = start; token < start + 16; token++) {
        const float *from = v + (token - start) * p->next_value, *more = from + 16 * p->next_value;
        char *to = values_of(p, packed) + start / STEP * TILE + (token - start) * PANEL * 4;
        for (int64_t i = 0; i < p->head_dim; i += PANEL, to += value_panel(p)) {
            const int64_t count = p->head_dim - i;
            split_pairs(
                some(from + i, token < p->keys ? count : 0),
                some(more + i, token + 16 < p->keys ? count : 0), to,
                to + STEPS_OF(p->keys) * TILE);
        }
    }
}

static void pack_queries(const flash *p, const float *q, int64_t rows, float by, float *queries)
{
    const int64_t depth = STEPS_OF(p->head_dim);
    for (int64_t row = 0; row < ROW_TILES(rows) * TILE_ROWS; row++, q += p->next_query) {
        char *to = (char *)queries + row / TILE_ROWS * depth * 2 * TILE + row % TILE_ROWS * STEP * 2;
        for (int64_t step = 0; step < depth; step++, to += 2 * TILE) {
            const int64_t count = row < rows ? p->head_dim - step * STEP : 0;
            const float *from = q + step * STEP;
            split_pairs(
                some(from, count) * by, some(from + 16, count - 16) * by, to, to + TILE);
        }
    }
}

static void score(
    const flash *p, const float *queries, int64_t rows, const float *packed, int64_t start,
    int64_t panels, float *scores)
{
    const int64_t depth = STEPS_OF(p->head_dim);
    const char *keys = (const char *)packed + start / PANEL * key_panel(p);
    take_tiles();
    for (int64_t i = 0; i < panels; i += 2)
        multiply_tiles(
            (const char *)queries, ROW_TILES(rows), 2 * TILE, depth * 2 * TILE, keys + i * key_panel(p),
            (int)least(panels - i, 2), key_panel(p), depth * TILE, depth, scores + i * SUMS,
            KEY_PANELS * SUMS, false, !rounded(p->keys));
    release_tiles();
}

static void weigh(
    const flash *p, const float *weights, int64_t rows, const float *packed, int64_t start,
    int64_t panels, float *sums, bool add)
{
    const int64_t columns = PANELS_OF(p->head_dim);
    const char *values = values_of(p, packed) + start / STEP * TILE;
    take_tiles();
    for (int64_t i = 0; i < columns; i += 2)
        multiply_tiles(
            (const char *)weights, ROW_TILES(rows), 2 * TILE, KEY_PANELS * SUMS * 4,
            values + i * value_panel(p), (int)least(columns - i, 2), value_panel(p),
            STEPS_OF(p->keys) * TILE, (panels + 1) / 2, sums + i * SUMS, columns * SUMS, add,
            !rounded(p->keys));
    release_tiles();
}

const products on_tiles = {
    QUERIES, IN_TILES, packed_floats, pack, pack_queries, score, weigh};

#else

const products on_tiles = {0};

#endif
