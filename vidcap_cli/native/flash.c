/* Attention block by block, never with all scores of a query at a time (FlashAttention-2, Dao 2023).
 *
 * A block of queries of one head meets the keys it sees block by block. Of those it has met it keeps
 * the largest score of each query, the sum of the weights 2^(score - largest), and that of the
 * weighted values; when a larger score comes, both sums are scaled down.
 */
#include "flash.h"
#include "pairs.h"
#include "rows.h"
#include "tiles.h"

#include <math.h>

#define VECS (PANEL / LANES)
#define MANY_SEQUENCES 3 /* for each thread: so many come to an end together */
#define LOG2_E 1.44269504f

typedef struct {
    const flash *p;
    const products *with;
    float *packed; /* keys and values of all heads of all sequences */
} job;

/* 2^x of x <= 0 within 3e-7 of it, or as ``rough`` within 1e-4, which is less than bfloat16 tells apart:
 * x = n + r, a polynomial in r (minimax on [-1/2, 1/2]), n added to the exponent. What is below 2^-126
 * is that. */
INLINE vec power_of_two(vec x, bool rough)
{
    const vec bottom = splat(-126.0f);
    x = choose(x < bottom, bottom, x);
    /* 1.5 * 2^23: what is added to it is rounded to an integer, in its lower bits. */
    const vec magic = splat(12582912.0f), shifted = x + magic, r = x - (shifted - magic);
    vec p;
    if (rough) {
        p = r * 5.517166e-2f + 2.4261113e-1f;
        p = p * r + 6.9326098e-1f;
        p = p * r + 9.9992807e-1f;
    } else {
        p = r * 1.327647213e-3f + 9.675541328e-3f;
        p = p * r + 5.550713273e-2f;
        p = p * r + 2.402211972e-1f;
        p = p * r + 6.931469671e-1f;
        p = p * r + 1.0f;
    }
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

/* Halves against each other: by numbers, each would wait for the one before. */
INLINE float largest_of(vec x)
{
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++)
            x[lane] = x[lane] > x[lane + half] ? x[lane] : x[lane + half];
    return x[0];
}

/* Where a panel of a row is among ``panels`` of each. */
INLINE float *place(bool tiled, float *numbers, int64_t panels, int64_t row, int64_t panel)
{
    return numbers
           + (tiled ? (row / TILE_ROWS * panels + panel) * SUMS + row % TILE_ROWS * PANEL
                    : (row * panels + panel) * PANEL);
}

INLINE void scale(float part[PANEL], float by)
{
    for (int lane = 0; lane < PANEL; lane++)
        part[lane] *= by;
}

static int64_t packed_floats(const flash *p)
{
    const int64_t width = PANELS_OF(p->head_dim) * PANEL;
    return PANELS_OF(p->keys) * PANEL * (p->head_dim + width);
}

INLINE float *values_of(const flash *p, const float *packed)
{
    return (float *)packed + PANELS_OF(p->keys) * PANEL * p->head_dim;
}

/* Keys by panels of 16 tokens, values by panels of 16 of their numbers. */
static void pack(const flash *p, const float *k, const float *v, int64_t start, float *packed)
{
    const int64_t tokens = PANELS_OF(p->keys) * PANEL, end = least(start + PACKED, tokens);
    float *const values = values_of(p, packed);
    for (int64_t token = start; token < end; token++) {
        const bool there = token < p->keys;
        const float *key = k + (token - start) * p->next_key;
        const float *value = v + (token - start) * p->next_value;
        float *const to = packed + token / PANEL * PANEL * p->head_dim + token % PANEL;
        for (int64_t i = 0; i < p->head_dim; i++)
            to[i * PANEL] = there ? key[i] : 0;
        for (int64_t i = 0; i < p->head_dim; i += PANEL) {
            float some[PANEL] = {0};
            if (there)
                memcpy(some, value + i, (size_t)least(p->head_dim - i, PANEL) * 4);
            memcpy(values + i * tokens + token * PANEL, some, sizeof some);
        }
    }
}

static void pack_queries(const flash *p, const float *q, int64_t rows, float by, float *queries)
{
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < p->head_dim; i++)
            queries[row * BLOCK_DEPTH + i] = q[row * p->next_query + i] * by;
}

static void score(
    const flash *p, const float *queries, int64_t rows, const float *packed, int64_t start,
    int64_t panels, float *scores)
{
    for (int64_t i = 0; i < panels * PANEL; i += PANEL)
        multiply_panel(
            queries, rows, packed + (start + i) * p->head_dim, p->head_dim, scores + i, KEYS, false);
}

