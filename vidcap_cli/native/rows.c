/* What a layer does to float32 rows besides: norms, rotary positions, attention of one query. */
#include "native.h"
#include "rows.h"

#include <math.h>

#define ROWS_AT_ONCE 16
#define TOKENS_AT_ONCE 4
#define TOKENS_IN_CACHE 8 /* the first one, with their keys or values for the next head */
#define PART_TOKENS 256    /* tokens for one thread, of a head of keys */
#define LINE 16            /* floats of a line of it */
#define ROOM (PART_TOKENS + LANES)

INLINE float dot(const float *a, const float *b, int64_t n)
{
    vec sums[4] = {0};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int part = 0; part < 4; part++)
            sums[part] += load(a + i + part * LANES) * load(b + i + part * LANES);
    for (; i + LANES <= n; i += LANES)
        sums[0] += load(a + i) * load(b + i);
    float total = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < n; i++)
        total += a[i] * b[i];
    return total;
}

static float mean(const float *x, int64_t n)
{
    vec sums = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        sums += load(x + i);
    float total = sum(sums);
    for (; i < n; i++)
        total += x[i];
    return total / (float)n;
}

static void norm_row(const norm *p, const float *x, float *to)
{
    const float center = p->bias ? mean(x, p->width) : 0;
    for (int64_t i = 0; i < p->width; i++)
        to[i] = x[i] - center;
    const float scale = 1 / sqrtf(dot(to, to, p->width) / (float)p->width + p->eps);
    for (int64_t i = 0; i < p->width; i++)
        to[i] = to[i] * scale * p->weight[i] + (p->bias ? p->bias[i] : 0);
}

static void norm_some(void *context, int64_t index)
{
    const norm *p = context;
    const int64_t start = index * ROWS_AT_ONCE;
    for (int64_t row = start; row < least(start + ROWS_AT_ONCE, p->rows); row++) {
        const int64_t first = row * p->width;
        if (p->delta)
            for (int64_t i = first; i < first + p->width; i++)
                p->total[i] = p->x[i] + p->delta[i];
        norm_row(p, (p->delta ? p->total : p->x) + first, p->normed + first);
    }
}

