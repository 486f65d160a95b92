/* Products of many rows in bfloat16 on processors that multiply pairs of such numbers (AVX512-BF16,
 * Intel's Architecture Instruction Set Extensions Programming Reference; AMD from Zen 4 on), where
 * they have no matrix registers.
 *
 * A pair is half the work of two float32 numbers. Rows are rounded for it, so this is for those that
 * are to be (``rounded``). Weights are kept as pairs (product.c): a load is those of 16 rows of W, and
 * meets a pair of each of some rows of x.
 */
#include "pairs.h"

#if PAIRS

#define BLOCK_PAIRS 256 /* of a row at a time: x of a block of rows, and the sums of these, */
#define BLOCK_ROWS 240  /* stay in the second cache; whole strips */
#define MOST_PANELS 16  /* in an item of work */
#define MOST_ROWS 1920  /* that are rounded at a time: this bounds the memory it takes */

typedef struct {
    const product *p;
    int32_t *rounded; /* [blocks][strips][STRIP][BLOCK_PAIRS] */
    int64_t row, rows, rows_at_once, panels_at_once;
} job;

/* As many rows for each of as few parts as have no more than ``most``, in whole strips. */
INLINE int64_t even_parts(int64_t rows, int64_t most)
{
    const int64_t parts = (rows + most - 1) / most;
    return STRIPS((rows + parts - 1) / parts) * STRIP;
}

INLINE int64_t pair_blocks(const product *p)
{
    return (p->depth / 2 + BLOCK_PAIRS - 1) / BLOCK_PAIRS;
}

INLINE int64_t pairs_of(const product *p, int64_t block)
{
    return least(p->depth / 2 - block * BLOCK_PAIRS, BLOCK_PAIRS);
}

/* Where a strip's pairs of a block are. */
INLINE int32_t *strip_of(const job *j, int64_t block, int64_t strip)
{
    return j->rounded + (block * STRIPS(j->rows) + strip) * STRIP * BLOCK_PAIRS;
}

/* A strip of x, rounded; zeros for rows and numbers that it lacks. */
static void round_strip(void *context, int64_t strip)
{
    const job *j = context;
    const product *p = j->p;
    for (int64_t r = 0; r < STRIP; r++) {
        const int64_t row = strip * STRIP + r;
        const float *x = p->x + (j->row + row) * p->k;
        for (int64_t block = 0; block < pair_blocks(p); block++) {
            const int64_t start = block * BLOCK_PAIRS * 2;
            int32_t *to = strip_of(j, block, strip) + r * BLOCK_PAIRS;
            round_row(x + start, row < j->rows ? p->k - start : 0, to, pairs_of(p, block));
        }
    }
}

/* Some pairs of a panel of ``there`` rows of W as one of 16; zeros for those it lacks. */
static void fill_panel(char *to, const char *w, int64_t there, int64_t pairs)
{
    memset(to, 0, (size_t)pairs * PANEL * 4);
    for (int64_t i = 0; i < pairs; i++)
        memcpy(to + i * PANEL * 4, w + i * there * 4, (size_t)there * 4);
}

/* Sums of a block of rows with some panels of W. */
static void multiply_rows(
    const job *j, const char *w, int64_t row, int64_t rows, int64_t panel, int64_t panels, float *y)
{
    const product *p = j->p;
    const int64_t stride = panels * PANEL;
    for (int64_t block = 0; block < pair_blocks(p); block++) {
        const int64_t start = block * BLOCK_PAIRS, pairs = pairs_of(p, block);
        for (int64_t i = 0, count; i < panels; i += count) {
            const int64_t there = least(p->n - (panel + i) * PANEL, PANEL);
            const char *here = w + ((panel + i) * PANEL * p->depth / 2 + start * there) * 4;
            char filled[BLOCK_PAIRS * PANEL * 4];
            count = i + 2 <= panels && (panel + i + 2) * PANEL <= p->n ? 2 : 1;
            if (there < PANEL) {
                fill_panel(filled, here, there, pairs);
                here = filled;
            }
            for (int64_t strip = 0; strip < STRIPS(rows); strip++) {
                const int32_t *x = strip_of(j, block, row / STRIP + strip);
                float *to = y + strip * STRIP * stride + i * PANEL;
                if (count == 2)
                    multiply_strip(
                        2, x, BLOCK_PAIRS, here, PANEL * p->depth * 2, pairs, to, stride, block > 0);
                else
                    multiply_strip(1, x, BLOCK_PAIRS, here, 0, pairs, to, stride, block > 0);
            }
        }
    }
}

/* Some panels for a block of rows. */
static void multiply_block(void *context, int64_t index)
{
    const job *j = context;
    const product *p = j->p;
    const int64_t blocks = (j->rows + j->rows_at_once - 1) / j->rows_at_once;
    const int64_t row = index % blocks * j->rows_at_once;
    const int64_t panel = index / blocks * j->panels_at_once;
    const int64_t rows = least(j->rows - row, j->rows_at_once);
    const int64_t panels = least((p->n + PANEL - 1) / PANEL - panel, j->panels_at_once);
    const int64_t floats = STRIPS(rows) * STRIP * panels * PANEL;
    float *sums = scratch(OWN, 2 * floats), *up = sums + floats;
    multiply_rows(j, p->w[0], row, rows, panel, panels, sums);
    if (p->w[1])
        multiply_rows(j, p->w[1], row, rows, panel, panels, up);
    finish(p, j->row + row, rows, panel, panels, sums, up, panels * PANEL, PANEL);
}

void multiply_by_pairs(const product *p)
{
    const int64_t panels = (p->n + PANEL - 1) / PANEL;
    const int64_t at_once = even_parts(p->m, MOST_ROWS);
    for (int64_t row = 0; row < p->m; row += at_once) {
        job j = {.p = p, .row = row, .rows = least(p->m - row, at_once)};
        j.rows_at_once = even_parts(j.rows, BLOCK_ROWS);
        const int64_t strips = STRIPS(j.rows), blocks = (j.rows + j.rows_at_once - 1) / j.rows_at_once;
        j.rounded =
            (int32_t *)scratch(SHARED, pair_blocks(p) * strips * BLOCK_PAIRS * STRIP);
        parallel(round_strip, &j, strips);
        /* Few enough that threads come to an end together, and an even number. */
        const int64_t share = panels * blocks / (4 * threads());
        j.panels_at_once = share < 2 ? 2 : least(share & ~1, MOST_PANELS);
        const int64_t groups = (panels + j.panels_at_once - 1) / j.panels_at_once;
        parallel(multiply_block, &j, groups * blocks);
    }
}

#else

void multiply_by_pairs(const product *p)
{
    (void)p;
}

#endif
