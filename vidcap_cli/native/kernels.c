/* The kernels as MindSpore calls them (ops.Custom, func_type "aot").
 *
 * ``params`` are the inputs, then the outputs; ``shapes`` and ``dtypes`` are theirs. 0 is success.
 * Rows are float32; weights float32, float16, or bfloat16 as uint16, kept as ``pack`` does.
 */
#include "flash.h"
#include "layer.h"
#include "native.h"
#include "rows.h"

#define KERNEL(name)                                                                               \
    EXPORT int name(                                                                               \
        int count, void **params, int *ndims, int64_t **shapes, const char **dtypes, void *stream, \
        void *extra)
#define UNUSED (void)count, (void)ndims, (void)shapes, (void)dtypes, (void)stream, (void)extra

#ifndef SOURCES
#define SOURCES ""
#endif

/* The digest of the sources that this was built of (sources.py). */
EXPORT const char *sources(void)
{
    return SOURCES;
}

enum { WRONG_DTYPE = 1 }; /* what MindSpore then says names the kernel */

static bool float32(const char **dtypes, int first, int count)
{
    for (int i = first; i < first + count; i++)
        if (strcmp(dtypes[i], "float32"))
            return false;
    return true;
}

static int kind_of(const char *dtype)
{
    static const char *const names[] = {
        [FLOAT32] = "float32", [FLOAT16] = "float16", [BFLOAT16] = "uint16"};
    for (int kind = FLOAT32; kind <= BFLOAT16; kind++)
        if (!strcmp(dtype, names[kind]))
            return kind;
    return -1;
}

/* The kind of a cache of keys and that of values, which are the same; -1 where it is none they have. */
static int cached_kind(const char **dtypes)
{
    const int kind = kind_of(dtypes[0]);
    return kind == FLOAT16 || strcmp(dtypes[0], dtypes[1]) ? -1 : kind;
}

/* A product of x [m, k] with ``weights`` of W [n, depth], to which each may have a bias [n]; with as
 * ``last`` a residual [m, n]. */
static int product_of(
    int count, void **params, int64_t **shapes, const char **dtypes, int weights, bool last,
    enum activation activation)
{
    const int kind = kind_of(dtypes[1]), y = count - 1, biases = y - last - weights - 1;
    if (kind < 0 || kind_of(dtypes[weights]) != kind || !float32(dtypes, 0, 1)
        || !float32(dtypes, weights + 1, biases + last))
        return WRONG_DTYPE;
    product p = {
        .x = params[0], .w = {params[1]}, .residual = last ? params[y - 1] : NULL, .y = params[y],
        .m = shapes[0][0], .n = shapes[1][0], .k = shapes[0][1], .depth = shapes[1][1],
        .kind = (enum kind)kind, .activation = activation};
    if (weights == 2)
        p.w[1] = params[2];
    for (int i = 0; i < biases; i++)
        p.bias[i] = params[weights + 1 + i];
    multiply(&p);
    return 0;
}

/* x [m, k], W [n, depth], and perhaps a bias [n]: y [m, n]. */
KERNEL(linear)
{
    UNUSED;
    return product_of(count, params, shapes, dtypes, 1, false, NONE);
}

/* The same, its QuickGELU. */
KERNEL(linear_quick_gelu)
{
    UNUSED;
    return product_of(count, params, shapes, dtypes, 1, false, QUICK_GELU);
}

/* The same, its GELU. */
KERNEL(linear_gelu)
{
    UNUSED;
    return product_of(count, params, shapes, dtypes, 1, false, GELU);
}

/* x, W and perhaps a bias as before, and last what is added to y [m, n]. */
KERNEL(linear_add)
{
    UNUSED;
    return product_of(count, params, shapes, dtypes, 1, true, NONE);
}

/* x [m, k], W_gate and W_up [n, depth], and perhaps a bias [n] of each:
 * silu(x W_gate^T + b_gate) * (x W_up^T + b_up) [m, n]. */
