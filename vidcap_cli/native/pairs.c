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
#define BLOCK_STRIPS 20 /* stay in the second cache */
#define MOST_PANELS 16  /* in an item of work */
#define MOST_ROWS 1920  /* that are rounded at a time: this bounds the memory it takes */
#define FEW_ROWS (4 * STRIP) /* so few read W once, from memory, and all of its depth at a time */

/* ``rounded``: so many rows of x from ``row`` on, by blocks of their pairs, in each row after row. */
typedef struct {
    const product *p;
    int32_t *rounded;
    int64_t row, rows, block;
    int64_t strip, blocks_of_rows, panels_at_once;
} job;

/* How many pairs a block has that begins at ``start``. */
INLINE int64_t pairs_from(const job *j, int64_t start)
{
    return least(j->p->depth / 2 - start, j->block);
}

/* Where those of a row are. */
INLINE int32_t *pairs_at(const job *j, int64_t row, int64_t start)
{
    return j->rounded + start * j->rows + row * pairs_from(j, start);
}

/* Rows wait for W less with more panels at once; their sums have registers. */
#define PANELS_FOR(rows) ((rows) <= 6 ? 4 : 2)

#define STRIP_OF(rows)                                                                             \
    static void strip_##rows(                                                                      \
        int64_t panels, bool from_memory, const int32_t *x, int64_t next_row, const char *w,       \
        int64_t next, const char *soon, int64_t pairs, float *y, int64_t stride, bool add)         \
    {                                                                                              \
        if (panels == 1)                                                                           \
            multiply_strip(rows, 1, true, x, next_row, w, 0, soon, pairs, y, stride, add);         \
        else if (panels == 2 && from_memory)                                                       \
            multiply_strip(rows, 2, true, x, next_row, w, next, soon, pairs, y, stride, add);      \
        else if (panels == 2)                                                                      \
            multiply_strip(rows, 2, false, x, next_row, w, next, soon, pairs, y, stride, add);     \
        else if (from_memory)                                                                      \
            multiply_strip(                                                                        \
                rows, PANELS_FOR(rows), true, x, next_row, w, next, soon, pairs, y, stride, add);  \
        else                                                                                       \
            multiply_strip(                                                                        \
                rows, PANELS_FOR(rows), false, x, next_row, w, next, soon, pairs, y, stride, add); \
    }

STRIP_OF(1) STRIP_OF(2) STRIP_OF(3) STRIP_OF(4) STRIP_OF(5) STRIP_OF(6)
STRIP_OF(7) STRIP_OF(8) STRIP_OF(9) STRIP_OF(10) STRIP_OF(11) STRIP_OF(12)

typedef void strip_function(
    int64_t, bool, const int32_t *, int64_t, const char *, int64_t, const char *, int64_t, float *,
    int64_t, bool);

static strip_function *const strips[STRIP + 1] = {
    0,       strip_1, strip_2, strip_3, strip_4,  strip_5,  strip_6,
    strip_7, strip_8, strip_9, strip_10, strip_11, strip_12,
};

/* A strip of x, rounded; zeros for numbers that it lacks. */
static void round_strip(void *context, int64_t strip)
{
    const job *j = context;
    const product *p = j->p;
    for (int64_t row = strip * STRIP; row < least((strip + 1) * STRIP, j->rows); row++) {
        const float *x = p->x + (j->row + row) * p->k;
        for (int64_t pair = 0; pair < p->depth / 2; pair += j->block)
            round_row(
                x + 2 * pair, p->k - 2 * pair, pairs_at(j, row, pair), pairs_from(j, pair));
    }
}

/* Some pairs of a panel of ``there`` rows of W as one of 16; zeros for those it lacks. */
static void fill_panel(char *to, const char *w, int64_t there, int64_t pairs)
{
    memset(to, 0, (size_t)pairs * PANEL * 4);
    for (int64_t i = 0; i < pairs; i++)
        memcpy(to + i * PANEL * 4, w + i * there * 4, (size_t)there * 4);
}

/* Where some panels of W are, from ``pair`` on. */
INLINE const char *panel_of(const product *p, const char *w, int64_t panel, int64_t pair)
{
    return w + (panel * PANEL * p->depth / 2 + pair * least(p->n - panel * PANEL, PANEL)) * 4;
}

