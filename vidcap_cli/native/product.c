/* Products of float32 rows with weights that are kept in 16 or 32 bits: y = x W^T + b.
 *
 * W [n, depth] is kept by panels of 16 of its rows, column by column, so that one load gives a number
 * of each row, and is made float32 on its way to the sums. Of bfloat16 two columns of a row lie
 * together: shifted or masked, 32 bits are float32. The last panel may have fewer rows.
 *
 * Few rows of x: W is read once, as fast as memory gives it. Many: blocks of x that the cache holds
 * meet one panel after the other (Goto and van de Geijn 2008).
 */
#include "product.h"
#include "pairs.h"
#include "tiles.h"

#define VECS (PANEL / LANES)
#define ROWS (LANES == 16 ? 12 : 6) /* of x in a tile: its sums and what they need have registers */
#define MOST_PANELS 4 /* in a tile */
#define BLOCK_ROWS 96
/* Bytes ahead, and into which cache. AMD's processors, which are those with PAIRS, wait for numbers
 * with few sums under way: these have to be in the first one (Zen 4, measured). FETCH_FAR is for more. */
#if PAIRS
#define FETCH_AHEAD FETCH_PAIRS
#define FETCH_INTO 3
#else
#define FETCH_AHEAD 2048
#define FETCH_INTO 2
#endif
#define MANY_ROWS 18 /* so many that it pays to make a panel float32 for all of them at once */
#define PAST_CACHE (8 << 20) /* bytes of y so many that the cache would not keep them */
#define ROUNDED_ROWS 64 /* on matrix registers, and in attention, fewer are no faster for it */
#define TILED_ROWS(kind) ((kind) == BFLOAT16 ? 4 : 24) /* so many are faster on matrix registers */

typedef struct {
    const product *p;
    int64_t panels_at_once;
} columns_of;

static bool rounding;

/* Whether rows are to be rounded to bfloat16 in products from now on, where that is faster. */
EXPORT void round_rows(int wanted)
{
    rounding = wanted;
}

EXPORT int rounds_rows(void)
{
    return rounding;
}

bool rounded(int64_t rows)
{
    return rounding && rows >= ROUNDED_ROWS;
}

/* The numbers at one depth of the 16 rows of a panel; of bfloat16, two depths of a row lie in 32 bits,
 * of which the ``odd`` one is the upper half. */
INLINE void widen(const enum kind kind, const char *w, const bool odd, vec numbers[VECS])
{
    for (int v = 0; v < VECS; v++)
        if (kind == FLOAT32)
            numbers[v] = load((const float *)w + v * LANES);
        else if (kind == FLOAT16)
            numbers[v] = half(w + v * LANES * 2);
        else {
            ivec pair;
            memcpy(&pair, w + v * VECTOR_BYTES, sizeof pair);
            numbers[v] = (vec)(odd ? pair & (int32_t)0xffff0000 : pair << 16);
        }
}

/* y[rows, panels * 16] (+)= x W^T of so many panels, ``size`` bytes each. */
INLINE void tile(
    const int rows, const int panels, const enum kind kind, const float *x, const char *w,
    int64_t size, int64_t depth, float *y, int64_t y_stride, bool add)
{
    vec sums[MOST_PANELS][ROWS][VECS], numbers[VECS];
    for (int p = 0; p < panels; p++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VECS; v++)
                sums[p][r][v] = add ? load(y + r * y_stride + p * PANEL + v * LANES) : splat(0);
    const bool far = PAIRS && panels == 1 && rows > 3;
    const int64_t step = PANEL * bytes_of(kind), next = far ? FETCH_FAR : FETCH_AHEAD;
    for (int64_t i = 0; i < depth; i += 2, w += 2 * step) {
        /* At the end of these panels, what the next begin with. */
        const int64_t ahead = next + (i + next / step < depth ? 0 : panels * size - depth * step);
        for (int p = 0; p < panels; p++)
            for (int odd = 0; odd < 2; odd++) {
                if (odd && i + 1 == depth)
                    continue;
                /* A row alone waits for memory; on AMD's processors a few do. */
                if (far && (kind == FLOAT32 || !odd))
                    __builtin_prefetch(w + p * size + odd * step + ahead, 0, 2);
                else if (kind == FLOAT32 ? rows == 1 : !odd && (rows == 1 || PAIRS))
                    __builtin_prefetch(w + p * size + odd * step + ahead, 0, FETCH_INTO);
                widen(kind, w + p * size + (kind == BFLOAT16 ? 0 : odd * step), odd, numbers);
                for (int r = 0; r < rows; r++)
                    for (int v = 0; v < VECS; v++)
                        sums[p][r][v] += x[r * BLOCK_DEPTH + i + odd] * numbers[v];
            }
    }
    for (int p = 0; p < panels; p++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VECS; v++)
                store(y + r * y_stride + p * PANEL + v * LANES, sums[p][r][v]);
}