KERNEL(swiglu)
{
    UNUSED;
    return product_of(count, params, shapes, dtypes, 2, false, SWIGLU);
}

/* Table [n, depth], ids [m]: rows of it [m, width]. */
KERNEL(embedding)
{
    UNUSED;
    const int kind = kind_of(dtypes[0]);
    const int32_t *ids = params[1];
    if (kind < 0 || strcmp(dtypes[1], "int32"))
        return WRONG_DTYPE;
    for (int64_t i = 0; i < shapes[1][0]; i++)
        unpack_row(
            (float *)params[2] + i * shapes[0][1], params[0], ids[i], shapes[0][0], shapes[0][1],
            (enum kind)kind);
    return 0;
}

/* x [n, width], weight [width], epsilon [1]: RMSNorm of x. */
KERNEL(rms_norm)
{
    UNUSED;
    if (!float32(dtypes, 0, 3))
        return WRONG_DTYPE;
    const norm p = {
        .x = params[0], .weight = params[1], .eps = *(float *)params[2], .normed = params[3],
        .rows = shapes[0][0], .width = shapes[0][1]};
    norms(&p);
    return 0;
}

/* x and delta [n, width], weight [width], epsilon [1]: their sum, and its RMSNorm. */
KERNEL(add_rms_norm)
{
    UNUSED;
    if (!float32(dtypes, 0, 4))
        return WRONG_DTYPE;
    const norm p = {
        .x = params[0], .delta = params[1], .weight = params[2], .eps = *(float *)params[3],
        .total = params[4], .normed = params[5], .rows = shapes[0][0], .width = shapes[0][1]};
    norms(&p);
    return 0;
}

/* x [n, width], weight and bias [width], epsilon [1]: LayerNorm of x. */
KERNEL(layer_norm)
{
    UNUSED;
    if (!float32(dtypes, 0, 4))
        return WRONG_DTYPE;
    const norm p = {
        .x = params[0], .weight = params[1], .bias = params[2], .eps = *(float *)params[3],
        .normed = params[4], .rows = shapes[0][0], .width = shapes[0][1]};
    norms(&p);
    return 0;
}

/* qkv [n, q_width + 2 kv_width], and perhaps cos and sin [n, D]: q [n, q_width], k and v
 * [n, kv_width]; with these, q and k are turned.
 */
KERNEL(split_qkv)
{
    UNUSED;
    const bool turned = count == 6;
    if (!float32(dtypes, 0, count - 3))
        return WRONG_DTYPE;
    void **const to = params + count - 3;
    const rotation p = {
        .qkv = params[0], .cos = turned ? params[1] : NULL, .sin = turned ? params[2] : NULL,
        .q = to[0], .k = to[1], .v = to[2], .rows = shapes[0][0],
        .q_width = shapes[count - 3][1], .kv_width = shapes[count - 2][1],
        .head_dim = turned ? shapes[1][1] : 0};
    rotate(&p);
    return 0;
}

/* x [n, width]: the place of the largest number of each row, int32 [n]. */
KERNEL(argmax)
{
    UNUSED;
    if (!float32(dtypes, 0, 1))
        return WRONG_DTYPE;
    const choice p = {
        .x = params[0], .largest = params[1], .rows = shapes[0][0], .width = shapes[0][1]};
    largest(&p);
    return 0;
}

/* Logits [n, width], ids [n]: the log-probability of each row's id [n]. */
KERNEL(log_prob)
{
    UNUSED;
    if (!float32(dtypes, 0, 1) || strcmp(dtypes[1], "int32"))
        return WRONG_DTYPE;
    const scoring p = {
        .logits = params[0], .ids = params[1], .log_probs = params[2], .rows = shapes[0][0],
        .width = shapes[0][1]};
    log_probs(&p);
    return 0;
}

