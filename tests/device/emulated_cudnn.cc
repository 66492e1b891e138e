/* A stand-in for cuDNN's library (libcudnn.so.9, opened at run time as the real one is): the backend API's descriptors, and plans
 * that compute convolutions, sums and attention by plain loops on the stream. Of its proposals the first is one whose sums
 * have no fixed order, the second cannot be had, the third wants too much workspace. It refuses what the library would:
 * descriptors changed or used at the wrong time, shapes that do not fit, weights that are not dense, addresses less
 * aligned than promised, operands that are missing or not the device's. */
#include <cudnn.h>

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <memory>
#include <vector>

#include "tests/device/include/cuda_bf16.h"
#include "tests/device/include/cuda_fp16.h"
#include "tests/device/streams.h"

struct descriptor {
    cudnnBackendDescriptorType_t type;
    bool finished = false;
    std::map<int, std::vector<char>> values;
    int engine = 0; /* of a configuration or plan: which proposal */
};

struct cudnnContext {
    cudaStream_t stream;
};

static const int64_t workspace_of[] = {0, 0, (int64_t)1 << 40, 4096};

static thread_local const char *why = "";

static cudnnStatus_t refuse(cudnnStatus_t rc, const char *what)
{
    why = what;
    return rc;
}

static descriptor *of(cudnnBackendDescriptor_t d)
{
    return (descriptor *)d;
}

template <typename T> static std::vector<T> all(const descriptor *d, int name)
{
    auto it = d->values.find(name);
    std::vector<T> v;
    if (it != d->values.end()) {
        v.resize(it->second.size() / sizeof(T));
        memcpy(v.data(), it->second.data(), it->second.size());
    }
    return v;
}
template <typename T> static T one(const descriptor *d, int name, T none = {})
{
    std::vector<T> v = all<T>(d, name);
    return v.empty() ? none : v[0];
}

/* --- tensors --- */

struct tensor {
    int64_t id = 0, align = 0;
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    std::vector<int64_t> dim, stride;
    bool inner = false, by_value = false, there = false;

    int64_t count() const
    {
        int64_t n = 1;
        for (int64_t d : dim) {
            n *= d;
        }
        return n;
    }
    size_t size() const
    {
        return type == CUDNN_DATA_FLOAT ? 4 : 2;
    }
    int64_t extent() const /* elements from the first to behind the last */
    {
        int64_t n = 1;
        for (size_t i = 0; i < dim.size(); i++) {
            n += (dim[i] - 1) * stride[i];
        }
        return n;
    }
    /* Where the i-th element, dense in the order of the dimensions, lies. */
    int64_t place(int64_t i) const
    {
        int64_t at = 0;
        for (size_t d = dim.size(); d-- > 0;) {
            at += i % dim[d] * stride[d];
            i /= dim[d];
        }
        return at;
    }
};

