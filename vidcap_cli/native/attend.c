/* Attention of one query for each slot over the tokens of its caches: memory is read once for all heads
 * that share it, and a part of the tokens is a thread's (Flash-Decoding, Dao et al. 2023).
 */
#include "pairs.h"
#include "rows.h"

#include <math.h>

#define PART_TOKENS 256    /* for one thread, of a head of keys */
#define TOKENS_IN_CACHE 16 /* the first one, with their keys or values for the next heads */
#define FETCH_AHEAD 16     /* tokens, into the second one */
#define ROOM (PART_TOKENS + LANES)
#define MOST_WIDTH 256 /* of a head that is read two by two */
#define HEADS 4                      /* at once: they share what is loaded */
#define COLUMNS (LANES == 8 ? 2 : 4) /* vectors of values at once: their sums have registers */

/* Before a loop: arrays that it counts through become registers. */
#ifdef __clang__
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

/* How a cache is read: as numbers of its ``kind``, or two by two where rows are rounded for it. */
enum { PAIRED = BFLOAT16 + 1 };
#define PAIRS_AT_ONCE (2 * LANES)

/* Numbers of a cache: of bfloat16 32 bits, the upper ones, are float32. */
INLINE vec numbers(const int kind, const char *from)
{
    hvec halves;
    if (kind == FLOAT32 || kind == PAIRED)
        return load((const float *)from);
    memcpy(&halves, from, sizeof halves);
    return (vec)(__builtin_convertvector(halves, ivec) << 16);
}

INLINE float number(const int kind, const char *from)
{
    return kind == FLOAT32 ? *(const float *)from : widened(*(const uint16_t *)from);
}

static float largest_of(const float *x, int64_t n)
{
    vec most = splat(x[0]);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        most = choose(load(x + i) > most, load(x + i), most);
    float top = x[0];
    for (int lane = 0; lane < LANES; lane++)
        top = most[lane] > top ? most[lane] : top;
    for (; i < n; i++)
        top = x[i] > top ? x[i] : top;
    return top;
}

/* e^(x - most) in place of x; their sum. */
static float exponentials(float *x, int64_t n, float most)
{
    vec total = {0};
    float rest = 0;
    for (int64_t i = 0; i < n; i += LANES) {
        const vec e = vexp(load(x + i) - most);
        store(x + i, e);
        if (i + LANES <= n)
            total += e;
        else
            for (; i < n; i++)
                rest += x[i];
    }
    return sum(total) + rest;
}

/* A fold adds those lanes of two vectors, one behind the other, that are ``width`` apart. */
#define AT(lane, width) (lane) / (width) * 2 * (width) + (lane) % (width)
#define FOUR(lane, width, more)                                                                    \
    AT(lane, width) + more, AT(lane + 1, width) + more, AT(lane + 2, width) + more,                \
        AT(lane + 3, width) + more
#if LANES == 16
#define ALL(width, more)                                                                           \
    FOUR(0, width, more), FOUR(4, width, more), FOUR(8, width, more), FOUR(12, width, more)
#elif LANES == 8
#define ALL(width, more) FOUR(0, width, more), FOUR(4, width, more)
#else
#define ALL(width, more) FOUR(0, width, more)
#endif
#define FOLD(x, width)                                                                             \
    UNROLLED for (int i = 0; i < width; i++)                                                       \
        x[i] = __builtin_shufflevector(x[2 * i], x[2 * i + 1], ALL(width, 0))                      \
               + __builtin_shufflevector(x[2 * i], x[2 * i + 1], ALL(width, width))

/* The sums of as many vectors as one has lanes. */
INLINE vec sums_of(vec x[LANES])
{
#if LANES == 16
    FOLD(x, 8);
#endif
#if LANES >= 8
    FOLD(x, 4);
#endif
    FOLD(x, 2);
    FOLD(x, 1);
    return x[0];
}

/* scores [heads, tokens] = scale q k^T of LANES / heads tokens from ``start`` on; of those beyond the
 * last, its own. PAIRED queries are rounded, half as long. */