/* Logits and factors [n, width]: logits less by their factors [n, width]. */
KERNEL(penalised)
{
    UNUSED;
    if (!float32(dtypes, 0, 2))
        return WRONG_DTYPE;
    const pricing p = {
        .logits = params[0], .factors = params[1], .penalised = params[2],
        .n = shapes[0][0] * shapes[0][1]};
    penalise(&p);
    return 0;
}

/* q [slots, heads * D], keys and values [slots * kv_heads, length, D], float32 or both bfloat16, last
 * [slots * kv_heads, 1, 1]: what the queries see [slots, heads * D].
 */
KERNEL(step_attention)
{
    UNUSED;
    const int cached = cached_kind(dtypes + 1);
    if (!float32(dtypes, 0, 1) || cached < 0 || strcmp(dtypes[3], "int32"))
        return WRONG_DTYPE;
    const int64_t slots = shapes[0][0], head_dim = shapes[1][2];
    const attention p = {
        .q = params[0], .keys = params[1], .values = params[2], .last = params[3],
        .attended = params[4], .heads = shapes[0][1] / head_dim, .kv_heads = shapes[1][0] / slots,
        .head_dim = head_dim, .length = shapes[1][1], .kind = (enum kind)cached};
    attend(&p, slots);
    return 0;
}

static matrix matrix_of(void *numbers, const int64_t *shape)
{
    return (matrix){numbers, shape[0], shape[1]};
}

/* x [slots, hidden], cos and sin [slots, D], last [slots * kv_heads, 1, 1], epsilon [1]; the tensors
 * of a layer: norms before attention and after it [hidden], W_qkv and its bias, W_o, W_down, W_gate,
 * W_up; caches of keys and of values [slots * kv_heads, length, D], float32 or both bfloat16, to which
 * a token is written: x after the layer [slots, hidden].
 */
KERNEL(decoder_layer_step)
{
    UNUSED;
    enum {
        X, COS, SIN, LAST, EPS, INPUT_NORM, POST_NORM, QKV, BIAS, O_PROJ, DOWN, GATE, UP, KEY_CACHE,
        VALUE_CACHE, Y
    };
    const int kind = kind_of(dtypes[QKV]), cached = cached_kind(dtypes + KEY_CACHE);
    if (kind < 0 || cached < 0 || !float32(dtypes, X, 3) || strcmp(dtypes[LAST], "int32"))
        return WRONG_DTYPE;
    for (int i = O_PROJ; i <= UP; i++)
        if (kind_of(dtypes[i]) != kind)
            return WRONG_DTYPE;
    const int64_t slots = shapes[X][0], rows = shapes[LAST][0];
    const layer p = {
        .x = params[X], .cos = params[COS], .sin = params[SIN], .input_norm = params[INPUT_NORM],
        .post_attention_norm = params[POST_NORM], .qkv_bias = params[BIAS],
        .qkv = matrix_of(params[QKV], shapes[QKV]), .o_proj = matrix_of(params[O_PROJ], shapes[O_PROJ]),
        .down = matrix_of(params[DOWN], shapes[DOWN]), .gate = matrix_of(params[GATE], shapes[GATE]),
        .up = matrix_of(params[UP], shapes[UP]), .kind = (enum kind)kind, .cached = (enum kind)cached, .keys = params[KEY_CACHE],
        .values = params[VALUE_CACHE], .last = params[LAST], .y = params[Y], .eps = *(float *)params[EPS],
        .slots = slots, .hidden = shapes[X][1], .kv_heads = rows / slots,
        .head_dim = shapes[COS][1], .length = shapes[KEY_CACHE][1]};
    decoder_layer(&p);
    return 0;
}

/* What the attention of a tower is given: qkv [sequences, n, 3, heads, D], perhaps cos and sin
 * [sequences * n, D], and last what is seen. */
