/* Products in bfloat16 on processors that multiply pairs of such numbers (AVX512-BF16, Intel's
 * Architecture Instruction Set Extensions Programming Reference; AMD from Zen 4 on), where they have
 * no matrix registers.
 *
 * A pair is half the work of two float32 numbers, or less: it needs no widening. Rows are rounded for
 * it, so this is for when they are to be (``round_rows``), and then for any number of them: what a row
 * becomes does not depend on those beside it. Weights are kept as pairs (product.c): a load is those
 * of 16 rows of W, and meets a pair of each of a strip of rows of x.
 */
#include "pairs.h"

#if PAIRS

#define BLOCK_PAIRS 256 /* of a row at a time: x of a block of rows, and the sums of these, */
#define BLOCK_ROWS 240  /* stay in the second cache; whole strips */
#define MOST_PANELS 16  /* in an item of work */
#define MOST_ROWS 1920  /* that are rounded at a time: this bounds the memory it takes */
#define FEW_ROWS (4 * STRIP) /* so few read W once, from memory, and all of its depth at a time */

typedef struct {
    const product *p;
    int32_t *rounded; /* [blocks][strips][strip][block] */
    int64_t row, rows, rows_at_once, panels_at_once;
    int64_t strip, block; /* rows of a strip, pairs of a block */
} job;

/* As many rows for each of as few parts as have no more than ``most``. */
INLINE int64_t even_parts(int64_t rows, int64_t most)
{
    return parts_of(rows, parts_of(rows, most));
}

INLINE int64_t blocks_of(const job *j)
{
    return parts_of(j->p->depth / 2, j->block);
}

INLINE int64_t pairs_of(const job *j, int64_t block)
{
    return least(j->p->depth / 2 - block * j->block, j->block);
}

/* Where a strip's pairs of a block are. */
INLINE int32_t *strip_of(const job *j, int64_t block, int64_t strip)
{
    return j->rounded + (block * parts_of(j->rows, j->strip) + strip) * j->strip * j->block;
}

/* Rows wait for W less with more panels at once; their sums have registers. */
#define PANELS_FOR(rows) ((rows) <= 6 ? 4 : 2)

#define STRIP_OF(rows)                                                                             \
    static void strip_##rows(                                                                      \
        int64_t panels, bool from_memory, const int32_t *x, int64_t next_row, const char *w,       \
        int64_t next, int64_t pairs, float *y, int64_t stride, bool add)                           \
    {                                                                                              \
        if (panels == 1)                                                                           \
            multiply_strip(rows, 1, true, x, next_row, w, 0, pairs, y, stride, add);               \
        else if (from_memory)                                                                      \
            multiply_strip(                                                                        \
                rows, PANELS_FOR(rows), true, x, next_row, w, next, pairs, y, stride, add);        \
        else                                                                                       \
            multiply_strip(                                                                        \
                rows, PANELS_FOR(rows), false, x, next_row, w, next, pairs, y, stride, add);       \
    }

STRIP_OF(1) STRIP_OF(2) STRIP_OF(3) STRIP_OF(4) STRIP_OF(5) STRIP_OF(6)
STRIP_OF(7) STRIP_OF(8) STRIP_OF(9) STRIP_OF(10) STRIP_OF(11) STRIP_OF(12)

typedef void strip_function(
    int64_t, bool, const int32_t *, int64_t, const char *, int64_t, int64_t, float *, int64_t, bool);

static strip_function *const strips[STRIP + 1] = {
    0,       strip_1, strip_2, strip_3, strip_4,  strip_5,  strip_6,
    strip_7, strip_8, strip_9, strip_10, strip_11, strip_12,
};