/* Sums of some rows with some panels of W. */
static void multiply_rows(
    const job *j, const char *w, int64_t row, int64_t rows, int64_t panel, int64_t panels, float *y,
    char *filled)
{
    const product *p = j->p;
    const int64_t stride = panels * PANEL, size = PANEL * p->depth * 2, wide = PANELS_FOR(j->strip);
    const bool few = j->rows <= FEW_ROWS;
    for (int64_t start = 0; start < p->depth / 2; start += j->block) {
        const int64_t pairs = pairs_from(j, start);
        const int64_t next = start + pairs < p->depth / 2 ? start + pairs : 0;
        for (int64_t i = 0, count; i < panels; i += count) {
            const int64_t there = least(p->n - (panel + i) * PANEL, PANEL);
            const char *here = panel_of(p, w, panel + i, start);
            count = i + wide <= panels && (panel + i + wide) * PANEL <= p->n ? wide : 1;
            const char *soon = i + count < panels ? panel_of(p, w, panel + i + count, start)
                                                  : panel_of(p, w, panel, next);
            if (there < PANEL) {
                fill_panel(filled, here, there, pairs);
                here = filled;
            }
            for (int64_t r = 0, strip = 0; r < rows; r += j->strip, strip++)
                strips[least(rows - r, j->strip)](
                    count, few && !strip, pairs_at(j, row + r, start), pairs, here, size,
                    /* A strip fetches a panel, and the first is busy with these. */
                    !few && strip && strip <= wide ? soon + (strip - 1) * size : here, pairs,
                    y + r * stride + i * PANEL, stride, start > 0);
        }
    }
}

/* Some panels for a block of rows. */
static void multiply_block(void *context, int64_t index)
{
    const job *j = context;
    const product *p = j->p;
    const int64_t strips = parts_of(j->rows, j->strip), blocks = j->blocks_of_rows;
    const int64_t row = strips * (index % blocks) / blocks * j->strip;
    const int64_t end = strips * (index % blocks + 1) / blocks * j->strip;
    const int64_t rows = least(j->rows, end) - row, panel = index / blocks * j->panels_at_once;
    const int64_t panels = least(parts_of(p->n, PANEL) - panel, j->panels_at_once);
    const int64_t floats = rows * panels * PANEL;
    float *sums = scratch(OWN, 2 * floats + j->block * PANEL), *up = sums + floats;
    char *const filled = (char *)(up + floats);
    multiply_rows(j, p->w[0], row, rows, panel, panels, sums, filled);
    if (p->w[1])
        multiply_rows(j, p->w[1], row, rows, panel, panels, up, filled);
    finish(p, j->row + row, rows, panel, panels, sums, up, panels * PANEL, PANEL);
}

/* ``blocks`` of rows or some more, so many that the items of work they make with ``columns`` leave the
 * fewest threads without one at the end. */
static int64_t even_blocks(int64_t blocks, int64_t columns)
{
    const int64_t all = threads();
    int64_t best = blocks;
    for (int64_t more = blocks + 1; more < blocks + least(all, blocks); more++)
        if (parts_of(more * columns, all) * best < parts_of(best * columns, all) * more)
            best = more;
    return best;
}

/* The rows of x from ``row`` on. */
static void multiply_some(const product *p, int64_t row, int64_t rows)
{
    const bool few = rows <= FEW_ROWS;
    job j = {
        .p = p, .rounded = (int32_t *)scratch(SHARED, rows * p->depth / 2), .row = row, .rows = rows,
        .block = few ? p->depth / 2 : BLOCK_PAIRS, .strip = even_parts(rows, STRIP)};
    parallel(round_strip, &j, STRIPS(rows));
    /* Few enough that threads come to an end together, and as many as meet a strip, or some times
     * that. */
    const int64_t blocks = parts_of(rows, BLOCK_STRIPS * j.strip);
    const int64_t panels = parts_of(p->n, PANEL), wide = PANELS_FOR(j.strip);
    const int64_t share = panels * blocks / (5 * threads());
    const int64_t most = few ? share : least(share, MOST_PANELS);
    j.panels_at_once = most < wide ? wide : most / wide * wide;
    const int64_t columns = parts_of(panels, j.panels_at_once);
    j.blocks_of_rows = even_blocks(blocks, columns);
    parallel(multiply_block, &j, columns * j.blocks_of_rows);
}

void multiply_by_pairs(const product *p)
{
    const int64_t at_once = even_parts(p->m, MOST_ROWS);
    for (int64_t row = 0; row < p->m; row += at_once)
        multiply_some(p, row, least(p->m - row, at_once));
}

#else

void multiply_by_pairs(const product *p)
{
    (void)p;
}

#endif
