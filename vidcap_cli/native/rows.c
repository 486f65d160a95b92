/* What a layer does to float32 rows besides: norms, rotary positions, choices among logits. */
#include "native.h"
#include "rows.h"

#include <math.h>

#define ROWS_AT_ONCE 16

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
    parallel(norm_some, (void *)p, parts_of(p->rows, ROWS_AT_ONCE));
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
    parallel(rotate_some, (void *)p, parts_of(p->rows, ROWS_AT_ONCE));
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
    parallel(penalise_some, (void *)p, parts_of(p->n, NUMBERS_AT_ONCE));
}
