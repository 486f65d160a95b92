/* A decode step through a layer, from products, norms and attention: what a framework takes between
 * two kernels is as long as some of these are.
 */
#include "layer.h"
#include "rows.h"

static void product_of(
    const layer *p, const float *x, int64_t k, const matrix *w, const matrix *up,
    const float *bias, const float *residual, float *y)
{
    const product it = {
        .x = x, .w = {w->numbers, up ? up->numbers : NULL}, .bias = {bias}, .residual = residual,
        .y = y, .m = p->slots, .n = w->n, .k = k, .depth = w->depth, .kind = p->kind,
        .activation = up ? SWIGLU : NONE};
    multiply(&it);
}

static void rms_norm(const layer *p, const float *x, const float *weight, float *normed)
{
    const norm it = {
        .x = x, .weight = weight, .normed = normed, .eps = p->eps, .rows = p->slots,
        .width = p->hidden};
    norms(&it);
}

/* Keys, or values, [slots * kv_heads, head_dim] of the new tokens. */
static void append(const layer *p, void *cache, const float *rows)
{
    const int64_t width = p->head_dim;
    for (int64_t row = 0; row < p->slots * p->kv_heads; row++, rows += width) {
        const int64_t start = (row * p->length + p->last[row]) * width;
        if (p->cached == FLOAT32)
            memcpy((float *)cache + start, rows, (size_t)width * 4);
        else
            for (int64_t i = 0; i < width; i++)
                ((uint16_t *)cache)[start + i] = bfloat16(rows[i]);
    }
}

/* What the new tokens, whose projections are ``qkv``, attend to; ``turned`` has room for these. */
static void attend_to_caches(const layer *p, const float *qkv, float *turned, float *attended)
{
    const int64_t kv_width = p->kv_heads * p->head_dim, q_width = p->qkv.n - 2 * kv_width;
    float *const k = turned + p->slots * q_width, *const v = k + p->slots * kv_width;
    const rotation parts = {
        .qkv = qkv, .cos = p->cos, .sin = p->sin, .q = turned, .k = k, .v = v, .rows = p->slots,
        .q_width = q_width, .kv_width = kv_width, .head_dim = p->head_dim};
    rotate(&parts);
    append(p, p->keys, k);
    append(p, p->values, v);
    const attention seen = {
        .q = turned, .keys = p->keys, .values = p->values, .last = p->last, .attended = attended,
        .heads = q_width / p->head_dim, .kv_heads = p->kv_heads, .head_dim = p->head_dim,
        .length = p->length, .kind = p->cached};
    attend(&seen, p->slots);
}

void decoder_layer(const layer *p)
{
    const int64_t q_width = p->qkv.n - 2 * p->kv_heads * p->head_dim, mlp = p->gate.n;
    float *const normed = scratch(LAYER, p->slots * (2 * p->hidden + 2 * p->qkv.n + q_width + mlp));
    float *const total = normed + p->slots * p->hidden, *const qkv = total + p->slots * p->hidden;
    float *const turned = qkv + p->slots * p->qkv.n;
    float *const attended = turned + p->slots * p->qkv.n;
    float *const gated = attended + p->slots * q_width;
    rms_norm(p, p->x, p->input_norm, normed);
    product_of(p, normed, p->hidden, &p->qkv, NULL, p->qkv_bias, NULL, qkv);
    attend_to_caches(p, qkv, turned, attended);
    product_of(p, attended, q_width, &p->o_proj, NULL, NULL, p->x, total);
    rms_norm(p, total, p->post_attention_norm, normed);
    product_of(p, normed, p->hidden, &p->gate, &p->up, NULL, NULL, gated);
    product_of(p, gated, mlp, &p->down, NULL, NULL, total, p->y);
}