static int tower_rows(int count, void **params, int64_t **shapes, const char **dtypes, flash *p)
{
    const int64_t *shape = shapes[0], width = shape[3] * shape[4];
    const bool turned = count == 5;
    if (!float32(dtypes, 0, count - 2) || strcmp(dtypes[count - 2], "int32") || shape[4] > MOST_HEAD_DIM)
        return WRONG_DTYPE;
    float *const qkv = params[0];
    *p = (flash){
        .q = qkv, .k = qkv + width, .v = qkv + 2 * width, .cos = turned ? params[1] : NULL,
        .sin = turned ? params[2] : NULL, .attended = params[count - 1], .heads = shape[3],
        .kv_heads = shape[3], .head_dim = shape[4], .next_query = 3 * width, .next_key = 3 * width,
        .next_value = 3 * width, .next_head = shape[4]};
    return 0;
}

/* ``sequences`` of ``n`` rows each from ``row`` on, of which ``seen`` are keys. */
static void attend_rows(flash p, int64_t row, int64_t sequences, int64_t n, int64_t seen)
{
    p.q += row * p.next_query;
    p.k += row * p.next_key;
    p.v += row * p.next_value;
    p.attended += row * p.heads * p.head_dim;
    if (p.cos) {
        p.cos += row * p.head_dim;
        p.sin += row * p.head_dim;
    }
    p.sequences = sequences;
    p.queries = p.keys = n;
    p.first = seen;
    flash_attention(&p);
}

/* qkv [sequences, n, 3, heads, D], perhaps cos and sin [sequences * n, D], seen [1]: what the queries
 * see, the first keys of their sequence [sequences, n, heads, D]; with cos and sin queries and keys are
 * turned.
 */
KERNEL(tower_attention)
{
    UNUSED;
    flash p;
    if (tower_rows(count, params, shapes, dtypes, &p))
        return WRONG_DTYPE;
    attend_rows(p, 0, shapes[0][0], shapes[0][1], *(int32_t *)params[count - 2]);
    return 0;
}

/* The same where queries see the window of their sequence that they are in: windows [kinds, 2] are
 * (how many, of how many rows), one after the other. Rows after the last see nothing: 0.
 */
KERNEL(window_attention)
{
    UNUSED;
    flash p;
    if (tower_rows(count, params, shapes, dtypes, &p))
        return WRONG_DTYPE;
    const int64_t *shape = shapes[0], width = p.heads * p.head_dim;
    const int32_t(*windows)[2] = params[count - 2];
    for (int64_t sequence = 0; sequence < shape[0]; sequence++) {
        int64_t row = sequence * shape[1];
        for (int64_t kind = 0; kind < shapes[count - 2][0]; kind++) {
            const int64_t many = windows[kind][0], rows = windows[kind][1];
            if (many)
                attend_rows(p, row, many, rows, rows);
            row += many * rows;
        }
        const int64_t left = (sequence + 1) * shape[1] - row;
        memset(p.attended + row * width, 0, (size_t)(left * width) * 4);
    }
    return 0;
}

/* q [m, heads * D], keys and values [kv_heads, n, D]: what the last m of n tokens see
 * [m, heads * D].
 */
KERNEL(prompt_attention)
{
    UNUSED;
    if (!float32(dtypes, 0, 3) || shapes[1][2] > MOST_HEAD_DIM)
        return WRONG_DTYPE;
    const int64_t head_dim = shapes[1][2], keys = shapes[1][1], queries = shapes[0][0];
    const flash p = {
        .q = params[0], .k = params[1], .v = params[2], .attended = params[3],
        .sequences = 1, .queries = queries, .keys = keys, .heads = shapes[0][1] / head_dim,
        .kv_heads = shapes[1][0], .head_dim = head_dim, .next_query = shapes[0][1],
        .next_key = head_dim, .next_value = head_dim, .next_head = keys * head_dim, .first = keys - queries + 1, .more = 1};
    flash_attention(&p);
    return 0;
}