/* Several panels at once for few rows: memory is read faster in several places than in one, and sums
 * do not wait for each other. */
#define PANELS_FOR(rows) ((rows) == 1 ? MOST_PANELS : (rows) <= 3 ? 2 : 1)

#define TILE_OF(rows, kind)                                                                        \
    static void tile_##rows##_##kind(                                                              \
        int64_t panels, const float *x, const char *w, int64_t size, int64_t depth, float *y,      \
        int64_t y_stride, bool add)                                                                \
    {                                                                                              \
        if (panels == 1)                                                                           \
            tile(rows, 1, kind, x, w, size, depth, y, y_stride, add);                              \
        else                                                                                       \
            tile(rows, PANELS_FOR(rows), kind, x, w, size, depth, y, y_stride, add);               \
    }
#define TILES_OF(rows) TILE_OF(rows, FLOAT32) TILE_OF(rows, FLOAT16) TILE_OF(rows, BFLOAT16)
#define NAMES_OF(rows) {tile_##rows##_FLOAT32, tile_##rows##_FLOAT16, tile_##rows##_BFLOAT16}

TILES_OF(1) TILES_OF(2) TILES_OF(3) TILES_OF(4) TILES_OF(5) TILES_OF(6)
#if LANES == 16
TILES_OF(7) TILES_OF(8) TILES_OF(9) TILES_OF(10) TILES_OF(11) TILES_OF(12)
#endif

typedef void tile_function(
    int64_t, const float *, const char *, int64_t, int64_t, float *, int64_t, bool);

static tile_function *const tiles[ROWS + 1][3] = {
    {0},         NAMES_OF(1), NAMES_OF(2), NAMES_OF(3), NAMES_OF(4), NAMES_OF(5), NAMES_OF(6),
#if LANES == 16
    NAMES_OF(7), NAMES_OF(8), NAMES_OF(9), NAMES_OF(10), NAMES_OF(11), NAMES_OF(12),
#endif
};

/* ``count`` numbers of each of the rows, then zeros to ``depth``, BLOCK_DEPTH apart. */
static void copy_rows(
    float *to, int64_t depth, const float *x, int64_t stride, int64_t rows, int64_t count)
{
    for (int64_t r = 0; r < rows; r++, to += BLOCK_DEPTH) {
        memcpy(to, x + r * stride, (size_t)count * 4);
        for (int64_t i = count; i < depth; i++)
            to[i] = 0;
    }
}

/* Rows of x at a time, and numbers of them. A single row needs no block. */
static int64_t block_rows(const product *p)
{
    return least(p->m, BLOCK_ROWS);
}

static int64_t block_depth(const product *p)
{
    return p->m == 1 ? p->depth : BLOCK_DEPTH;
}

