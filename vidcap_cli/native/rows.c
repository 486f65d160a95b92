/* What a layer does to float32 rows besides: norms, rotary positions, attention of one query. */
#include "native.h"
#include "rows.h"

#include <math.h>

#define ROWS_AT_ONCE 16
#define TOKENS_AT_ONCE 4

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

static void turn_some(void *context, int64_t index)
{
    const rotation *p = context;
    const int64_t half = p->head_dim / 2, start = index * ROWS_AT_ONCE;
    for (int64_t row = start; row < least(start + ROWS_AT_ONCE, p->rows); row++) {
        const float *cos = p->cos + row * p->head_dim, *sin = p->sin + row * p->head_dim;
        for (int64_t head = 0; head < p->heads; head++) {
            const int64_t first = (row * p->heads + head) * p->head_dim, second = first + half;
            for (int64_t i = 0; i < half; i++) {
                const float x = p->x[first + i], y = p->x[second + i];
                p->turned[first + i] = x * cos[i] - y * sin[i];
                p->turned[second + i] = y * cos[half + i] + x * sin[half + i];
            }
        }
    }
}

void rotate(const rotation *p)
{
    parallel(turn_some, (void *)p, (p->rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE);
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

/* A head of queries of one slot. */
static void attend_head(void *context, int64_t index)
{
    const attention *p = context;
    const int64_t slot = index / p->heads, head = index % p->heads, width = p->head_dim;
    const int64_t row = slot * p->kv_heads + head / (p->heads / p->kv_heads);
    const int64_t tokens = p->last[row] + 1;
    const float *q = p->q + index * width, *k = p->keys + row * p->length * width;
    const float *v = p->values + row * p->length * width, scale = 1 / sqrtf((float)width);
    float *scores = scratch(tokens + LANES), *to = p->attended + index * width;
    float most = -INFINITY;
    for (int64_t token = 0; token < tokens; token++) {
        scores[token] = dot(q, k + token * width, width) * scale;
        most = scores[token] > most ? scores[token] : most;
    }
    for (int64_t token = tokens; token < tokens + LANES; token++)
        scores[token] = most;
    const float share = 1 / exponentials(scores, tokens, most);
    memset(to, 0, (size_t)width * 4);
    int64_t token = 0;
    for (; token + TOKENS_AT_ONCE <= tokens; token += TOKENS_AT_ONCE) {
        const float *some = v + token * width, *weight = scores + token;
        for (int64_t i = 0; i < width; i++)
            to[i] += weight[0] * some[i] + weight[1] * some[width + i]
                     + weight[2] * some[2 * width + i] + weight[3] * some[3 * width + i];
    }
    for (; token < tokens; token++)
        for (int64_t i = 0; i < width; i++)
            to[i] += scores[token] * v[token * width + i];
    for (int64_t i = 0; i < width; i++)
        to[i] *= share;
}

void attend(const attention *p, int64_t slots)
{
    parallel(attend_head, (void *)p, slots * p->heads);
}