static tensor tensor_at(const descriptor *op, int name)
{
    tensor t;
    const descriptor *d = one<const descriptor *>(op, name);
    if (d != nullptr) {
        t.there = true;
        t.id = one<int64_t>(d, CUDNN_ATTR_TENSOR_UNIQUE_ID);
        t.align = one<int64_t>(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
        t.type = one<cudnnDataType_t>(d, CUDNN_ATTR_TENSOR_DATA_TYPE);
        t.dim = all<int64_t>(d, CUDNN_ATTR_TENSOR_DIMENSIONS);
        t.stride = all<int64_t>(d, CUDNN_ATTR_TENSOR_STRIDES);
        t.inner = one<char>(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL);
        t.by_value = one<char>(d, CUDNN_ATTR_TENSOR_IS_BY_VALUE);
    }
    return t;
}

/* Values of a plan's tensors in the order of their dimensions, while it runs. */
struct run {
    std::map<int64_t, void *> at;
    std::map<int64_t, std::vector<float>> inner;
    float scale = 0;

    std::vector<float> read(const tensor &t)
    {
        if (t.inner) {
            return inner[t.id];
        }
        std::vector<float> v((size_t)t.count());
        for (int64_t i = 0; i < t.count(); i++) {
            int64_t p = t.place(i);
            const char *b = (const char *)at[t.id];
            v[(size_t)i] = t.type == CUDNN_DATA_BFLOAT16
                               ? __bfloat162float(((const __nv_bfloat16 *)b)[p])
                           : t.type == CUDNN_DATA_HALF ? __half2float(((const __half *)b)[p])
                                                       : ((const float *)b)[p];
        }
        return v;
    }
    void write(const tensor &t, const std::vector<float> &v)
    {
        if (t.inner) {
            inner[t.id] = v;
            return;
        }
        for (int64_t i = 0; i < t.count(); i++) {
            int64_t p = t.place(i);
            char *b = (char *)at[t.id];
            if (t.type == CUDNN_DATA_BFLOAT16) {
                ((__nv_bfloat16 *)b)[p] = __float2bfloat16_rn(v[(size_t)i]);
            } else if (t.type == CUDNN_DATA_HALF) {
                ((__half *)b)[p] = __float2half_rn(v[(size_t)i]);
            } else {
                ((float *)b)[p] = v[(size_t)i];
            }
        }
    }
};

/* --- operations --- */

struct operation {
    cudnnBackendDescriptorType_t type;
    tensor x, w, y, q, k, v, o, stats, scale;
    std::vector<int64_t> step;

    std::vector<const tensor *> tensors() const
    {
        std::vector<const tensor *> list;
        for (const tensor *t : {&x, &w, &y, &q, &k, &v, &o, &stats, &scale}) {
            if (t->there) {
                list.push_back(t);
            }
        }
        return list;
    }
};

static operation operation_of(const descriptor *d)
{
    operation op;
    op.type = d->type;
    if (d->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR) {
        op.x = tensor_at(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X);
        op.w = tensor_at(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W);
        op.y = tensor_at(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y);
        op.step =
            all<int64_t>(one<descriptor *>(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC),
                         CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
    } else if (d->type == CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR) {
        op.x = tensor_at(d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC);
        op.w = tensor_at(d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
        op.y = tensor_at(d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
    } else {
        op.q = tensor_at(d, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC);
        op.k = tensor_at(d, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC);
        op.v = tensor_at(d, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC);
        op.o = tensor_at(d, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC);
        op.stats = tensor_at(d, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC);
        op.scale = tensor_at(d, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC);
    }
    return op;
}

static const char *fault_of_conv(const operation &op)
{
    const tensor &x = op.x, &w = op.w, &y = op.y;
    if (x.dim.size() != 5 || w.dim.size() != 5 || y.dim.size() != 5 || op.step.size() != 3) {
        return "a convolution that is not of three dimensions";
    }
    for (int i = 0; i < 3; i++) {
        if ((x.dim[2 + (size_t)i] - w.dim[2 + (size_t)i]) / op.step[(size_t)i] + 1 !=
            y.dim[2 + (size_t)i]) {
            return "a convolution whose input and output do not fit";
        }
    }
    return w.extent() != w.count()                          ? "weights that are not dense"
           : x.dim[1] != w.dim[1] || y.dim[1] != w.dim[0]   ? "channels that do not fit"
           : x.type != w.type || x.type == CUDNN_DATA_FLOAT ? "types that the stand-in lacks"
                                                            : nullptr;
}

static const char *fault_of(const descriptor *d)
{
    operation op = operation_of(d);

    if (d->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR) {
        return fault_of_conv(op);
    }
    if (d->type == CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR) {
        descriptor *how = one<descriptor *>(d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
        return one<cudnnPointwiseMode_t>(how, CUDNN_ATTR_POINTWISE_MODE) != CUDNN_POINTWISE_ADD ||
                       op.x.dim != op.y.dim
                   ? "a pointwise operation that the stand-in lacks"
                   : nullptr;
    }
    const tensor &q = op.q, &k = op.k;
    return !q.there || !k.there || !op.v.there || !op.o.there || !op.scale.by_value ||
                   q.dim != op.o.dim || k.dim != op.v.dim || q.dim[0] != k.dim[0] ||
                   q.dim[1] != k.dim[1] || q.dim[3] != k.dim[3] || q.stride[3] != 1 ||
                   k.stride[3] != 1 ||
                   (op.stats.there &&
                    (op.stats.type != CUDNN_DATA_FLOAT ||
                     op.stats.dim != std::vector<int64_t>{q.dim[0], q.dim[1], q.dim[2], 1}))
               ? "an attention whose operands do not fit"
               : nullptr;
}

static void convolve(const operation &op, run &r)
{
    std::vector<float> x = r.read(op.x), w = r.read(op.w), y((size_t)op.y.count());
    const auto &xd = op.x.dim, &wd = op.w.dim, &yd = op.y.dim;

    for (int64_t i = 0; i < (int64_t)y.size(); i++) {
        int64_t c = i % yd[4], h = i / yd[4] % yd[3], t = i / yd[4] / yd[3] % yd[2],
                o = i / yd[4] / yd[3] / yd[2];
        double sum = 0;
        for (int64_t ch = 0; ch < wd[1]; ch++) {
            for (int64_t tap = 0; tap < wd[2] * wd[3] * wd[4]; tap++) {
                int64_t dc = tap % wd[4], dh = tap / wd[4] % wd[3], dt = tap / wd[4] / wd[3];
                int64_t at =
                    ((ch * xd[2] + t * op.step[0] + dt) * xd[3] + h * op.step[1] + dh) * xd[4] +
                    c * op.step[2] + dc;
                sum += (double)x[(size_t)at] *
                       (double)w[(size_t)((o * wd[1] + ch) * wd[2] * wd[3] * wd[4] + tap)];
            }
        }
        y[(size_t)i] = (float)sum;
    }
    r.write(op.y, y);
}

static void add(const operation &op, run &r)
{
    std::vector<float> x = r.read(op.x), w = r.read(op.w);
    tensor part = op.w; /* places in its dense values, 0 where it repeats */
    int64_t step = 1;

    for (size_t d = part.dim.size(); d-- > 0;) {
        part.stride[d] = op.w.dim[d] == 1 ? 0 : step;
        step *= op.w.dim[d];
    }
    part.dim = op.x.dim;
    for (int64_t i = 0; i < (int64_t)x.size(); i++) {
        x[(size_t)i] += w[(size_t)part.place(i)];
    }
    r.write(op.y, x);
}

static void attend(const operation &op, run &r)
{
    std::vector<float> q = r.read(op.q), k = r.read(op.k), v = r.read(op.v), o(q.size());
    int64_t d = op.q.dim[3], sq = op.q.dim[2], sk = op.k.dim[2], heads = op.q.dim[0] * op.q.dim[1];
    std::vector<float> stats((size_t)(heads * sq));
    std::vector<double> s((size_t)sk);

    for (int64_t i = 0; i < heads * sq; i++) {
        const float *qi = &q[(size_t)(i * d)], *kh = &k[(size_t)(i / sq * sk * d)],
                    *vh = &v[(size_t)(i / sq * sk * d)];
        double most = -INFINITY, sum = 0;
        for (int64_t j = 0; j < sk; j++) {
            double dot = 0;
            for (int64_t e = 0; e < d; e++) {
                dot += (double)qi[e] * (double)kh[j * d + e];
            }
            s[(size_t)j] = dot * (double)r.scale;
            most = fmax(most, s[(size_t)j]);
        }
        for (double &p : s) {
            p = exp(p - most);
            sum += p;
        }
        for (int64_t e = 0; e < d; e++) {
            double out = 0;
            for (int64_t j = 0; j < sk; j++) {
                out += s[(size_t)j] * (double)vh[j * d + e];
            }
            o[(size_t)(i * d + e)] = (float)(out / sum);
        }
        stats[(size_t)i] = (float)(most + log(sum));
    }
    r.write(op.o, o);
    if (op.stats.there) {
        r.write(op.stats, stats);
    }
}

/* --- the library --- */

extern "C" {

size_t cudnnGetVersion(void)
{
    const char *v = getenv("CVX_EMULATED_CUDNN");
    return v != nullptr ? (size_t)atoll(v) : CUDNN_VERSION;
}
void cudnnGetLastErrorString(char *text, size_t size)
{
    snprintf(text, size, "%s", why);
}
cudnnStatus_t cudnnCreate(cudnnHandle_t *h)
{
    *h = new cudnnContext{};
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t h)
{
    delete h;
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t s)
{
    h->stream = s;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t *out)
{
    descriptor *d = new descriptor;
    d->type = type;
    *out = (cudnnBackendDescriptor_t)d;
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d)
{
    delete of(d);
    return CUDNN_STATUS_SUCCESS;
}

static size_t size_of(cudnnBackendAttributeType_t t)
{
    switch (t) {
    case CUDNN_TYPE_BOOLEAN: return sizeof(bool);
    case CUDNN_TYPE_CHAR: return 1;
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_DOUBLE:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR: return 8;
    default: return 4;
    }
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t to,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t n,
                                       const void *values)
{
    if (of(to)->finished) {
        return refuse(CUDNN_STATUS_BAD_PARAM, "a finished descriptor is changed");
    }
    for (int64_t i = 0; type == CUDNN_TYPE_BACKEND_DESCRIPTOR && i < n; i++) {
        if (!((descriptor *const *)values)[i]->finished) {
            return refuse(CUDNN_STATUS_BAD_PARAM, "a descriptor that is not finished is used");
        }
    }
    const char *b = (const char *)values;
    of(to)->values[name] = std::vector<char>(b, b + (size_t)n * size_of(type));
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t what)
{
    descriptor *d = of(what);

    if (d->type == CUDNN_BACKEND_TENSOR_DESCRIPTOR) {
        std::vector<int64_t> dim = all<int64_t>(d, CUDNN_ATTR_TENSOR_DIMENSIONS);
        if (dim.empty() || dim.size() != all<int64_t>(d, CUDNN_ATTR_TENSOR_STRIDES).size()) {
            return refuse(CUDNN_STATUS_BAD_PARAM, "a tensor without dimensions or strides");
        }
    }
    if (d->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR ||
        d->type == CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR ||
        d->type == CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR) {
        const char *fault = fault_of(d);
        if (fault != nullptr) {
            return refuse(CUDNN_STATUS_BAD_PARAM, fault);
        }
    }
    if (d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) {
        const descriptor *config = one<descriptor *>(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
        d->engine = config->engine;
        d->values = config->values;
        if (d->engine < 2) {
            return refuse(CUDNN_STATUS_NOT_SUPPORTED, "a proposal that cannot be had");
        }
    }
    d->finished = true;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t from,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t, int64_t most, int64_t *n,
                                       void *values)
{
    descriptor *d = of(from);

    *n = 0;
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS) {
        /* what the library knows of the graph comes with the configuration */
        descriptor **out = (descriptor **)values;
        for (int i = 0; i < 4 && i < most; i++, (*n)++) {
            out[i]->engine = i;
            out[i]->values = one<descriptor *>(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH)->values;
            out[i]->finished = true;
        }
    } else if (name == CUDNN_ATTR_ENGINECFG_ENGINE) {
        (*(descriptor **)values)->engine = d->engine;
        *n = 1;
    } else if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE) {
        *(cudnnBackendNumericalNote_t *)values = d->engine == 0
                                                     ? CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC
                                                     : CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
        *n = 1;
    } else if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) {
        *(int64_t *)values = workspace_of[d->engine];
        *n = 1;
    } else {
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "an attribute that the stand-in lacks");
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t pack)
{
    std::vector<int64_t> ids = all<int64_t>(of(pack), CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    std::vector<void *> at = all<void *>(of(pack), CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    char *room = one<char *>(of(pack), CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
    size_t size = (size_t)workspace_of[of(plan)->engine];
    auto ops = std::make_shared<std::vector<operation>>();
    auto r = std::make_shared<run>();

    if (!of(plan)->finished || !of(pack)->finished || ids.size() != at.size()) {
        return refuse(CUDNN_STATUS_BAD_PARAM, "a plan or its operands are not finished");
    }
    for (size_t i = 0; i < ids.size(); i++) {
        r->at[ids[i]] = at[i];
    }
    for (descriptor *d : all<descriptor *>(of(plan), CUDNN_ATTR_OPERATIONGRAPH_OPS)) {
        ops->push_back(operation_of(d));
        for (const tensor *t : ops->back().tensors()) {
            void *p = r->at[t->id];
            if (t->by_value) {
                r->scale = *(float *)p;
            } else if (!t->inner) {
                if (p == nullptr || (uintptr_t)p % (size_t)t->align != 0) {
                    return refuse(CUDNN_STATUS_BAD_PARAM,
                                  "an operand that is missing, or less aligned than promised");
                }
                device_must_own(p, (size_t)t->extent() * t->size(), false, "an operand of cuDNN's");
            }
        }
    }
    device_must_own(room, size, false, "cuDNN's workspace");
    device_enqueue(h->stream, [=] {
        memset(room, 0xff, size);
        for (const operation &op : *ops) {
            if (op.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR) {
                convolve(op, *r);
            } else if (op.type == CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR) {
                add(op, *r);
            } else {
                attend(op, *r);
            }
        }
        memset(room, 0xff, size); /* to the last it is the library's */
    });
    return CUDNN_STATUS_SUCCESS;
}

} /* extern "C" */