/* Some columns of a panel of ``there`` rows as float32 of 16, zeros for those it lacks. */
static void widen_panel(
    float *to, const char *w, int64_t there, int64_t columns, const enum kind kind)
{
    char whole[2 * PANEL * 4] = {0};
    const int64_t pair = 2 * bytes_of(kind), step = PANEL * pair;
    for (int64_t i = 0; i < columns; i += 2) {
        const int64_t last = i + 1 == columns;
        const char *from = w + i / 2 * there * pair;
        if (there < PANEL) {
            const int64_t size = kind == BFLOAT16 ? pair : pair / 2;
            for (int64_t part = 0; part < (kind == BFLOAT16 ? 1 : 2 - last); part++)
                memcpy(
                    whole + part * PANEL * size, from + part * there * size,
                    (size_t)(there * size));
            from = whole;
        }
        vec numbers[VECS];
        for (int64_t odd = 0; odd < 2 - last; odd++) {
            widen(kind, kind == BFLOAT16 ? from : from + odd * step / 2, odd, numbers);
            for (int v = 0; v < VECS; v++)
                store(to + (i + odd) * PANEL + v * LANES, numbers[v]);
        }
    }
}

/* As ``tile`` for any number of rows: as many in each tile, as far as possible. */
static void multiply_strips(
    enum kind kind, int64_t panels, const float *x, int64_t rows, const char *w, int64_t size,
    int64_t depth, float *y, int64_t y_stride, bool add)
{
    const int64_t strips = parts_of(rows, ROWS), more = rows % strips;
    for (int64_t strip = 0, row = 0, some; strip < strips; strip++, row += some) {
        some = rows / strips + (strip < more);
        tiles[some][kind](
            panels, x + row * BLOCK_DEPTH, w, size, depth, y + row * y_stride, y_stride, add);
    }
}

void multiply_panel(
    const float *x, int64_t rows, const float *panel, int64_t depth, float *y, int64_t y_stride,
    bool add)
{
    multiply_strips(FLOAT32, 1, x, rows, (const char *)panel, 0, depth, y, y_stride, add);
}

/* y[rows, 16 panels] = x W^T. ``packed`` has room for a block of x, and for a panel of its depth. */
static void multiply_panels(
    const product *p, const char *w, int64_t row, int64_t rows, int64_t panel, int64_t panels,
    float *y, float *packed)
{
    const int64_t size = bytes_of(p->kind), width = panels * PANEL, whole = p->n / PANEL - panel;
    const int64_t at_once = block_depth(p);
    float *const widened = packed + block_rows(p) * at_once;
    for (int64_t start = 0; start < p->depth; start += at_once) {
        const int64_t depth = least(p->depth - start, at_once);
        copy_rows(
            packed, depth, p->x + row * p->k + start, p->k, rows, least(p->k - start, depth));
        for (int64_t i = 0, count; i < panels; i += count) {
            const int64_t there = least(p->n - (panel + i) * PANEL, PANEL);
            const char *here = w + ((panel + i) * PANEL * p->depth + start * there) * size;
            enum kind kind = p->kind;
            count = rows <= ROWS ? PANELS_FOR(rows) : 1;
            if (i + count > least(panels, whole))
                count = 1;
            if (there < PANEL || (rows > MANY_ROWS && kind != FLOAT32)) {
                widen_panel(widened, here, there, depth, kind);
                here = (const char *)widened;
                kind = FLOAT32;
            }
            multiply_strips(
                kind, count, packed, rows, here, PANEL * p->depth * size, depth, y + i * PANEL,
                width, start > 0);
        }
    }
}