INLINE void score(
    const int heads, const int kind, const float *q, const char *k, int64_t start, int64_t tokens,
    int64_t width, float scale, float *scores)
{
    const int some = LANES / heads, in_one = kind == PAIRED ? 2 : 1;
    const int64_t size = bytes_of(kind), next = width / in_one, step = LANES * in_one;
    const char *keys[LANES];
    vec sums[LANES];
    UNROLLED for (int token = 0; token < some; token++)
        keys[token] = k + least(start + token, tokens - 1) * width * size;
    UNROLLED for (int i = 0; i < LANES; i++)
        sums[i] = splat(0);
    int64_t i = 0;
    for (; i + step <= width; i += step) {
        vec parts[HEADS];
        UNROLLED for (int head = 0; head < heads; head++)
            parts[head] = load(q + head * next + i / in_one);
        UNROLLED for (int token = 0; token < some; token++) {
            const vec key = numbers(kind, keys[token] + i * size);
            __builtin_prefetch(keys[token] + (i + FETCH_AHEAD * width) * size, 0, 2);
            UNROLLED for (int head = 0; head < heads; head++) {
                vec *const total = sums + head * some + token;
                *total = kind == PAIRED ? dot_pairs(*total, parts[head], key)
                                        : *total + parts[head] * key;
            }
        }
    }
    vec found = sums_of(sums);
    for (; i < width; i++)
        for (int head = 0; head < heads; head++)
            for (int token = 0; token < some; token++)
                found[head * some + token] += q[head * width + i] * number(kind, keys[token] + i * size);
    found *= scale;
    float both[LANES];
    store(both, found);
    UNROLLED for (int head = 0; head < heads; head++)
        memcpy(scores + head * ROOM + start, both + head * some, (size_t)some * 4);
}

/* to [heads, columns vectors] += the weighted sum of ``tokens`` rows of values; heads are ``next``
 * floats apart, their weights ROOM. */
INLINE void add_columns(
    const int heads, const int columns, const int kind, float *to, int64_t next,
    const float *weights, const char *v, int64_t tokens, int64_t width)
{
    const int64_t size = bytes_of(kind);
    vec sums[HEADS][COLUMNS];
    for (int head = 0; head < heads; head++)
        for (int c = 0; c < columns; c++)
            sums[head][c] = load(to + head * next + c * LANES);
    for (int64_t token = 0; token < tokens; token++, v += width * size) {
        vec values[COLUMNS];
        UNROLLED for (int c = 0; c < columns; c++) {
            values[c] = numbers(kind, v + c * LANES * size);
            __builtin_prefetch(v + (c * LANES + FETCH_AHEAD * width) * size, 0, 2);
        }
        UNROLLED for (int head = 0; head < heads; head++)
            UNROLLED for (int c = 0; c < columns; c++)
                sums[head][c] += weights[head * ROOM + token] * values[c];
    }
    for (int head = 0; head < heads; head++)
        for (int c = 0; c < columns; c++)
            store(to + head * next + c * LANES, sums[head][c]);
}

/* The same of 64 or 32 columns, of tokens two by two. The upper four of each eight columns come 16
 * places later: ``unpaired``. */
INLINE void add_pairs(
    const int heads, const int columns, float *to, int64_t next, const float *weights, const char *v,
    int64_t tokens, int64_t width)
{
    vec sums[HEADS][COLUMNS];
    for (int head = 0; head < heads; head++)
        for (int c = 0; c < columns; c++)
            sums[head][c] = load(to + head * next + c * LANES);
    for (int64_t token = 0; token < tokens; token += 2, v += width * 4) {
        vec values[COLUMNS];
        /* The last may be alone: its weight in a pair with itself is 0. */
        const int64_t second = token + 1 < tokens ? width * 2 : 0;
        UNROLLED for (int c = 0; c < columns; c += 2) {
            interleave(v + c * LANES * 2, v + second + c * LANES * 2, values + c);
            __builtin_prefetch(v + (c * LANES + FETCH_AHEAD * width) * 2, 0, 2);
            __builtin_prefetch(v + (c * LANES + (FETCH_AHEAD + 1) * width) * 2, 0, 2);
        }
        UNROLLED for (int head = 0; head < heads; head++)
            UNROLLED for (int c = 0; c < columns; c++)
                sums[head][c] =
                    dot_pairs(sums[head][c], splat_pair(weights + head * ROOM + token / 2), values[c]);
    }
    for (int head = 0; head < heads; head++)
        for (int c = 0; c < columns; c++)
            store(to + head * next + c * LANES, sums[head][c]);
}

