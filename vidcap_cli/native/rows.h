#ifndef VIDCAP_ROWS_H
#define VIDCAP_ROWS_H

#include <stdint.h>

/* With ``delta``: total = x + delta, normed = norm(total); without: normed = norm(x). With ``bias``
 * LayerNorm (Ba et al. 2016), without it RMSNorm (Zhang and Sennrich 2019). All are [rows, width].
 */
typedef struct {
    const float *x, *delta, *weight, *bias;
    float *total, *normed, eps;
    int64_t rows, width;
} norm;

void norms(const norm *p);

/* Rotary positions (Su et al. 2021) of x [rows, heads * head_dim], cos and sin [rows, head_dim]. */
typedef struct {
    const float *x, *cos, *sin;
    float *turned;
    int64_t rows, heads, head_dim;
} rotation;

void rotate(const rotation *p);

/* softmax(q k^T / sqrt(head_dim)) v of one query for each slot [slots, heads * head_dim], over the
 * tokens 0 to last[slot * kv_heads] of caches [slots * kv_heads, length, head_dim].
 */
typedef struct {
    const float *q, *keys, *values;
    const int32_t *last;
    float *attended;
    int64_t heads, kv_heads, head_dim, length;
} attention;

void attend(const attention *p, int64_t slots);

#endif
