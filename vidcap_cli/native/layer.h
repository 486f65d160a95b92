#ifndef VIDCAP_LAYER_H
#define VIDCAP_LAYER_H

#include "native.h"

/* W [n, depth] of a product. */
typedef struct {
    const void *numbers;
    int64_t n, depth;
} matrix;

/* A layer of a decoder for the next token of each slot. x and y are [slots, hidden], cos and sin
 * [slots, head_dim]; ``qkv_bias`` has a number for each row of ``qkv``. Keys and values go to
 * ``last`` in caches of ``cached`` numbers as ``attention`` (rows.h) reads them.
 */
typedef struct {
    const float *x, *cos, *sin, *input_norm, *post_attention_norm, *qkv_bias;
    matrix qkv, o_proj, down, gate, up;
    enum kind kind, cached;
    void *keys, *values;
    const int32_t *last;
    float *y, eps;
    int64_t slots, hidden, kv_heads, head_dim, length;
} layer;

void decoder_layer(const layer *p);

#endif