/* Columns [width] as ``add_pairs`` has them, in their own order. */
INLINE void unpaired(const float *from, int64_t width, float *to)
{
    for (int64_t i = 0; i < width; i += 4)
        memcpy(to + i, from + i / 32 * 32 + i % 8 * 4 + i % 32 / 8 * 4, 16);
}

/* The same of all columns. */
INLINE void add_values(
    const int heads, const int kind, float *to, int64_t next, const float *weights,
    const char *v, int64_t tokens, int64_t width)
{
    const int64_t size = bytes_of(kind);
    int64_t i = 0;
    if (kind == PAIRED) {
        for (; i + COLUMNS * LANES <= width; i += COLUMNS * LANES)
            add_pairs(heads, COLUMNS, to + i, next, weights, v + i * size, tokens, width);
        for (; i < width; i += PAIRS_AT_ONCE)
            add_pairs(heads, 2, to + i, next, weights, v + i * size, tokens, width);
        return;
    }
    for (; i + COLUMNS * LANES <= width; i += COLUMNS * LANES)
        add_columns(heads, COLUMNS, kind, to + i, next, weights, v + i * size, tokens, width);
    for (; i + LANES <= width; i += LANES)
        add_columns(heads, 1, kind, to + i, next, weights, v + i * size, tokens, width);
    for (; i < width; i++)
        for (int head = 0; head < heads; head++)
            for (int64_t token = 0; token < tokens; token++)
                to[head * next + i] +=
                    weights[head * ROOM + token] * number(kind, v + (token * width + i) * size);
}

/* What each head of queries sees of a part of the tokens: the weighted sum of their values, the
 * largest of its scores, and the sum of its weights e^(score - largest).
 */
typedef struct {
    const attention *p;
    float *seen;
    int64_t parts, group, size; /* of a slot at most; heads that share keys; floats of a head */
    int kind;                   /* the cache's, or PAIRED */
} partition;

/* How many heads go together when so many are left. */
INLINE int64_t heads_at_once(int64_t left)
{
    return left >= HEADS ? HEADS : left >= 2 ? 2 : 1;
}

/* ``call`` with constants for the heads and the numbers that it is compiled for. */
#define COMPILED(call, heads, kind, ...)                                                           \
    if ((kind) == FLOAT32)                                                                         \
        FOR_HEADS(call, heads, FLOAT32, __VA_ARGS__);                                              \
    else if (PAIRS && (kind) == PAIRED)                                                            \
        FOR_HEADS(call, heads, PAIRED, __VA_ARGS__);                                               \
    else                                                                                           \
        FOR_HEADS(call, heads, BFLOAT16, __VA_ARGS__)
#define FOR_HEADS(call, heads, kind, ...)                                                          \
    ((heads) == HEADS ? call(HEADS, kind, __VA_ARGS__)                                             \
     : (heads) == 2   ? call(2, kind, __VA_ARGS__)                                                 \
                      : call(1, kind, __VA_ARGS__))

/* Scores of the tokens from ``start`` to ``end``. */
static void score_heads(
    int64_t heads, int kind, const float *q, const char *k, int64_t start, int64_t end,
    int64_t tokens, int64_t width, float scale, float *scores)
{
    for (int64_t i = start; i < end; i += LANES / heads)
        COMPILED(score, heads, kind, q, k, i, tokens, width, scale, scores);
}

static void weigh_heads(
    int64_t heads, int kind, float *to, int64_t next, const float *weights, const char *v,
    int64_t tokens, int64_t width)
{
    COMPILED(add_values, heads, kind, to, next, weights, v, tokens, width);
}