/* erf within 2e-7 (Abramowitz and Stegun 1964, 7.1.26). */
INLINE vec verf(vec x)
{
    const vec size = choose(x < 0, -x, x), t = 1 / (size * 0.3275911f + 1);
    vec p = splat(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const vec erf = 1 - p * t * vexp(-x * x);
    return choose(x < 0, -erf, erf);
}

/* As ``store``, past the cache if the compiler can: none of the line is read before. */
INLINE void store_past(float *to, vec x)
{
#if __has_builtin(__builtin_nontemporal_store)
    __builtin_nontemporal_store(x, (vec *)to);
#else
    store(to, x);
#endif
}

/* 16 numbers of sums as 16 of y. Those of ``up`` and ``bias`` are read as far as they are used. */
INLINE void finish_panel(
    const enum activation activation, const bool past, const float *sums, const float *up,
    const float *const bias[2], const float *residual, float *y)
{
    for (int64_t v = 0; v < PANEL; v += LANES) {
        vec x = load(sums + v) + load(bias[0] + v);
        if (activation == QUICK_GELU)
            x = x / (vexp(x * -1.702f) + 1);
        else if (activation == GELU)
            x = x * (verf(x * 0.707106781f) + 1) * 0.5f;
        else if (activation == SWIGLU)
            x = x * (load(up + v) + load(bias[1] + v)) / (vexp(-x) + 1);
        if (residual)
            x += load(residual + v);
        if (past)
            store_past(y + v, x);
        else
            store(y + v, x);
    }
}

/* ``there`` of 16 numbers, in memory that has room for 16. */
INLINE const float *padded(const float *from, int64_t there, float room[PANEL])
{
    memcpy(room, from, (size_t)there * 4);
    return room;
}

/* As ``finish``, compiled for each activation. */
INLINE void finish_as(
    const enum activation activation, const bool past, const product *p, int64_t row, int64_t rows,
    int64_t panel, int64_t panels, const float *sums, const float *up, int64_t next_row,
    int64_t next_panel)
{
    static const float zeros[PANEL];
    const int64_t first = panel * PANEL, end = least(p->n, first + panels * PANEL);
    for (int64_t r = 0; r < rows; r++) {
        float *const y = p->y + (row + r) * p->n;
        const float *const residual = p->residual ? p->residual + (row + r) * p->n : NULL;
        for (int64_t column = first; column < end; column += PANEL) {
            const int64_t from = r * next_row + (column - first) / PANEL * next_panel;
            const int64_t there = end - column;
            const float *bias[2], *more = residual ? residual + column : NULL;
            for (int part = 0; part < 2; part++)
                bias[part] = p->bias[part] ? p->bias[part] + column : zeros;
            if (there >= PANEL) {
                finish_panel(activation, past, sums + from, up + from, bias, more, y + column);
                continue;
            }
            float room[4][PANEL] = {{0}};
            for (int part = 0; part < 2; part++)
                bias[part] = padded(bias[part], there, room[part]);
            if (more)
                more = padded(more, there, room[2]);
            finish_panel(activation, false, sums + from, up + from, bias, more, room[3]);
            memcpy(y + column, room[3], (size_t)there * 4);
        }
    }
}

#define FINISH_AS(activation)                                                                      \
    (past ? finish_as(                                                                             \
                activation, true, p, row, rows, panel, panels, sums, up, next_row, next_panel)     \
          : finish_as(                                                                             \
                activation, false, p, row, rows, panel, panels, sums, up, next_row, next_panel))

void finish(
    const product *p, int64_t row, int64_t rows, int64_t panel, int64_t panels, const float *sums,
    const float *up, int64_t next_row, int64_t next_panel)
{
    const bool past = p->m * p->n * 4 > PAST_CACHE && (uintptr_t)p->y % 64 == 0 && p->n % PANEL == 0;
    if (p->activation == QUICK_GELU)
        FINISH_AS(QUICK_GELU);
    else if (p->activation == GELU)
        FINISH_AS(GELU);
    else if (p->activation == SWIGLU)
        FINISH_AS(SWIGLU);
    else
        FINISH_AS(NONE);
    if (past) /* such stores may come after all others that follow */
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Some panels for all rows. */
static void columns(void *context, int64_t index)
{
    const columns_of *some = context;
    const product *p = some->p;
    const int64_t panel = index * some->panels_at_once;
    const int64_t panels = least(parts_of(p->n, PANEL) - panel, some->panels_at_once);
    const int64_t block = block_rows(p) * panels * PANEL;
    const int64_t room = 2 * block + (block_rows(p) + PANEL) * block_depth(p);
    float *result = scratch(OWN, room), *up = result + block;
    float *packed = up + block;
    for (int64_t row = 0; row < p->m; row += BLOCK_ROWS) {
        const int64_t rows = least(p->m - row, BLOCK_ROWS);
        multiply_panels(p, p->w[0], row, rows, panel, panels, result, packed);
        if (p->w[1])
            multiply_panels(p, p->w[1], row, rows, panel, panels, up, packed);
        finish(p, row, rows, panel, panels, result, up, panels * PANEL, PANEL);
    }
}

void multiply(const product *p)
{
    if (p->kind != FLOAT32 && p->m >= TILED_ROWS(p->kind) && tiles_usable()) {
        multiply_by_tiles(p);
        return;
    }
    if (PAIRS && p->kind == BFLOAT16 && rounding) {
        multiply_by_pairs(p);
        return;
    }
    /* Few at once, so that threads come to an end together, but enough to be worth a block of x, or
     * to read memory on and on. */
    const int64_t panels = parts_of(p->n, PANEL), share = panels / (6 * threads()) & ~3;
    columns_of some = {p, p->m > ROWS ? 16 : p->m > 1 || share < 4 ? 4 : share};
    parallel(columns, &some, parts_of(panels, some.panels_at_once));
}

/* Which number of W as it is kept is that of a row and column. */
INLINE int64_t place(int64_t row, int64_t column, int64_t n, int64_t depth, enum kind kind)
{
    const int64_t pair = kind == BFLOAT16 ? 2 : 1, start = row - row % PANEL;
    const int64_t there = least(n - start, PANEL), odd = column % pair;
    return start * depth + (column - odd) * there + row % PANEL * pair + odd;
}

typedef struct {
    const float *from;
    void *to;
    int64_t n, k, depth;
    enum kind kind;
} weight;

static void pack_panel(void *context, int64_t panel)
{
    const weight *w = context;
    for (int64_t row = panel * PANEL; row < least((panel + 1) * PANEL, w->n); row++)
        for (int64_t i = 0; i < w->depth; i++) {
            const float x = i < w->k ? w->from[row * w->k + i] : 0;
            const int64_t to = place(row, i, w->n, w->depth, w->kind);
            if (w->kind == FLOAT32)
                ((float *)w->to)[to] = x;
            else if (w->kind == FLOAT16)
                ((_Float16 *)w->to)[to] = (_Float16)x;
            else
                ((uint16_t *)w->to)[to] = bfloat16(x);
        }
}

/* Float32 ``from`` [n, k] as it is kept, [n, depth]. */
EXPORT void pack(const float *from, void *to, int64_t n, int64_t k, int64_t depth, int kind)
{
    weight w = {from, to, n, k, depth, (enum kind)kind};
    parallel(pack_panel, &w, parts_of(n, PANEL));
}

typedef struct {
    const float *from;
    uint16_t *to;
    int64_t width, next;
} rounding_of;

static void round_numbers_of(void *context, int64_t row)
{
    const rounding_of *it = context;
    for (int64_t i = 0; i < it->width; i++)
        it->to[row * it->next + i] = bfloat16(it->from[row * it->width + i]);
}

/* Float32 ``from`` [rows, width] as bfloat16, rows ``next`` numbers apart. */
EXPORT void round_to(const float *from, void *to, int64_t rows, int64_t width, int64_t next)
{
    rounding_of it = {from, to, width, next};
    parallel(round_numbers_of, &it, rows);
}

void unpack_row(
    float *to, const void *w, int64_t row, int64_t n, int64_t depth, enum kind kind)
{
    for (int64_t i = 0; i < depth; i++) {
        const int64_t from = place(row, i, n, depth, kind);
        if (kind == FLOAT32)
            to[i] = ((const float *)w)[from];
        else if (kind == FLOAT16)
            to[i] = ((const _Float16 *)w)[from];
        else
            to[i] = widened(((const uint16_t *)w)[from]);
    }
}
