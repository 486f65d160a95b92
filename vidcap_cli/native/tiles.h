/* Matrix registers: what the products of weights (tiles.c) and of attention share. */
#ifndef VIDCAP_TILES_H
#define VIDCAP_TILES_H

#include "product.h"

#if defined(__AMX_BF16__) && LANES == 16
#define TILES 1
#else
#define TILES 0
#endif

#define TILE 1024    /* bytes of a register: 16 rows of 32 numbers, or 32 of them of 16 rows of W */
#define TILE_ROWS 16 /* of x in a tile */
#define STEP 32      /* numbers of a row in a tile */
#define SUMS 256     /* floats in a tile */
#define ROW_TILES(rows) parts_of(rows, TILE_ROWS)

/* Whether the processor has matrix registers, and lets this process use them. */
bool tiles_usable(void);

/* y = x W^T of many rows of x. Weights of 16 bits only. */
void multiply_by_tiles(const product *p);

/* Before ``multiply_tiles``, and after it. */
void take_tiles(void);
void release_tiles(void);

/* y (+)= x W^T of one or two panels of W, all in tiles. Of x, each step, ``next_step`` bytes from the
 * next, is a tile of its high and, if it is ``in_parts``, one of its low parts; ``next_rows`` bytes on
 * are the next 16 rows. Of W, ``next`` bytes on is the next panel, ``low`` bytes on are its low parts,
 * if it has any: they are left out when those of x are. Of y, ``more`` floats on are the next 16 rows.
 */
void multiply_tiles(
    const char *x, int64_t tiles, int64_t next_step, int64_t next_rows, const char *w, int panels,
    int64_t next, int64_t low, int64_t steps, float *y, int64_t more, bool add, bool in_parts);

/* 16 numbers and 16 more, side by side in 32 bits: what they round to in bfloat16 as ``high``, what
 * that leaves as ``low``. */
INLINE void split_pairs(vec first, vec second, void *high, void *low)
{
    const ivec half = (ivec){0} + 0x8000, upper = (ivec){0} + (int32_t)0xffff0000;
    const ivec one = ((ivec)first + half) & upper, two = ((ivec)second + half) & upper;
    const ivec left = (ivec)(first - (vec)one) + half, more = (ivec)(second - (vec)two) + half;
    const ivec highs = two | (one >> 16 & 0xffff), lows = (more & upper) | (left >> 16 & 0xffff);
    memcpy(high, &highs, sizeof highs);
    memcpy(low, &lows, sizeof lows);
}

#endif
