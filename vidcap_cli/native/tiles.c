/* Products of many rows on the processor's matrix registers (Intel AMX, bfloat16 products with
 * float32 sums: Intel's Architecture Instruction Set Extensions Programming Reference, chapter 3).
 *
 * A row of float32 is two of bfloat16, what it rounds to and what that leaves (x = high + low, off by
 * 2^-17 of it): two products with weights of bfloat16 are as good as float32, at many times the
 * speed. A weight of float16 is exactly two of bfloat16, and takes three products: low times low is
 * less than what is left out of x anyway. Where bfloat16 is wanted of the products themselves
 * (``round_rows``), many rows are what they round to: one product.
 */
#include "tiles.h"

#if TILES
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK_STEPS 48
#define TILED_DEPTH (BLOCK_STEPS * STEP) /* two panels of it, x of so many rows, and their sums */
#define BLOCK_ROWS 256                   /* stay in the second cache */
#define MOST_ROWS 1024 /* that are split at a time: this bounds the memory it takes */
#define MOST_PANELS 32 /* in an item of work */
#define FETCH_AHEAD 4  /* steps */

/* Linux gives the registers to a process that asks for them (Documentation/arch/x86/xstate.rst). */
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

static bool permitted;

__attribute__((constructor)) static void ask(void)
{
    permitted = !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

bool tiles_usable(void)
{
    return permitted;
}

void take_tiles(void)
{
    static const struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } registers = {
        1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&registers);
}

void release_tiles(void)
{
    _tile_release();
}

typedef struct {
    const product *p;
    char *split; /* [depth blocks][tiles of rows][steps of a block][high, low] tiles */
    int64_t row, rows, panels_at_once, step; /* bytes from a step to the next */
    bool in_parts;
} tiled;

static int64_t depth_blocks(const product *p)
{
    return parts_of(p->depth, TILED_DEPTH);
}

static int64_t steps_of(int64_t depth)
{
    return parts_of(depth, STEP);
}

/* 16 numbers of a row from ``x`` on, of which ``count`` are there, as high and low. */
INLINE void split(const float *x, int64_t count, char *high, char *low, bool in_parts)
{
    const __mmask16 there = count >= 16 ? 0xffff : count > 0 ? (1 << count) - 1 : 0;
    const __m512 numbers = _mm512_maskz_loadu_ps(there, x);
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(numbers);
    const __m512 back = (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16);
    _mm256_store_si256((void *)high, rounded);
    if (in_parts)
        _mm256_store_si256((void *)low, (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(numbers, back)));
}

/* One tile of rows, all of its depth. */
static void split_rows(void *context, int64_t index)
{
    const tiled *t = context;
    const product *p = t->p;
    const int64_t row = index * TILE_ROWS, tiles = ROW_TILES(t->rows), steps = steps_of(p->depth);
    for (int64_t step = 0; step < steps; step++) {
        const int64_t block = step / BLOCK_STEPS;
        char *to = t->split
                   + ((block * tiles + index) * BLOCK_STEPS + step % BLOCK_STEPS) * t->step;
        for (int64_t r = 0; r < TILE_ROWS; r++, to += STEP * 2) {
            const bool there = row + r < t->rows;
            const float *x = p->x + (t->row + row + r) * p->k + step * STEP;
            for (int64_t i = 0; i < STEP; i += 16)
                split(
                    x + i, there ? p->k - step * STEP - i : 0, to + i * 2, to + i * 2 + TILE,
                    t->in_parts);
        }
    }
}

/* The registers: 0 to 3 sums, 4 and 5 of W, 6 and 7 of x. */
INLINE void multiply_add(const int rows, const int panels)
{
    _tile_dpbf16ps(0, 6, 4);
    if (panels > 1)
        _tile_dpbf16ps(1, 6, 5);
    if (rows > 1)
        _tile_dpbf16ps(2, 7, 4);
    if (rows > 1 && panels > 1)
        _tile_dpbf16ps(3, 7, 5);
}

/* Tiles that are loaded some steps later, into the first cache: a product alone is done with its own
 * before the next come from the second. */
INLINE void fetch(const int count, const char *later, int64_t next)
{
    for (int which = 0; which < count; which++)
        for (int64_t i = 0; i < TILE; i += 64)
            __builtin_prefetch(later + which * next + i);
}

INLINE void load_rows(const int rows, const char *x, int64_t next)
{
    _tile_loadd(6, x, STEP * 2);
    if (rows > 1)
        _tile_loadd(7, x + next, STEP * 2);
}

