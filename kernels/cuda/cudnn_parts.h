/* What the files of cudnn.h share: descriptors of the backend API, and plans. */
#ifndef CVX_KERNELS_CUDA_CUDNN_PARTS_H
#define CVX_KERNELS_CUDA_CUDNN_PARTS_H

#include <cudnn.h>

#include "kernels/cuda/cudnn.h"

/* The entry points, as members of a struct. */
#define CVX_CUDNN_FUNCTIONS(F)                                                                     \
    F(GetVersion)                                                                                  \
    F(GetLastErrorString)                                                                          \
    F(Create)                                                                                      \
    F(Destroy)                                                                                     \
    F(SetStream)                                                                                   \
    F(BackendCreateDescriptor)                                                                     \
    F(BackendDestroyDescriptor)                                                                    \
    F(BackendSetAttribute)                                                                         \
    F(BackendGetAttribute)                                                                         \
    F(BackendFinalize)                                                                             \
    F(BackendExecute)
typedef struct cvx_cudnn_library {
#define CVX_CUDNN_MEMBER(name) __typeof__(cudnn##name) *name;
    CVX_CUDNN_FUNCTIONS(CVX_CUDNN_MEMBER)
#undef CVX_CUDNN_MEMBER
} cvx_cudnn_library;

/* Numbers that tell plans apart, the first one the graph's kind. */
#define CVX_CUDNN_KEY 28
/* Operands of a graph, and descriptors that one may need. */
#define CVX_CUDNN_OPERANDS 6
#define CVX_CUDNN_DESCRIPTORS 48

struct cvx_cudnn_plan {
    int64_t key[CVX_CUDNN_KEY];
    cudnnBackendDescriptor_t plan; /* NULL: the library has none */
    int64_t workspace;
    cudnnBackendDescriptor_t own[CVX_CUDNN_DESCRIPTORS]; /* all that were made for it */
    int n_own;
};

struct cvx_cudnn {
    void *so;
    cvx_cudnn_library lib;
    cudnnHandle_t handle;            /* NULL for a device that need not be there */
    cudnnBackendDescriptor_t device; /* its properties then, else NULL */
    cvx_cudnn_plan **plans;
    int n_plans;
    int64_t runs;
};

/* A graph under construction. After a failure all calls do nothing; `status` and `step` (static) tell the first one. */
typedef struct cvx_cudnn_builder {
    const cvx_cudnn *c;
    cvx_cudnn_plan *plan;
    cudnnStatus_t status;
    const char *step;
} cvx_cudnn_builder;

/* A descriptor, which lives as long as the plan; NULL after a failure. */
cudnnBackendDescriptor_t cvx_cudnn_make(cvx_cudnn_builder *b, cudnnBackendDescriptorType_t type);
void cvx_cudnn_set(cvx_cudnn_builder *b, cudnnBackendDescriptor_t d,
                   cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t n,
                   const void *values);
/* Another descriptor as an attribute. */
void cvx_cudnn_link(cvx_cudnn_builder *b, cudnnBackendDescriptor_t d,
                    cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t to);
void cvx_cudnn_finish(cvx_cudnn_builder *b, cudnnBackendDescriptor_t d, const char *step);

typedef struct cvx_cudnn_tensor {
    int64_t id;
    cudnnDataType_t type;
    int n;
    const int64_t *dim, *stride;
    int64_t align; /* bytes; 0: between two operations, nowhere in memory */
    bool by_value; /* a number that the host gives */
} cvx_cudnn_tensor;
cudnnBackendDescriptor_t cvx_cudnn_make_tensor(cvx_cudnn_builder *b, const cvx_cudnn_tensor *t);

/* The remembered plan of this key; else NULL. */
const cvx_cudnn_plan *cvx_cudnn_find(const cvx_cudnn *c, const int64_t key[CVX_CUDNN_KEY]);
/* An empty plan of this key. */
cvx_status cvx_cudnn_begin(cvx_cudnn *c, cvx_cudnn_builder *b,
                           const int64_t key[CVX_CUDNN_KEY]) CVX_CHECK;
/* The graph of these operations becomes the best plan that the library has, or none, and is remembered. */
cvx_status cvx_cudnn_end(cvx_cudnn *c, cvx_cudnn_builder *b, const cudnnBackendDescriptor_t *ops,
                         int n, const cvx_cudnn_plan **out) CVX_CHECK;

/* Queues a plan on the compute stream. Operands in the order of their ids; scratch slot for the workspace. */
cvx_status cvx_cudnn_run(cvx_cuda *s, cvx_cudnn *c, const cvx_cudnn_plan *p, int n,
                         const int64_t *ids, void *const *operands, int slot) CVX_CHECK;

#endif
