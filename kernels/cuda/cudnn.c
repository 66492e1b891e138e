/* cuDNN's library, its descriptors, and plans: kernels/cuda/cudnn.h. */
#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/parts.h"

#include <stdio.h>

#ifdef CVX_HAVE_CUDNN

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cudnn_parts.h"

/* The oldest library with attention as one operation (CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR) that is without known faults. */
#define OLDEST 91301
/* Proposals of the library that are looked at, and the most scratch that a plan may want. */
#define PROPOSALS 8
#define MOST_WORKSPACE ((int64_t)256 << 20)

/* --- the library --- */

static cvx_status open_library(cvx_cudnn *c)
{
    static const char *const so = "libcudnn.so.9";
    const struct {
        const char *name;
        void *to;
    } all[] = {
#define ENTRY(n) {"cudnn" #n, &c->lib.n},
        CVX_CUDNN_FUNCTIONS(ENTRY)
#undef ENTRY
    };

    c->so = dlopen(so, RTLD_NOW | RTLD_LOCAL);
    if (c->so == NULL) {
        return cvx_fail(
            CVX_EUNSUPPORTED,
            "cuDNN: %s; pip install nvidia-cudnn-cu13 has it (LD_LIBRARY_PATH tells where it is)",
            dlerror());
    }
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        void *p = dlsym(c->so, all[i].name);
        if (p == NULL) {
            return cvx_fail(CVX_EUNSUPPORTED, "cuDNN: %s has no %s", so, all[i].name);
        }
        memcpy(all[i].to, &p, sizeof p);
    }
    size_t v = c->lib.GetVersion();
    if (v < OLDEST) {
        return cvx_fail(CVX_EUNSUPPORTED,
                        "cuDNN: %s is version %zu.%zu.%zu, 9.13.1 or newer is needed", so,
                        v / 10000, v / 100 % 100, v % 100);
    }
    return CVX_OK;
}

static cvx_status told(const cvx_cudnn *c, cudnnStatus_t rc, const char *what)
{
    char why[256] = "";

    if (rc == CUDNN_STATUS_SUCCESS) {
        return CVX_OK;
    }
    c->lib.GetLastErrorString(why, sizeof why);
    return cvx_fail(CVX_EINTERNAL, "cuDNN: %s: status %d %s", what, (int)rc, why);
}

static cvx_status open_device(cvx_cudnn *c, const char *device)
{
    if (device == NULL) {
        cvx_status st = told(c, c->lib.Create(&c->handle), "opening it");
        return st;
    }
    CVX_RETURN_IF(
        told(c, c->lib.BackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &c->device),
             "a device's properties"));
    CVX_RETURN_IF(
        told(c,
             c->lib.BackendSetAttribute(c->device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                                        CUDNN_TYPE_CHAR, (int64_t)strlen(device), device),
             "a device's properties"));
    return told(c, c->lib.BackendFinalize(c->device), "a device's properties");
}

cvx_status cvx_cudnn_open(cvx_cudnn **out, const char *device)
{
    cvx_cudnn *c = calloc(1, sizeof *c);

    if (c == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for cuDNN");
    }
    cvx_status st = open_library(c);
    st = st == CVX_OK ? open_device(c, device) : st;
    if (st != CVX_OK) {
        cvx_cudnn_close(c);
        return st;
    }
    *out = c;
    return CVX_OK;
}

static void free_plan(const cvx_cudnn *c, cvx_cudnn_plan *p)
{
    for (int i = p->n_own - 1; i >= 0; i--) { /* what refers to others goes before them */
        c->lib.BackendDestroyDescriptor(p->own[i]);
    }
    free(p);
}

void cvx_cudnn_close(cvx_cudnn *c)
{
    if (c == NULL) {
        return;
    }
    for (int i = 0; i < c->n_plans; i++) {
        free_plan(c, c->plans[i]);
    }
    free(c->plans);
    if (c->device != NULL) {
        c->lib.BackendDestroyDescriptor(c->device);
    }
    if (c->handle != NULL) {
        c->lib.Destroy(c->handle);
    }
    /* the library stays: it keeps threads and the runtime's contexts, which outlive it badly */
    free(c);
}