INLINE void load_panels(const int panels, const char *w, int64_t next)
{
    _tile_loadd(4, w, PANEL * 4);
    if (panels > 1)
        _tile_loadd(5, w + next, PANEL * 4);
}

INLINE void tile(
    const int rows, const int panels, const char *x, int64_t next_step, int64_t next_rows,
    const char *w, int64_t next, int64_t low, int64_t steps, float *y, int64_t more, bool add, bool in_parts)
{
    if (add) {
        _tile_loadd(0, y, PANEL * 4);
        if (panels > 1)
            _tile_loadd(1, y + SUMS, PANEL * 4);
        if (rows > 1)
            _tile_loadd(2, y + more, PANEL * 4);
        if (rows > 1 && panels > 1)
            _tile_loadd(3, y + more + SUMS, PANEL * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t step = 0; step < steps; step++, x += next_step, w += TILE) {
        if (!in_parts && steps > 4 * FETCH_AHEAD) {
            fetch(panels, w + FETCH_AHEAD * TILE, next);
            fetch(rows, x + FETCH_AHEAD * next_step, next_rows);
        }
        load_panels(panels, w, next);
        if (in_parts) {
            load_rows(rows, x + TILE, next_rows);
            multiply_add(rows, panels);
        }
        load_rows(rows, x, next_rows);
        multiply_add(rows, panels);
        if (in_parts && low) {
            load_panels(panels, w + low, next);
            multiply_add(rows, panels);
        }
    }
    _tile_stored(0, y, PANEL * 4);
    if (panels > 1)
        _tile_stored(1, y + SUMS, PANEL * 4);
    if (rows > 1)
        _tile_stored(2, y + more, PANEL * 4);
    if (rows > 1 && panels > 1)
        _tile_stored(3, y + more + SUMS, PANEL * 4);
}

void multiply_tiles(
    const char *x, int64_t tiles, int64_t next_step, int64_t next_rows, const char *w, int panels,
    int64_t next, int64_t low, int64_t steps, float *y, int64_t more, bool add, bool in_parts)
{
    for (int64_t i = 0; i < tiles; i += 2, x += 2 * next_rows, y += 2 * more)
        if (i + 1 < tiles && panels > 1)
            tile(2, 2, x, next_step, next_rows, w, next, low, steps, y, more, add, in_parts);
        else if (panels > 1)
            tile(1, 2, x, next_step, next_rows, w, next, low, steps, y, more, add, in_parts);
        else if (i + 1 < tiles)
            tile(2, 1, x, next_step, next_rows, w, next, low, steps, y, more, add, in_parts);
        else
            tile(1, 1, x, next_step, next_rows, w, next, low, steps, y, more, add, in_parts);
}

/* Some columns of a panel of ``there`` rows of W as tiles; zeros for what it lacks. */
static void copy_panel(char *to, const char *w, int64_t there, int64_t columns)
{
    memset(to, 0, TILED_DEPTH * PANEL * 2);
    for (int64_t i = 0; i < columns; i += 2)
        memcpy(to + i * PANEL * 2, w + i * there * 2, (size_t)there * 4);
}

/* 16 numbers as what they round to in bfloat16 and what that leaves, in the upper halves. */
INLINE void split_weights(__m512 numbers, __m512i *high, __m512i *low)
{
    *high = _mm512_slli_epi32(
        _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(numbers)), 16);
    *low = (__m512i)_mm512_sub_ps(numbers, (__m512)*high);
}

/* The same of float16, as high and low parts. */
static void split_panel(char *to, char *low, const char *w, int64_t there, int64_t columns)
{
    memset(to, 0, TILED_DEPTH * PANEL * 2);
    memset(low, 0, TILED_DEPTH * PANEL * 2);
    for (int64_t i = 0; i < columns; i++) {
        const int64_t odd = i % 2, at = (i - odd) * PANEL * 2;
        char numbers[PANEL * 2] = {0};
        memcpy(numbers, w + i * there * 2, (size_t)there * 2);
        __m512i parts[2];
        split_weights((__m512)half(numbers), parts, parts + 1);
        for (int which = 0; which < 2; which++) {
            char *pairs = (which ? low : to) + at;
            _mm512_storeu_si512(
                pairs, odd ? _mm512_or_si512(_mm512_loadu_si512(pairs), parts[which])
                           : _mm512_srli_epi32(parts[which], 16));
        }
    }
}