static void weigh(
    const flash *p, const float *weights, int64_t rows, const float *packed, int64_t start,
    int64_t panels, float *sums, bool add)
{
    const int64_t tokens = PANELS_OF(p->keys) * PANEL, width = PANELS_OF(p->head_dim) * PANEL;
    const float *values = values_of(p, packed) + start * PANEL;
    for (int64_t i = 0; i < width; i += PANEL)
        multiply_panel(
            weights, rows, values + i * tokens, panels * PANEL, sums + i, width, add);
}

static const products on_vectors = {
    MOST_QUERIES, IN_VECTORS, packed_floats, pack, pack_queries, score, weigh};

/* A head of some rows from ``row`` of all sequences on, ``next`` floats apart, with their rotary
 * positions, head_dim floats apart. */
static void turn_some(
    const flash *p, const float *x, int64_t next, int64_t row, int64_t rows, float *turned)
{
    for (int64_t i = 0; i < rows; i++, x += next, turned += p->head_dim) {
        const int64_t place = (row + i) * p->head_dim;
        for (int64_t ahead = 0; ahead < p->head_dim; ahead += PANEL)
            __builtin_prefetch(x + ROWS_AHEAD * next + ahead, 0, 3);
        turn(turned, x, p->cos + place, p->sin + place, p->head_dim, p->head_dim);
    }
}

/* All heads of some tokens: these lie together in memory. */
static void pack_some(void *context, int64_t index)
{
    const job *it = context;
    flash p = *it->p;
    const int64_t blocks = parts_of(p.keys, PACKED), sequence = index / blocks;
    const int64_t start = index % blocks * PACKED, token = sequence * p.keys + start;
    const float *const keys = p.k + token * p.next_key, *const values = p.v + token * p.next_value;
    float turned[PACKED * MOST_HEAD_DIM];
    if (p.cos)
        p.next_key = p.head_dim;
    for (int64_t head = 0; head < p.kv_heads; head++) {
        const float *k = keys + head * p.next_head;
        if (p.cos) {
            turn_some(&p, k, it->p->next_key, token, least(p.keys - start, PACKED), turned);
            k = turned;
        }
        it->with->pack(
            &p, k, values + head * p.next_head, start,
            it->packed + (sequence * p.kv_heads + head) * it->with->packed_floats(&p));
    }
}

/* A head of ``rows`` of queries from ``row`` of all sequences on. ``room`` is for as many of them. */
static void pack_turned(
    const job *it, int64_t row, int64_t rows, int64_t head, float *room, float *queries)
{
    flash p = *it->p;
    const float *q = p.q + row * p.next_query + head * p.head_dim;
    if (p.cos) {
        turn_some(&p, q, p.next_query, row, rows, room);
        p.next_query = p.head_dim;
        q = room;
    }
    it->with->pack_queries(&p, q, rows, LOG2_E / sqrtf((float)p.head_dim), queries);
}

/* Make scores of keys that ``rows`` from ``query`` on do not see no scores. */
static void hide(
    const flash *p, bool tiled, int64_t query, int64_t rows, int64_t start, int64_t panels,
    float *scores)
{
    for (int64_t row = 0; row < rows; row++) {
        const int64_t seen = p->first + (query + row) * p->more - start;
        for (int64_t i = seen < 0 ? 0 : seen; i < panels * PANEL; i++)
            place(tiled, scores, KEY_PANELS, row, i / PANEL)[i % PANEL] = -INFINITY;
    }
}

/* The scores of a query as weights, in their place. ``largest`` and ``total`` take them in; what is
 * returned is the factor for sums of earlier weights. */
static float weights_of(
    enum way way, float *scores, int64_t row, int64_t panels, float *largest, vec *total)
{
    const bool tiled = way == IN_TILES;
    float *const first = place(tiled, scores, KEY_PANELS, row, 0);
    const int64_t next = tiled ? SUMS : PANEL;
    vec most = splat(*largest), sums = {0};
    for (int64_t i = 0; i < panels; i++)
        for (int v = 0; v < VECS; v++) {
            const vec x = load(first + i * next + v * LANES);
            most = choose(x > most, x, most);
        }
    const float top = largest_of(most);
    for (int64_t i = 0; i < panels; i += 2) {
        float *const at = first + i * next;
        vec x[2][VECS];
        for (int part = 0; part < 2; part++)
            for (int v = 0; v < VECS; v++) {
                x[part][v] = splat(0);
                if (i + part < panels)
                    x[part][v] = power_of_two(
                        load(at + part * next + v * LANES) - top, way == IN_PAIRS);
                sums += x[part][v];
            }
        /* Panels are an even number in a block: there is room for two. */
        if (way == IN_TILES)
            split_pairs(x[0][0], x[1][0], at, at + next);
        else if (way == IN_PAIRS)
            round_pairs(x[0][0], x[1][0], first + i * PANEL / 2);
        else
            for (int part = 0; part < 2; part++)
                for (int v = 0; v < VECS; v++)
                    store(at + part * next + v * LANES, x[part][v]);
    }
    /* No branches: whether a block has a larger score is as good as random. */
    const vec share = power_of_two(splat(*largest) - top, false);
    *largest = top;
    *total = *total * share + sums;
    return share[0];
}