/* A part of the tokens for all heads that share their keys: these are read from memory once. */
static void attend_part(void *context, int64_t index)
{
    const partition *it = context;
    const attention *p = it->p;
    const int64_t row = index / it->parts, first = index % it->parts * PART_TOKENS;
    const int64_t tokens = least(p->last[row] + 1 - first, PART_TOKENS), width = p->head_dim;
    const float *q = p->q + row * it->group * width, scale = 1 / sqrtf((float)width);
    const int64_t in_one = it->kind == PAIRED ? 2 : 1;
    const int64_t start_of_part = (row * p->length + first) * width * bytes_of(p->kind);
    const char *k = (const char *)p->keys + start_of_part;
    const char *v = (const char *)p->values + start_of_part;
    float *seen = it->seen + index * it->group * it->size;
    float *const scores = scratch(OWN, it->group * (ROOM + width));
    float *const paired = scores + it->group * ROOM;
    if (it->kind == PAIRED) {
        round_row(q, it->group * width, (int32_t *)paired, it->group * width / 2);
        q = paired;
    }
    for (int64_t start = 0; start < tokens; start += TOKENS_IN_CACHE)
        for (int64_t head = 0, heads; head < it->group; head += heads) {
            heads = heads_at_once(it->group - head);
            score_heads(
                heads, it->kind, q + head * width / in_one, k, start, least(start + TOKENS_IN_CACHE, tokens), tokens,
                width, scale, scores + head * ROOM);
        }
    for (int64_t head = 0; tokens > 0 && head < it->group; head++) {
        float *const own = scores + head * ROOM, *const to = seen + head * it->size;
        const float most = largest_of(own, tokens);
        memset(to, 0, (size_t)width * 4);
        to[width] = most;
        to[width + 1] = exponentials(own, tokens, most);
        if (it->kind == PAIRED)
            round_row(own, tokens, (int32_t *)own, (tokens + 1) / 2);
    }
    for (int64_t start = 0; start < tokens; start += TOKENS_IN_CACHE)
        for (int64_t head = 0, heads; head < it->group; head += heads) {
            heads = heads_at_once(it->group - head);
            weigh_heads(
                heads, it->kind, seen + head * it->size, it->size,
                scores + head * ROOM + start / in_one, v + start * width * bytes_of(p->kind),
                least(tokens - start, TOKENS_IN_CACHE), width);
        }
}

/* The parts of a head as one. */
static void join_parts(void *context, int64_t index)
{
    const partition *it = context;
    const attention *p = it->p;
    const int64_t row = index / it->group, width = p->head_dim, next = it->group * it->size;
    const int64_t parts = p->last[row] / PART_TOKENS + 1;
    const float *seen =
        it->seen + row * it->parts * next + index % it->group * it->size;
    float *const to = p->attended + index * width;
    float most = seen[width], total = 0;
    for (int64_t part = 1; part < parts; part++)
        most = seen[part * next + width] > most ? seen[part * next + width] : most;
    memset(to, 0, (size_t)width * 4);
    for (int64_t part = 0; part < parts; part++, seen += next) {
        const float share = expf(seen[width] - most);
        total += share * seen[width + 1];
        add_values(1, FLOAT32, to, 0, &share, (const char *)seen, 1, width);
    }
    for (int64_t i = 0; i < width; i++)
        to[i] /= total;
    if (it->kind == PAIRED) {
        float paired[MOST_WIDTH];
        memcpy(paired, to, (size_t)width * 4);
        unpaired(paired, width, to);
    }
}

void attend(const attention *p, int64_t slots)
{
    const int64_t rows = slots * p->kv_heads;
    const bool pairs = PAIRS && p->kind == BFLOAT16 && rounds_rows()
                       && p->head_dim % PAIRS_AT_ONCE == 0 && p->head_dim <= MOST_WIDTH;
    partition it = {
        p, .group = p->heads / p->kv_heads, .size = p->head_dim + 2, .kind = pairs ? PAIRED : (int)p->kind};
    for (int64_t row = 0; row < rows; row++)
        if (p->last[row] / PART_TOKENS + 1 > it.parts)
            it.parts = p->last[row] / PART_TOKENS + 1;
    it.seen = scratch(SHARED, rows * it.parts * it.group * it.size);
    parallel(attend_part, &it, rows * it.parts);
    parallel(join_parts, &it, slots * p->heads);
}