/* Two panels of W at a depth, one if ``panel`` is the last. ``copies`` has room for those that are
 * not kept as tiles: of float16, or not whole. */
static void multiply_two(
    const tiled *t, const char *w, int64_t panel, int64_t start, const char *x, int64_t tiles,
    float *y, int64_t more, char *copies)
{
    const product *p = t->p;
    const int64_t size = TILED_DEPTH * PANEL * 2, depth = least(p->depth - start, TILED_DEPTH);
    const int64_t panels = least(parts_of(p->n, PANEL) - panel, 2), steps = steps_of(depth);
    const char *here = w + (panel * PANEL * p->depth + start * PANEL) * 2;
    int64_t next = PANEL * p->depth * 2, low = 0;
    if (p->kind == FLOAT16 || depth % STEP || (panel + panels) * PANEL > p->n) {
        for (int64_t i = 0; i < panels; i++) {
            const int64_t there = least(p->n - (panel + i) * PANEL, PANEL);
            const char *from = w + ((panel + i) * PANEL * p->depth + start * there) * 2;
            if (p->kind == FLOAT16)
                split_panel(copies + i * size, copies + (2 + i) * size, from, there, depth);
            else
                copy_panel(copies + i * size, from, there, depth);
        }
        here = copies;
        next = size;
        low = p->kind == FLOAT16 ? 2 * size : 0;
    }
    multiply_tiles(
        x, tiles, t->step, BLOCK_STEPS * t->step, here, (int)panels, next, low, steps, y, more, start > 0,
        t->in_parts);
}

/* Some panels for a block of rows. */
static void multiply_block(void *context, int64_t index)
{
    const tiled *t = context;
    const product *p = t->p;
    const int64_t blocks = parts_of(t->rows, BLOCK_ROWS);
    const int64_t row = index % blocks * BLOCK_ROWS, panel = index / blocks * t->panels_at_once;
    const int64_t rows = least(t->rows - row, BLOCK_ROWS), tiles = ROW_TILES(rows);
    const int64_t panels = least(parts_of(p->n, PANEL) - panel, t->panels_at_once);
    const int64_t more = panels * SUMS, floats = tiles * more;
    float *sums[2] = {scratch(OWN, 2 * floats + 4 * TILED_DEPTH * PANEL / 2)};
    sums[1] = sums[0] + floats;
    char *const copies = (char *)(sums[1] + floats);
    take_tiles();
    for (int64_t start = 0; start < p->depth; start += TILED_DEPTH) {
        const char *x = t->split
                        + (start / TILED_DEPTH * ROW_TILES(t->rows) + row / TILE_ROWS) * BLOCK_STEPS
                              * t->step;
        for (int64_t i = 0; i < panels; i += 2)
            for (int which = 0; which < (p->w[1] ? 2 : 1); which++)
                multiply_two(
                    t, p->w[which], panel + i, start, x, tiles, sums[which] + i * SUMS, more,
                    copies);
    }
    release_tiles();
    for (int64_t i = 0; i < tiles; i++)
        finish(
            p, t->row + row + i * TILE_ROWS, least(rows - i * TILE_ROWS, TILE_ROWS), panel, panels,
            sums[0] + i * more, sums[1] + i * more, PANEL, SUMS);
}

void multiply_by_tiles(const product *p)
{
    const int64_t panels = parts_of(p->n, PANEL);
    for (int64_t row = 0; row < p->m; row += MOST_ROWS) {
        tiled t = {.p = p, .row = row, .rows = least(p->m - row, MOST_ROWS)};
        t.in_parts = !rounded(p->m);
        t.step = t.in_parts ? 2 * TILE : TILE;
        const int64_t tiles = ROW_TILES(t.rows), blocks = parts_of(t.rows, BLOCK_ROWS);
        t.split =
            (char *)scratch(SHARED, depth_blocks(p) * tiles * BLOCK_STEPS * t.step / 4);
        parallel(split_rows, &t, tiles);
        /* Few enough that threads come to an end together, and an even number. */
        const int64_t share = panels * blocks / (4 * threads());
        t.panels_at_once = share < 4 ? 4 : least(share & ~1, MOST_PANELS);
        const int64_t groups = parts_of(panels, t.panels_at_once);
        parallel(multiply_block, &t, groups * blocks);
    }
}

#else

bool tiles_usable(void)
{
    return false;
}

void multiply_by_tiles(const product *p)
{
    (void)p;
}

#endif
