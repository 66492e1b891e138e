/* Activations over rows of floats. Part of a level file; see vec.h. */

/* x / (1 + exp(-c·x)): silu (c = 1), quick gelu (1.702). */
INLINE vf sigmoid_product(vf x, vf minus_cx)
{
    return x / (vexp(minus_cx) + 1.0f);
}

/* 0.5·x·(1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi)·(x + 0.044715·x³). */
INLINE vf gelu_tanh(vf x)
{
    vf u = vfma(x * x * 0.044715f, x, x);
    return sigmoid_product(x, u * -1.5957691216057308f);
}

INLINE vf gelu_erf(vf x)
{
    float t[VW];
    memcpy(t, &x, sizeof x);
    for (int i = 0; i < VW; i++) {
        t[i] = (float)(0.5 * t[i] * (1 + erf(t[i] * 0.70710678118654752440)));
    }
    return vload(t);
}

INLINE vf act_of(cvx_act act, vf x)
{
    switch (act) {
    case CVX_ACT_NONE: return x;
    case CVX_ACT_GELU_TANH: return gelu_tanh(x);
    case CVX_ACT_GELU: return gelu_erf(x);
    case CVX_ACT_QUICK_GELU: return sigmoid_product(x, x * -1.702f);
    case CVX_ACT_SILU: return sigmoid_product(x, -x);
    }
    return x;
}