/* A strip of x, rounded; zeros for rows and numbers that it lacks. */
static void round_strip(void *context, int64_t strip)
{
    const job *j = context;
    const product *p = j->p;
    for (int64_t r = 0; r < j->strip; r++) {
        const int64_t row = strip * j->strip + r;
        const float *x = p->x + (j->row + row) * p->k;
        for (int64_t block = 0; block < blocks_of(j); block++) {
            const int64_t start = block * j->block * 2;
            int32_t *to = strip_of(j, block, strip) + r * j->block;
            round_row(x + start, row < j->rows ? p->k - start : 0, to, pairs_of(j, block));
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
    const job *j, const char *w, int64_t row, int64_t rows, int64_t panel, int64_t panels, float *y,
    char *filled)
{
    const product *p = j->p;
    const int64_t stride = panels * PANEL, wide = PANELS_FOR(j->strip);
    for (int64_t block = 0; block < blocks_of(j); block++) {
        const int64_t start = block * j->block, pairs = pairs_of(j, block);
        for (int64_t i = 0, count; i < panels; i += count) {
            const int64_t there = least(p->n - (panel + i) * PANEL, PANEL);
            const char *here = w + ((panel + i) * PANEL * p->depth / 2 + start * there) * 4;
            count = i + wide <= panels && (panel + i + wide) * PANEL <= p->n ? wide : 1;
            if (there < PANEL) {
                fill_panel(filled, here, there, pairs);
                here = filled;
            }
            for (int64_t strip = 0; strip < parts_of(rows, j->strip); strip++)
                strips[j->strip](
                    count, p->m <= FEW_ROWS && !strip, strip_of(j, block, row / j->strip + strip), j->block, here,
                    PANEL * p->depth * 2, pairs, y + strip * j->strip * stride + i * PANEL, stride,
                    block > 0);
        }
    }
}

/* Some panels for a block of rows. */
static void multiply_block(void *context, int64_t index)
{
    const job *j = context;
    const product *p = j->p;
    const int64_t blocks = parts_of(j->rows, j->rows_at_once);
    const int64_t row = index % blocks * j->rows_at_once;
    const int64_t panel = index / blocks * j->panels_at_once;
    const int64_t rows = least(j->rows - row, j->rows_at_once);
    const int64_t panels = least(parts_of(p->n, PANEL) - panel, j->panels_at_once);
    const int64_t floats = parts_of(rows, j->strip) * j->strip * panels * PANEL;
    float *sums = scratch(OWN, 2 * floats + j->block * PANEL), *up = sums + floats;
    char *const filled = (char *)(up + floats);
    multiply_rows(j, p->w[0], row, rows, panel, panels, sums, filled);
    if (p->w[1])
        multiply_rows(j, p->w[1], row, rows, panel, panels, up, filled);
    finish(p, j->row + row, rows, panel, panels, sums, up, panels * PANEL, PANEL);
}

void multiply_by_pairs(const product *p)
{
    const int64_t panels = parts_of(p->n, PANEL), at_once = even_parts(p->m, MOST_ROWS);
    const bool few = p->m <= FEW_ROWS;
    for (int64_t row = 0; row < p->m; row += at_once) {
        job j = {.p = p, .row = row, .rows = least(p->m - row, at_once)};
        j.strip = even_parts(j.rows, STRIP);
        j.block = few ? parts_of(p->depth / 2, 8) * 8 : BLOCK_PAIRS;
        j.rows_at_once = parts_of(even_parts(j.rows, BLOCK_ROWS), j.strip) * j.strip;
        const int64_t strips = parts_of(j.rows, j.strip), blocks = parts_of(j.rows, j.rows_at_once);
        j.rounded = (int32_t *)scratch(SHARED, blocks_of(&j) * strips * j.strip * j.block);
        parallel(round_strip, &j, strips);
        /* Few enough that threads come to an end together, and as many as meet a strip, or some
         * times that. */
        const int64_t wide = PANELS_FOR(j.strip), share = panels * blocks / (5 * threads());
        const int64_t most = few ? share : least(share, MOST_PANELS);
        j.panels_at_once = most < wide ? wide : most / wide * wide;
        parallel(multiply_block, &j, parts_of(panels, j.panels_at_once) * blocks);
    }
}

#else

void multiply_by_pairs(const product *p)
{
    (void)p;
}

#endif
