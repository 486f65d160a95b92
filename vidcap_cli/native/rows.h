#ifndef VIDCAP_ROWS_H
#define VIDCAP_ROWS_H

#include "native.h"

/* Numbers ``i`` and following of the two halves of a head. */
INLINE void turn_vec(
    float *to, const float *x, const float *cos, const float *sin, int64_t half, int64_t i)
{
    const vec first = load(x + i), second = load(x + half + i);
    store(to + i, first * load(cos + i) - second * load(sin + i));
    store(to + half + i, second * load(cos + half + i) + first * load(sin + half + i));
}

/* Heads of a row from x on with their rotary positions (Su et al. 2021), or as they are without ``cos``
 * and ``sin`` [head_dim]. */
INLINE void turn(
    float *to, const float *x, const float *cos, const float *sin, int64_t width, int64_t head_dim)
{
    const int64_t half = head_dim / 2;
    if (!cos) {
        memcpy(to, x, (size_t)width * 4);
        return;
    }
    for (int64_t head = 0; head < width; head += head_dim, x += head_dim, to += head_dim) {
        int64_t i = 0;
        for (; i + LANES <= half; i += LANES)
            turn_vec(to, x, cos, sin, half, i);
        if (i == half)
            continue;
        if (i) /* some of them once more */
            turn_vec(to, x, cos, sin, half, half - LANES);
        else
            for (; i < half; i++) {
                to[i] = x[i] * cos[i] - x[half + i] * sin[i];
                to[half + i] = x[half + i] * cos[half + i] + x[i] * sin[half + i];
            }
    }
}

/* With ``delta``: total = x + delta, normed = norm(total); without: normed = norm(x). With ``bias``
 * LayerNorm (Ba et al. 2016), without it RMSNorm (Zhang and Sennrich 2019). All are [rows, width].
 */
typedef struct {
    const float *x, *delta, *weight, *bias;
    float *total, *normed, eps;
    int64_t rows, width;
} norm;

void norms(const norm *p);

/* qkv [rows, q_width + 2 kv_width] in three; with ``cos`` and ``sin`` [rows, head_dim], queries and
 * keys have their rotary positions (Su et al. 2021).
 */
typedef struct {
    const float *qkv, *cos, *sin;
    float *q, *k, *v;
    int64_t rows, q_width, kv_width, head_dim;
} rotation;

void rotate(const rotation *p);

/* The place of the largest number of each row of x [rows, width]; of equal ones the first. */
typedef struct {
    const float *x;
    int32_t *largest;
    int64_t rows, width;
} choice;

void largest(const choice *p);

/* log softmax of each row of logits [rows, width] at ``ids``. */
typedef struct {
    const float *logits;
    const int32_t *ids;
    float *log_probs;
    int64_t rows, width;
} scoring;

void log_probs(const scoring *p);

/* logits [n], less by their factors as ``Kernels.penalised`` says, penalised [n]. */
typedef struct {
    const float *logits, *factors;
    float *penalised;
    int64_t n;
} pricing;

void penalise(const pricing *p);

/* softmax(q k^T / sqrt(head_dim)) v of one query for each slot [slots, heads * head_dim], over the
 * tokens 0 to last[slot * kv_heads] of caches [slots * kv_heads, length, head_dim] of ``kind``: float32
 * or bfloat16.
 */
typedef struct {
    const float *q;
    const void *keys, *values;
    enum kind kind;
    const int32_t *last;
    float *attended;
    int64_t heads, kv_heads, head_dim, length;
} attention;

void attend(const attention *p, int64_t slots);

#endif