bool cvx_cudnn_usable(char what[160])
{
    cvx_cudnn c = {0};

    if (open_library(&c) != CVX_OK) {
        snprintf(what, 160, "%s", cvx_error());
        return false;
    }
    size_t v = c.lib.GetVersion();
    snprintf(what, 160, "%zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
    return true;
}

cvx_status cvx_cudnn_of(cvx_cuda *s, cvx_cudnn **out)
{
    cvx_cuda_parts *p = cvx_cuda_parts_of(s);

    if (p->cudnn == NULL) {
        cvx_cudnn *c = NULL;
        CVX_RETURN_IF(cvx_cudnn_open(&c, NULL));
        cvx_status st = told(c, c->lib.SetStream(c->handle, s->stream), "its stream");
        if (st != CVX_OK) {
            cvx_cudnn_close(c);
            return st;
        }
        p->cudnn = c;
    }
    *out = p->cudnn;
    return CVX_OK;
}

/* --- descriptors --- */

static void note(cvx_cudnn_builder *b, cudnnStatus_t rc, const char *step)
{
    if (b->status == CUDNN_STATUS_SUCCESS && rc != CUDNN_STATUS_SUCCESS) {
        b->status = rc;
        b->step = step;
    }
}

cudnnBackendDescriptor_t cvx_cudnn_make(cvx_cudnn_builder *b, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t d = NULL;

    CVX_ASSERT(b->plan->n_own < CVX_CUDNN_DESCRIPTORS);
    if (b->status != CUDNN_STATUS_SUCCESS) {
        return NULL;
    }
    note(b, b->c->lib.BackendCreateDescriptor(type, &d), "a descriptor");
    if (b->status == CUDNN_STATUS_SUCCESS) {
        b->plan->own[b->plan->n_own++] = d;
    }
    return d;
}

void cvx_cudnn_set(cvx_cudnn_builder *b, cudnnBackendDescriptor_t d,
                   cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t n,
                   const void *values)
{
    if (b->status == CUDNN_STATUS_SUCCESS) {
        note(b, b->c->lib.BackendSetAttribute(d, name, type, n, values), "an attribute");
    }
}

void cvx_cudnn_link(cvx_cudnn_builder *b, cudnnBackendDescriptor_t d,
                    cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t to)
{
    cvx_cudnn_set(b, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &to);
}

void cvx_cudnn_finish(cvx_cudnn_builder *b, cudnnBackendDescriptor_t d, const char *step)
{
    if (b->status == CUDNN_STATUS_SUCCESS) {
        note(b, b->c->lib.BackendFinalize(d), step);
    }
}

cudnnBackendDescriptor_t cvx_cudnn_make_tensor(cvx_cudnn_builder *b, const cvx_cudnn_tensor *t)
{
    cudnnBackendDescriptor_t d = cvx_cudnn_make(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    int64_t align = t->align > 0 ? t->align : 16;
    bool yes = true;

    cvx_cudnn_set(b, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &t->id);
    cvx_cudnn_set(b, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &t->type);
    cvx_cudnn_set(b, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, t->n, t->dim);
    cvx_cudnn_set(b, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, t->n, t->stride);
    cvx_cudnn_set(b, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    if (t->by_value) {
        cvx_cudnn_set(b, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
    } else if (t->align == 0) {
        cvx_cudnn_set(b, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
    }
    cvx_cudnn_finish(b, d, "a tensor");
    return d;
}

/* --- plans --- */

const cvx_cudnn_plan *cvx_cudnn_find(const cvx_cudnn *c, const int64_t key[CVX_CUDNN_KEY])
{
    for (int i = 0; i < c->n_plans; i++) {
        if (memcmp(c->plans[i]->key, key, sizeof c->plans[i]->key) == 0) {
            return c->plans[i];
        }
    }
    return NULL;
}

cvx_status cvx_cudnn_begin(cvx_cudnn *c, cvx_cudnn_builder *b, const int64_t key[CVX_CUDNN_KEY])
{
    cvx_cudnn_plan *p = calloc(1, sizeof *p);

    if (p == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a plan of cuDNN's");
    }
    memcpy(p->key, key, sizeof p->key);
    *b = (cvx_cudnn_builder){.c = c, .plan = p};
    return CVX_OK;
}

/* Whether an engine sums in f32, the plain products of the operands, in the same order every time. */
static bool is_exact(const cvx_cudnn *c, cudnnBackendDescriptor_t engine)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t n = 0;

    if (c->lib.BackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                   CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &n,
                                   notes) != CUDNN_STATUS_SUCCESS) {
        return false;
    }
    for (int64_t i = 0; i < n; i++) {
        if (notes[i] != CUDNN_NUMERICAL_NOTE_TENSOR_CORE) {
            return false;
        }
    }
    return true;
}

/* Tries one proposal. */
static bool try_config(cvx_cudnn_builder *b, cudnnBackendDescriptor_t config,
                       cudnnBackendDescriptor_t engine)
{
    cvx_cudnn_builder t = *b; /* whose failure is no failure of the whole */
    int64_t n = 0, bytes = 0;

    if (b->c->lib.BackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE,
                                      CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n,
                                      &engine) != CUDNN_STATUS_SUCCESS ||
        !is_exact(b->c, engine)) {
        return false;
    }
    cudnnBackendDescriptor_t p = cvx_cudnn_make(&t, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    cvx_cudnn_link(&t, p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    if (b->c->device != NULL) {
        cvx_cudnn_link(&t, p, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, b->c->device);
    } else {
        cvx_cudnn_set(&t, p, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &b->c->handle);
    }
    cvx_cudnn_finish(&t, p, "a plan");
    if (t.status != CUDNN_STATUS_SUCCESS ||
        b->c->lib.BackendGetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64,
                                      1, &n, &bytes) != CUDNN_STATUS_SUCCESS ||
        bytes > MOST_WORKSPACE) {
        return false;
    }
    b->plan->plan = p;
    b->plan->workspace = bytes;
    return true;
}

/* The first of the library's proposals of this kind that can be had. */
static void ask(cvx_cudnn_builder *b, cudnnBackendDescriptor_t graph, cudnnBackendHeurMode_t mode)
{
    cudnnBackendDescriptor_t h = cvx_cudnn_make(b, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR),
                             config[PROPOSALS];
    int64_t n = 0;

    cvx_cudnn_link(b, h, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    cvx_cudnn_set(b, h, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (b->c->device != NULL) {
        cvx_cudnn_link(b, h, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, b->c->device);
    }
    cvx_cudnn_finish(b, h, "proposals");
    for (int i = 0; i < PROPOSALS; i++) {
        config[i] = cvx_cudnn_make(b, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    }
    cudnnBackendDescriptor_t engine = cvx_cudnn_make(b, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    if (b->status != CUDNN_STATUS_SUCCESS ||
        b->c->lib.BackendGetAttribute(h, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                      CUDNN_TYPE_BACKEND_DESCRIPTOR, PROPOSALS, &n,
                                      config) != CUDNN_STATUS_SUCCESS) {
        return;
    }
    for (int64_t i = 0; i < n && i < PROPOSALS && !try_config(b, config[i], engine); i++) {
    }
}

static cvx_status remember(cvx_cudnn *c, cvx_cudnn_plan *p)
{
    cvx_cudnn_plan **more = realloc(c->plans, (size_t)(c->n_plans + 1) * sizeof *more);

    if (more == NULL) {
        free_plan(c, p);
        return cvx_fail(CVX_ENOMEM, "no memory for a plan of cuDNN's");
    }
    c->plans = more;
    c->plans[c->n_plans++] = p;
    return CVX_OK;
}

/* Whether a failure means that the library lacks the graph; any other is a fault. */
static bool is_lack(cudnnStatus_t rc)
{
    return (int)rc / 1000 == CUDNN_STATUS_NOT_SUPPORTED / 1000;
}

cvx_status cvx_cudnn_end(cvx_cudnn *c, cvx_cudnn_builder *b, const cudnnBackendDescriptor_t *ops,
                         int n, const cvx_cudnn_plan **out)
{
    cudnnBackendDescriptor_t graph = cvx_cudnn_make(b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);

    cvx_cudnn_set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, n, ops);
    if (c->handle != NULL) {
        cvx_cudnn_set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &c->handle);
    }
    cvx_cudnn_finish(b, graph, "a graph");
    ask(b, graph, CUDNN_HEUR_MODE_A);
    if (b->plan->plan == NULL) {
        ask(b, graph, CUDNN_HEUR_MODE_FALLBACK);
    }
    if (b->status != CUDNN_STATUS_SUCCESS && !is_lack(b->status)) {
        cvx_status st = told(c, b->status, b->step);
        free_plan(c, b->plan);
        return st;
    }
    CVX_RETURN_IF(remember(c, b->plan));
    *out = b->plan->plan != NULL ? b->plan : NULL;
    return CVX_OK;
}

int64_t cvx_cudnn_runs(const cvx_cudnn *c)
{
    return c->runs;
}

size_t cvx_cudnn_workspace(const cvx_cudnn_plan *p)
{
    return (size_t)p->workspace;
}

cvx_status cvx_cudnn_run(cvx_cuda *s, cvx_cudnn *c, const cvx_cudnn_plan *p, int n,
                         const int64_t *ids, void *const *operands, int slot)
{
    const cvx_cudnn_library *l = &c->lib;
    cudnnBackendDescriptor_t pack = NULL;
    void *room = NULL;

    if (p->workspace > 0) {
        CVX_RETURN_IF(cvx_cuda_scratch(s, slot, &room, (size_t)p->workspace));
    }
    cudnnStatus_t rc = l->BackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    const struct {
        cudnnBackendAttributeName_t name;
        cudnnBackendAttributeType_t type;
        int64_t n;
        const void *values;
    } all[] = {{CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, ids},
               {CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, operands},
               {CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &room}};
    for (size_t i = 0; i < sizeof all / sizeof *all && rc == CUDNN_STATUS_SUCCESS; i++) {
        rc = l->BackendSetAttribute(pack, all[i].name, all[i].type, all[i].n, all[i].values);
    }
    rc = rc == CUDNN_STATUS_SUCCESS ? l->BackendFinalize(pack) : rc;
    rc = rc == CUDNN_STATUS_SUCCESS ? l->BackendExecute(c->handle, p->plan, pack) : rc;
    cvx_status st = told(c, rc, "running a plan");
    c->runs++;
    if (pack != NULL) {
        l->BackendDestroyDescriptor(pack);
    }
    return st == CVX_OK ? cvx_cuda_launched(s, "a plan of cuDNN's") : st;
}

#else

static const char *const none = "cuDNN: this build was made without its headers (9.13 or newer)";

cvx_status cvx_cudnn_open(cvx_cudnn **out, const char *device)
{
    (void)out;
    (void)device;
    return cvx_fail(CVX_EUNSUPPORTED, "%s", none);
}

void cvx_cudnn_close(cvx_cudnn *c)
{
    (void)c;
}

cvx_status cvx_cudnn_of(cvx_cuda *s, cvx_cudnn **out)
{
    (void)s;
    return cvx_cudnn_open(out, NULL);
}

bool cvx_cudnn_usable(char what[160])
{
    snprintf(what, 160, "%s", none);
    return false;
}

#endif