void norms(const norm *p)
{
    parallel(norm_some, (void *)p, (p->rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE);
}

/* Heads of a row from x on, turned if there are ``cos`` and ``sin``. */
static void turn(
    float *to, const float *x, const float *cos, const float *sin, int64_t width, int64_t head_dim)
{
    const int64_t half = head_dim / 2;
    if (!cos) {
        memcpy(to, x, (size_t)width * 4);
        return;
    }
    for (int64_t head = 0; head < width; head += head_dim, x += head_dim, to += head_dim)
        for (int64_t i = 0; i < half; i++) {
            const float first = x[i], second = x[half + i];
            to[i] = first * cos[i] - second * sin[i];
            to[half + i] = second * cos[half + i] + first * sin[half + i];
        }
}

static void rotate_some(void *context, int64_t index)
{
    const rotation *p = context;
    const int64_t start = index * ROWS_AT_ONCE, both = p->q_width + p->kv_width;
    for (int64_t row = start; row < least(start + ROWS_AT_ONCE, p->rows); row++) {
        const float *x = p->qkv + row * (both + p->kv_width);
        const float *cos = p->cos ? p->cos + row * p->head_dim : NULL;
        const float *sin = p->cos ? p->sin + row * p->head_dim : NULL;
        turn(p->q + row * p->q_width, x, cos, sin, p->q_width, p->head_dim);
        turn(p->k + row * p->kv_width, x + p->q_width, cos, sin, p->kv_width, p->head_dim);
        memcpy(p->v + row * p->kv_width, x + both, (size_t)p->kv_width * 4);
    }
}

void rotate(const rotation *p)
{
    parallel(rotate_some, (void *)p, (p->rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE);
}

static void largest_of_row(void *context, int64_t row)
{
    const choice *p = context;
    const float *x = p->x + row * p->width;
    /* The first of the largest: that of each part, then of the parts. */
    enum { PART = 1024 };
    int64_t best = 0;
    for (int64_t start = 0; start < p->width; start += PART) {
        const int64_t end = least(start + PART, p->width);
        float most = x[start];
        for (int64_t i = start; i < end; i++)
            most = x[i] > most ? x[i] : most;
        if (start && !(most > x[best]))
            continue;
        for (best = start; best < end - 1 && x[best] != most; best++)
            ;
    }
    p->largest[row] = (int32_t)best;
}

void largest(const choice *p)
{
    parallel(largest_of_row, (void *)p, p->rows);
}

static void log_prob_of_row(void *context, int64_t row)
{
    const scoring *p = context;
    const float *x = p->logits + row * p->width;
    float most = x[0];
    for (int64_t i = 1; i < p->width; i++)
        most = x[i] > most ? x[i] : most;
    /* Some at a time: a single float loses digits over a whole vocabulary. */
    enum { PART = 1024 };
    double total = 0;
    for (int64_t start = 0; start < p->width; start += PART) {
        const int64_t end = least(start + PART, p->width);
        vec sums = {0};
        int64_t i = start;
        for (; i + LANES <= end; i += LANES)
            sums += vexp(load(x + i) - most);
        total += sum(sums);
        for (; i < end; i++)
            total += expf(x[i] - most);
    }
    p->log_probs[row] = x[p->ids[row]] - most - (float)log(total);
}

void log_probs(const scoring *p)
{
    parallel(log_prob_of_row, (void *)p, p->rows);
}

#define NUMBERS_AT_ONCE 16384

static void penalise_some(void *context, int64_t index)
{
    const pricing *p = context;
    const int64_t start = index * NUMBERS_AT_ONCE;
    for (int64_t i = start; i < least(start + NUMBERS_AT_ONCE, p->n); i++) {
        const float x = p->logits[i], factor = p->factors[i];
        p->penalised[i] = !factor ? -3e38f : x < 0 ? x * factor : x / factor;
    }
}

void penalise(const pricing *p)
{
    parallel(penalise_some, (void *)p, (p->n + NUMBERS_AT_ONCE - 1) / NUMBERS_AT_ONCE);
}

/* e^(x - most) in place of x; their sum. */
static float exponentials(float *x, int64_t n, float most)
{
    float total = 0;
    for (int64_t i = 0; i < n; i += LANES) {
        const vec e = vexp(load(x + i) - most);
        store(x + i, e);
        if (i + LANES <= n)
            total += sum(e);
        else
            for (int64_t rest = i; rest < n; rest++)
                total += x[rest];
    }
    return total;
}

/* to [width] += the weighted sum of ``tokens`` rows of values. */
static void add_values(
    float *restrict to, const float *weights, const float *v, int64_t tokens, int64_t width)
{
    int64_t token = 0;
    for (; token + TOKENS_AT_ONCE <= tokens; token += TOKENS_AT_ONCE) {
        const float *some = v + token * width, *weight = weights + token;
        for (int64_t i = 0; i < width; i++)
            to[i] += weight[0] * some[i] + weight[1] * some[width + i]
                     + weight[2] * some[2 * width + i] + weight[3] * some[3 * width + i];
    }
    for (; token < tokens; token++)
        for (int64_t i = 0; i < width; i++)
            to[i] += weights[token] * v[token * width + i];
}

/* What each head of queries sees of a part of the tokens: the weighted sum of their values, the
 * largest of its scores, and the sum of its weights e^(score - largest).
 */
typedef struct {
    const attention *p;
    float *seen;
    int64_t parts, group, size; /* of a slot at most; heads that share keys; floats of a head */
} partition;

/* Bring the share of a head of the next tokens' keys or values into a cache, while those at hand are
 * computed with. */
INLINE void fetch_next(const partition *it, const float *next, int64_t head)
{
    const int64_t share = TOKENS_IN_CACHE * it->p->head_dim / it->group;
    for (int64_t i = 0; i < share; i += LINE)
        __builtin_prefetch(next + head * share + i, 0, 2);
}

/* A part of the tokens for all heads that share their keys: these are read once. */
static void attend_part(void *context, int64_t index)
{
    const partition *it = context;
    const attention *p = it->p;
    const int64_t row = index / it->parts, first = index % it->parts * PART_TOKENS;
    const int64_t tokens = least(p->last[row] + 1 - first, PART_TOKENS), width = p->head_dim;
    const float *q = p->q + row * it->group * width, scale = 1 / sqrtf((float)width);
    const float *k = p->keys + (row * p->length + first) * width;
    const float *v = p->values + (row * p->length + first) * width;
    float *seen = it->seen + index * it->group * it->size;
    float *const scores = scratch(OWN, it->group * ROOM);
    for (int64_t start = 0; start < tokens; start += TOKENS_IN_CACHE)
        for (int64_t head = 0; head < it->group; head++) {
            fetch_next(it, k + (start + TOKENS_IN_CACHE) * width, head);
            for (int64_t i = start; i < least(start + TOKENS_IN_CACHE, tokens); i++)
                scores[head * ROOM + i] = dot(q + head * width, k + i * width, width) * scale;
        }
    for (int64_t head = 0; tokens > 0 && head < it->group; head++) {
        float *const own = scores + head * ROOM, *const to = seen + head * it->size;
        float most = own[0];
        for (int64_t i = 1; i < tokens; i++)
            most = own[i] > most ? own[i] : most;
        for (int64_t i = tokens; i < tokens + LANES; i++)
            own[i] = most;
        memset(to, 0, (size_t)width * 4);
        to[width] = most;
        to[width + 1] = exponentials(own, tokens, most);
    }
    for (int64_t start = 0; start < tokens; start += TOKENS_IN_CACHE)
        for (int64_t head = 0; head < it->group; head++) {
            fetch_next(it, v + (start + TOKENS_IN_CACHE) * width, head);
            add_values(
                seen + head * it->size, scores + head * ROOM + start, v + start * width,
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
        add_values(to, &share, seen, 1, width);
    }
    for (int64_t i = 0; i < width; i++)
        to[i] /= total;
}

void attend(const attention *p, int64_t slots)
{
    const int64_t rows = slots * p->kv_heads;
    partition it = {p, .group = p->heads / p->kv_heads, .size = p->head_dim + 2};
    for (int64_t row = 0; row < rows; row++)
        if (p->last[row] / PART_TOKENS + 1 > it.parts)
            it.parts = p->last[row] / PART_TOKENS + 1;
    it.seen = scratch(SHARED, rows * it.parts * it.group * it.size);
    parallel(attend_part, &it, rows * it.parts);
    parallel(join_parts, &it, slots * p->heads);
}