/* A block of queries of one head. */
static void attend_block(void *context, int64_t index)
{
    const job *it = context;
    const flash *p = it->p;
    const products *with = it->with;
    const bool tiled = with->way == IN_TILES;
    const int64_t blocks = parts_of(p->queries, with->queries);
    const int64_t query = index % blocks * with->queries, width = p->heads * p->head_dim;
    const int64_t rows = least(p->queries - query, with->queries);
    const int64_t head = index / blocks % p->heads, sequence = index / blocks / p->heads;
    const int64_t kv_head = sequence * p->kv_heads + head / (p->heads / p->kv_heads);
    const float *packed = it->packed + kv_head * with->packed_floats(p);
    const int64_t seen = least(p->keys, p->first + (query + rows - 1) * p->more);
    const int64_t row_of_all = sequence * p->queries + query;
    float *const attended = p->attended + row_of_all * width + head * p->head_dim;
    const int64_t columns = PANELS_OF(p->head_dim);
    float *const scores = scratch(OWN, MOST_QUERIES * (KEYS + columns * PANEL + BLOCK_DEPTH));
    float *const sums = scores + MOST_QUERIES * KEYS;
    float *const queries = sums + MOST_QUERIES * columns * PANEL;
    float largest[MOST_QUERIES];
    vec totals[MOST_QUERIES] = {0};
    for (int64_t row = 0; row < rows; row++)
        largest[row] = -INFINITY;
    pack_turned(it, row_of_all, rows, head, scores, queries);
    for (int64_t start = 0; start < seen; start += KEYS) {
        const int64_t panels = PANELS_OF(least(seen - start, KEYS));
        with->score(p, queries, rows, packed, start, panels, scores);
        if (p->first + query * p->more < start + panels * PANEL)
            hide(p, tiled, query, rows, start, panels, scores);
        for (int64_t row = 0; row < rows; row++) {
            const float share =
                weights_of(with->way, scores, row, panels, largest + row, totals + row);
            if (start)
                for (int64_t i = 0; i < columns; i++)
                    scale(place(tiled, sums, columns, row, i), share);
        }
        with->weigh(p, scores, rows, packed, start, panels, sums, start > 0);
    }
    for (int64_t row = 0; row < rows; row++) {
        const float share = 1 / sum(totals[row]);
        const float *const ahead = attended + (row + ROWS_AHEAD) * width;
        for (int64_t i = 0; i < columns; i++)
            __builtin_prefetch(ahead + i * PANEL, 1, 3);
        for (int64_t i = 0; i < columns; i++) {
            float *const part = place(tiled, sums, columns, row, i);
            float *const to = attended + row * width + i * PANEL;
            scale(part, share);
            if (p->head_dim - i * PANEL >= PANEL)
                memcpy(to, part, PANEL * 4);
            else
                memcpy(to, part, (size_t)(p->head_dim - i * PANEL) * 4);
        }
    }
}

/* A sequence, whose keys and values stay in the cache of the thread that packs them. */
static void attend_sequence(void *context, int64_t sequence)
{
    const job *all = context;
    flash one = *all->p;
    const int64_t queries = sequence * one.queries, keys = sequence * one.keys;
    one.q += queries * one.next_query;
    one.attended += queries * one.heads * one.head_dim;
    one.k += keys * one.next_key;
    one.v += keys * one.next_value;
    if (one.cos) {
        one.cos += keys * one.head_dim;
        one.sin += keys * one.head_dim;
    }
    one.sequences = 1;
    job it = {&one, all->with, scratch(SHARED, one.kv_heads * all->with->packed_floats(&one))};
    for (int64_t i = 0; i < parts_of(one.keys, PACKED); i++)
        pack_some(&it, i);
    for (int64_t i = 0; i < one.heads * parts_of(one.queries, it.with->queries); i++)
        attend_block(&it, i);
}

void flash_attention(const flash *p)
{
    const products *with = tiles_usable()                   ? &on_tiles
                           : PAIRS && rounded(p->keys) ? &on_pairs
                                                       : &on_vectors;
    job it = {p, with, NULL};
    if (p->sequences >= MANY_SEQUENCES * threads()) {
        parallel(attend_sequence, &it, p->sequences);
        return;
    }
    it.packed = scratch(SHARED, p->sequences * p->kv_heads * with->packed_floats(p));
    parallel(pack_some, &it, p->sequences * parts_of(p->keys, PACKED));
    parallel(attend_block, &it, p->sequences * p->heads * parts_of(p->queries, with->queries));
}
