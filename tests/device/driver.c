/* A stand-in for the driver's library (libcuda.so.1) for one purpose: cuDNN compiles its kernels without a device, given one's
 * properties, but then wants to load them. Loading succeeds here, and there is no device. tests/device/plans.c uses it. */
#include <stdint.h>

/* cuGetErrorName and the like tell nothing else. */
#define UNKNOWN "a stand-in for the driver"

enum { OK = 0, NO_DEVICE = 100 };

int cuInit(unsigned flags);
int cuInit(unsigned flags)
{
    (void)flags;
    return NO_DEVICE;
}

int cuDriverGetVersion(int *version);
int cuDriverGetVersion(int *version)
{
    *version = 13000;
    return OK;
}

int cuLibraryLoadData(void **library, const void *code);
int cuLibraryLoadData(void **library, const void *code)
{
    *library = (void *)(uintptr_t)code;
    return code != 0 ? OK : NO_DEVICE;
}

int cuLibraryGetKernel(void **kernel, void *library, const char *name);
int cuLibraryGetKernel(void **kernel, void *library, const char *name)
{
    (void)library;
    *kernel = (void *)(uintptr_t)name;
    return OK;
}

int cuKernelGetAttribute(int *value, int what, void *kernel, int device);
int cuKernelGetAttribute(int *value, int what, void *kernel, int device)
{
    (void)what, (void)kernel, (void)device;
    *value = 0;
    return OK;
}

int cuOccupancyMaxPotentialClusterSize(int *n, void *kernel, const void *config);
int cuOccupancyMaxPotentialClusterSize(int *n, void *kernel, const void *config)
{
    (void)kernel, (void)config;
    *n = 8;
    return OK;
}

int cuDeviceGetCount(int *n);
int cuDeviceGetCount(int *n)
{
    *n = 0;
    return OK;
}

static int tell(const char **text)
{
    *text = UNKNOWN;
    return OK;
}
int cuGetErrorString(int e, const char **text);
int cuGetErrorString(int e, const char **text)
{
    (void)e;
    return tell(text);
}
int cuGetErrorName(int e, const char **text);
int cuGetErrorName(int e, const char **text)
{
    (void)e;
    return tell(text);
}

/* What the library looks up, and calls only with a device. */
#define NEVER(name)                                                                                \
    int name(void);                                                                                \
    int name(void)                                                                                 \
    {                                                                                              \
        return NO_DEVICE;                                                                          \
    }
NEVER(cuLaunchKernel)
NEVER(cuLaunchKernelEx)
NEVER(cuLaunchCooperativeKernel)
NEVER(cuLinkCreate)
NEVER(cuLinkAddData)
NEVER(cuLinkComplete)
NEVER(cuLinkDestroy)
NEVER(cuDeviceGet)
NEVER(cuCtxGetLimit)
NEVER(cuCtxPushCurrent)
NEVER(cuCtxPopCurrent)
NEVER(cuCtxGetCurrent)
NEVER(cuStreamGetCtx)
NEVER(cuLibraryLoadFromFile)
NEVER(cuModuleUnload)
int cuLibraryUnload(void *library);
int cuLibraryUnload(void *library)
{
    (void)library;
    return OK;
}
int cuKernelSetAttribute(int what, int value, void *kernel, int device);
int cuKernelSetAttribute(int what, int value, void *kernel, int device)
{
    (void)what, (void)value, (void)kernel, (void)device;
    return OK;
}
